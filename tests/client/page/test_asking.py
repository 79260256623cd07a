"""What the page asks and shows, without a browser and without Gradio."""

from __future__ import annotations

import socket
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from seresnext101_triton.client import Classifier, TransportOptions
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ServerUnreachable
from seresnext101_triton.client.images import ImageOptions, sample_photographs
from seresnext101_triton.client.page import rendering
from seresnext101_triton.client.page.asking import (
    Picture,
    Reply,
    Target,
    classify_files,
    usable_models,
)
from seresnext101_triton.client.page.uploads import MOST_FILES, Uploads


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_answers_as_the_client_does(server, protocol):
    url = f"127.0.0.1:{getattr(server.ports, protocol)}"
    target = Target(url, TransportOptions(protocol))
    models = ["tiny_onnx", "tiny_torchscript"]
    pictures = list(classify_files(sample_photographs(), models, target))
    assert [picture.path for picture in pictures] == sample_photographs()
    for number, model in enumerate(models):
        with Classifier(server.url, model) as classifier:
            expected = [classifier.classify(path) for path in sample_photographs()]
        replies = [picture.replies[number] for picture in pictures]
        assert [reply.predictions for reply in replies] == expected
        for reply in replies:
            assert (reply.model, reply.version, reply.untrained) == (model, "1", True)
            assert reply.requests == 1 and reply.compute_s and reply.queue_s


def test_a_turned_picture_is_turned_once(server, tmp_path):
    """As the EXIF orientation says, which the client itself obeys too."""
    path = tmp_path / "turned.jpg"
    image = Image.open(sample_photographs()[1])
    exif = image.getexif()
    exif[274] = 6
    image.save(path, exif=exif)
    (picture,) = classify_files([path], ["tiny_onnx"], Target(server.url))
    assert (picture.width, picture.height) == image.size[::-1]
    with Classifier(server.url, "tiny_onnx") as classifier:
        assert picture.replies[0].predictions == classifier.classify(path)


def test_the_models_on_offer(server, foreign_server):
    """Models that this client cannot use are not on offer, unless the user names them."""
    assert usable_models(Target(server.url)) == [
        "logits_torchscript",
        "tiny_onnx",
        "tiny_openvino",
        "tiny_torchscript",
    ]
    assert usable_models(Target(foreign_server.url)) == []
    assert usable_models(Target(foreign_server.url, models=("minimal",))) == ["minimal"]


def test_errors_are_parts_of_the_result(server, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(1000))
    target = Target(server.url, images=ImageOptions(max_bytes=999))
    paths = [tmp_path / "large.png", tmp_path / "gone.png", sample_photographs()[0]]
    large, gone, good = classify_files(paths, ["cats", "tiny_onnx"], target)
    assert large.error == "large.png is refused: it has more than 999 bytes"
    assert "No such file" in gone.error
    good = next(
        iter(classify_files([sample_photographs()[0]], ["cats", "tiny_onnx"], Target(server.url)))
    )
    assert "does not serve model 'cats'" in good.replies[0].error
    assert len(good.replies[1].predictions) == 5


def test_a_dead_server_is_asked_once(monkeypatch):
    """Not for every picture, of which each would wait for all retries."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        target = Target(f"127.0.0.1:{unused.getsockname()[1]}", TransportOptions(retries=0))
    with pytest.raises(ServerUnreachable):
        usable_models(target)
    with pytest.raises(ServerUnreachable):
        usable_models(Target(target.url, target.transport, models=("tiny_onnx",)))
    asked = []
    original = Classifier.__init__
    monkeypatch.setattr(
        Classifier,
        "__init__",
        lambda self, *given, **named: asked.append(given) or original(self, *given, **named),
    )
    pictures = list(classify_files(sample_photographs(), ["tiny_onnx"], target))
    assert len({picture.replies[0].error for picture in pictures}) == 1
    assert "no Triton server answers" in pictures[0].replies[0].error
    assert len(asked) == 1


HOSTILE = "<img src=x onerror=alert(1)> ${1+1} {{value}} \x1b[31m \"'&"


def test_text_from_outside_is_text(tmp_path):
    """Gradio reads `${...}` as a template, and a browser reads tags."""
    predictions = [Prediction(0, HOSTILE, 0.5)]
    reply = Reply(HOSTILE, HOSTILE, predictions=predictions)
    failed = Reply("m", error=HOSTILE)
    path = tmp_path / HOSTILE.replace("/", "")
    pictures = [
        Picture(path, 1, 1, b"", 0.0, [reply, failed]),
        Picture(path, error=HOSTILE),
    ]
    page = rendering.answers(pictures, {}) + rendering.sentence(HOSTILE)
    assert "<img src=x" not in page and "\x1b" not in page
    assert "$" not in page and "{" not in page and "}" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt; &#36;&#123;1+1&#125;") == 8


class Words(HTMLParser):
    """The texts of a page, without the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


TIMES = "Time of each stage, in milliseconds"


@pytest.mark.parametrize(
    ("requests", "queue_s", "rows", "note"),
    [
        (1, 0.001, ["queue", "1.0", "compute", "4.0", "transfer", "5.0"], []),
        (
            *(3, 0.001, ["queue", "1.0", "compute", "4.0", "transfer", "5.0"]),
            ["Queue and compute are averages over 3 requests: others used the model."],
        ),
        (
            *(0, None, ["request", "10.0"]),
            ["The server does not tell its times in queue and compute."],
        ),
    ],
)
def test_all_that_a_page_says(tmp_path, requests, queue_s, rows, note):
    labels = [Prediction(0, "cat", 0.875), Prediction(3, "dog", 0.125)]
    reply = Reply(
        "m",
        "1",
        predictions=labels,
        prepare_s=0.002,
        request_s=0.010,
        queue_s=queue_s,
        compute_s=queue_s and 0.004,
        requests=requests,
    )
    other = Reply("n", predictions=labels, untrained=True)
    picture = Picture(tmp_path / "a.png", 3, 2, b"", 0.003, [reply])
    compared = Picture(tmp_path / "b.png", 3, 2, b"", 0.003, [reply, other])
    differing = replace(other, predictions=labels[::-1])
    disagreed = replace(compared, replies=[reply, differing])
    uploads = {picture.path: 2.5}
    stages = [
        TIMES,
        "upload",
        "2500.0",
        "decode",
        "3.0",
        "prepare",
        "2.0",
        *rows,
        "total",
        "2515.0",
    ]
    answer = ["m ", "version 1", "cat", "87.5%", "dog", "12.5%", *stages, *note]
    head = ["a.png", "3 × 2 pixels"]
    assert Words(rendering.answers([picture], uploads)).found == head + answer
    assert Words(rendering.answers([picture, picture], uploads, 1)).found == [
        *(head + answer) * 2,
        "1 picture to go…",
    ]
    assert Words(rendering.answers([], {}, 2)).found == ["2 pictures to go…"]
    said = Words(rendering.answers([compared], {})).found
    assert said[:8] == ["b.png", "3 × 2 pixels", "Both models say: ", "cat", *answer[:4]]
    assert said[said.index("upload") + 1] == "–"
    assert said[said.index("n") :][:2] == ["n", rendering.UNTRAINED]
    said = Words(rendering.answers([disagreed], {})).found
    assert said[2:5] == ["The models ", "differ", "."]
    assert 'style="width:87.50%"' in rendering.answers([picture], {})
    assert 'aria-busy="false"' in rendering.answers([], {})
    assert 'aria-busy="true"' in rendering.answers([], {}, 1)


def test_old_uploads_are_removed(tmp_path):
    """Those that came last stay, as long as they are not too large together."""
    import os

    uploads = Uploads(tmp_path, 10)
    for number in range(MOST_FILES + 4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "picture").write_bytes(bytes(10))
        os.utime(folder / "picture", (number, number))
    uploads.remove_oldest()
    kept = sorted(int(path.parent.name) for path in tmp_path.rglob("picture"))
    assert kept == list(range(4, MOST_FILES + 4))


def test_the_thumbnail_is_small(server, tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((900, 1800, 3), np.uint8)).save(path)
    (picture,) = classify_files([path], [], Target(server.url))
    assert picture.thumbnail[8:12] == b"WEBP" and len(picture.thumbnail) < 10_000
