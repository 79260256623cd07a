"""`NAME_image`: image files in, labels out, by the client's own code in a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from seresnext101_triton.client import AsyncClassifier, Classifier, Connection, ImageOptions
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.contract import PIXELS
from seresnext101_triton.client.errors import (
    ClientError,
    ContractError,
    ImageError,
    ModelUnavailable,
    RequestRejected,
    UsageError,
)
from seresnext101_triton.client.images import ImageSource, load_image, sample_photographs
from seresnext101_triton.client.page.asking import Target, classify_files, usable_models
from seresnext101_triton.client.server_decoding import ServerSide
from seresnext101_triton.client.server_side import PREPROCESS_PREFIX
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.serving import ImageInput
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, PREPROCESSING, QUIET, tiny_request
from tests.server.varied import varied_images

CAT, ROCKET = (str(path) for path in sample_photographs() if path.stem in ("chelsea", "rocket"))
PIXEL_CONTRACT = replace(PREPROCESSING, layout=PIXELS)
BAD = {
    "empty": b"",
    "text": b"not an image at all",
    "truncated": Path(CAT).read_bytes()[:9000],
    "bomb": b"P6 60000 60000 255\n",
}


@pytest.fixture(scope="module")
def files_repository(repository, pixel_models, tmp_path_factory) -> Path:
    """Models that take files as BYTES, and one that takes a file as UINT8."""
    root = tmp_path_factory.mktemp("files") / "models"
    for name in ("tiny_onnx", "tiny_openvino"):
        shutil.copytree(repository / name, root / name)
    shutil.copytree(pixel_models[1].folder.parent, root / pixel_models[1].model)
    values = tiny_request(root, formats=("onnx", "openvino"), image_input=ImageInput())
    pixels = tiny_request(
        root,
        formats=("onnx",),
        preprocessing=PIXEL_CONTRACT,
        image_input=ImageInput("uint8", instances=1),
    )
    assert not any(outcome.made for outcome in export(values, QUIET) + export(pixels, QUIET))
    return root


@pytest.fixture(scope="module")
def files_server(files_repository):
    with Server(files_repository, ports=FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module", params=["grpc", "http"])
def url(request, files_server) -> str:
    host = files_server.url.rpartition(":")[0]
    return (
        files_server.url if request.param == "grpc" else f"http://{host}:{files_server.ports.http}"
    )


def rows(images: list[bytes]) -> np.ndarray:
    return np.array(images, np.object_)[:, None]


def test_answers_are_the_clients_own_bit_for_bit(url):
    """Of 300 different images, alone over gRPC, and with others' in a request over HTTP."""
    images = varied_images(300)
    assert len(set(images)) == 300
    together = 4 if url.startswith("http") else 1
    with Classifier(url, "tiny_onnx") as classifier, Connection(url) as connection:
        model = connection.describe("tiny_onnx_image")
        for start in range(0, len(images), together):
            part = images[start : start + together]
            prepared = np.stack([classifier.prepare(image) for image in part])
            found = connection.infer(model, rows(part))
            assert found.tobytes() == classifier.infer(prepared).tobytes(), start


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", ["tiny_onnx", "tiny_openvino"])
def test_the_classes_of_each_image_come_in_a_row_of_their_own(model, batch, url):
    """Also where Triton ranks all images of a request in one row, without a batcher."""
    images = varied_images(batch)
    with Classifier(url, model) as classifier, Connection(url) as connection:
        found = connection.infer_top(connection.describe(f"{model}_image"), rows(images), 3)
        prepared = np.stack([classifier.prepare(image) for image in images])
        assert found.shape == (batch, 3)
        assert (found == connection.infer_top(classifier.model, prepared, 3)).all()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_fails_its_own_request_with_the_clients_message(kind, url):
    with (
        Classifier(url, "tiny_onnx") as here,
        Classifier(url, "tiny_onnx", server_side="yes") as there,
    ):
        assert there.model.name == "tiny_onnx_image"
        with pytest.raises(ImageError) as expected:
            here.classify(BAD[kind])
        with pytest.raises(ImageError) as found:
            there.classify(BAD[kind])
        assert str(found.value) == str(expected.value)
        assert there.classify(CAT) == here.classify(CAT)


def test_the_server_says_which_image_of_a_request_is_bad(url):
    with Connection(url) as connection:
        model = connection.describe("tiny_onnx_image")
        with pytest.raises(RequestRejected, match="ImageError: image 2 of 3: 19 bytes is not an"):
            connection.infer(model, rows([varied_images(1)[0], BAD["text"], b""]))


def test_a_stream_goes_on_and_names_the_bad_images(url, tmp_path):
    bad = {}
    for name, content in BAD.items():
        bad[name] = tmp_path / f"{name}.jpg"
        bad[name].write_bytes(content)
    array = np.zeros((9, 7, 3), np.uint8)
    images: list[ImageSource] = [CAT, *bad.values(), "/nowhere.jpg", array, ROCKET]
    answers = []
    sides: tuple[ServerSide, ...] = "no", "yes"
    for side in sides:
        with Classifier(url, "tiny_onnx", server_side=side) as classifier:
            answers.append(list(classifier.stream(images, top=2, batch=1)))
    for here, there in zip(*answers, strict=True):
        assert there.predictions == here.predictions
        assert str(there.error) == str(here.error)
    assert [answer.error is None for answer in answers[0]] == [True, *[False] * 5, True, True]


def test_pillow_images_and_standard_forms_are_sent_without_loss(url):
    grey = Image.new("L", (31, 47), 77)
    turned = Image.open(BytesIO(varied_images(7)[6]))
    with Classifier(url, "tiny_onnx") as here, Classifier(url, "tiny_onnx_image") as there:
        array, content = np.asarray(load_image(CAT)), Path(CAT).read_bytes()
        images: tuple[ImageSource, ...] = grey, turned, array, content
        for image in images:
            assert there.classify(image) == here.classify(image)


def test_asyncio_has_it_too(url):
    async def run() -> None:
        async with AsyncClassifier(url, "tiny_onnx", server_side="yes") as classifier:
            assert classifier.model.name == "tiny_onnx_image"
            answers = [each async for each in classifier.stream([CAT, "/nowhere.jpg", BAD["text"]])]
            assert [bool(answer.predictions) for answer in answers] == [True, False, False]
            assert "19 bytes is not an image" in str(answers[2].error)
            with pytest.raises(ImageError, match="19 bytes is not an image"):
                await classifier.classify(BAD["text"])
            assert await classifier.classify(CAT) == answers[0].predictions

    asyncio.run(run())


def test_one_file_as_uint8(url):
    """For servers whose Python backend cannot take BYTES."""
    with (
        Classifier(url, "tiny_onnx_uint8") as here,
        Classifier(url, "tiny_onnx_uint8", server_side="yes") as there,
    ):
        assert there.model.image_input == "uint8"
        images: list[ImageSource] = [CAT, ROCKET, *varied_images(5)]
        for image in images:
            assert there.classify(image) == here.classify(image)
        for content in (BAD["text"], BAD["truncated"]):
            with pytest.raises(ImageError) as expected:
                here.classify(content)
            with pytest.raises(ImageError) as found:
                there.classify(content)
            assert str(found.value) == str(expected.value)


def test_the_page_sends_such_a_model_the_file(files_server):
    """The times of an ensemble are those of its parts together."""
    names = ["tiny_onnx", "tiny_onnx_image", "tiny_onnx_uint8_image"]
    assert set(names) < set(usable_models(Target(files_server.url)))
    (picture,) = classify_files([Path(CAT)], names, Target(files_server.url))
    prepared, *files = picture.replies
    assert not any(reply.error for reply in files)
    assert files[0].predictions == prepared.predictions
    assert all(reply.compute_s and reply.compute_s > 0 for reply in picture.replies)


def test_auto_takes_either_and_the_answers_are_the_same(files_server):
    with Classifier(files_server.url, "tiny_onnx", server_side="auto") as classifier:
        assert classifier.model.name in ("tiny_onnx", "tiny_onnx_image")
        chosen = classifier.classify(CAT)
    with Classifier(files_server.url, "tiny_onnx") as classifier:
        assert classifier.classify(CAT) == chosen
    draft = ImageOptions(draft="model")  # a server does not do so
    with Classifier(
        files_server.url, "tiny_onnx", server_side="auto", image_options=draft
    ) as classifier:
        assert classifier.model.name == "tiny_onnx"


@pytest.mark.parametrize(
    "options", [{"draft": 64}, {"fast": True}, {"orient": False}, {"max_pixels": 5}]
)
def test_options_that_the_server_does_not_know_are_refused(options, files_server):
    cases: tuple[tuple[str, ServerSide], ...] = ("tiny_onnx", "yes"), ("tiny_onnx_image", "no")
    for model, side in cases:
        with pytest.raises(UsageError, match=f"`{next(iter(options))}` cannot be chosen"):
            Classifier(
                files_server.url, model, server_side=side, image_options=ImageOptions(**options)
            )


def test_a_server_without_such_a_model_says_how_to_get_one(server, files_server):
    with pytest.raises(ModelUnavailable, match="by `python -m export` with `image_input`"):
        Classifier(server.url, "tiny_onnx", server_side="yes")
    with Classifier(server.url, "tiny_onnx", server_side="auto") as classifier:
        assert classifier.model.name == "tiny_onnx"
    with pytest.raises(UsageError, match="`server_side` must be one of no, yes, auto"):
        Classifier(files_server.url, "tiny_onnx", server_side="maybe")  # type: ignore[arg-type]


def test_the_command_line_has_it(files_server, capsys, tmp_path):
    arguments = ["--url", files_server.url, "--model", "tiny_onnx", "--server-side", "yes"]
    assert main(["classify", CAT, "--json", *arguments]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["model"] == "tiny_onnx_image"
    assert main(["bulk", CAT, ROCKET, "--output", str(tmp_path / "a.jsonl"), *arguments]) == 0
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    first = next(record for record in records if record["image"] == CAT)
    assert first["predictions"][0] == answer["images"][0]["predictions"][0]
    (tmp_path / "truth.csv").write_text(f"{CAT},285\n")
    assert main(["evaluate", str(tmp_path / "truth.csv"), *arguments]) == 0
    assert main(["classify", CAT, "--draft", *arguments]) == 2
    assert "--draft cannot be chosen" in capsys.readouterr().err
    assert main(["describe", "tiny_onnx_image", "--url", files_server.url]) == 0
    assert "bytes [1], the content of an image file" in capsys.readouterr().out


def test_many_callers_of_whom_some_send_garbage(files_server):
    """Every good request gets its right answer, every bad one its own error; memory stays flat."""
    images = [Path(CAT).read_bytes(), Path(ROCKET).read_bytes(), *varied_images(10)]
    with Classifier(files_server.url, "tiny_onnx") as here:
        expected = {image: here.classify(image, top=1)[0] for image in images}
    wrong: list[str] = []
    stop = threading.Event()

    def call(number: int) -> None:
        with Classifier(files_server.url, "tiny_onnx_image") as classifier:
            for turn in range(1 << 30):
                if stop.is_set():
                    return
                if (number + turn) % 10 == 0:
                    bad = b"garbage of %d in %d" % (number, turn)
                    try:
                        classifier.classify(bad)
                        wrong.append(f"{bad!r} was classified")
                    except ClientError as error:
                        if not str(error).startswith(f"{len(bad)} bytes is not an image"):
                            wrong.append(str(error))
                    continue
                image = images[(number + turn) % len(images)]
                found, known = classifier.classify(image, top=1)[0], expected[image]
                # Another batch may round otherwise, in the sixth decimal.
                if found.index != known.index or abs(found.probability - known.probability) > 1e-5:
                    wrong.append(f"{found} is not {known}")

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    before = memory_of(files_server)
    time.sleep(5)
    after = memory_of(files_server)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert after < before + (200 << 20)


def memory_of(server: Server) -> int:
    """Private memory of a server and its stubs, in bytes."""
    process = psutil.Process(server.pid)
    return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


def test_requests_of_wrong_shapes_are_refused(files_server):
    with Connection(files_server.url) as connection:
        model = connection.describe("tiny_onnx_image")
        with pytest.raises(UsageError, match=r"takes object \[N, 1\] with N at least 1"):
            connection.infer(model, np.zeros((1, 3, 64, 64), np.float32))
        with pytest.raises(RequestRejected):
            connection.infer(model, rows([b"x"] * 5))  # the maximum batch is 4
        with pytest.raises(ContractError, match="cannot be used by this client"):
            connection.describe(next(iter(_preprocess_models(connection))))


def _preprocess_models(connection: Connection) -> list[str]:
    return [name for name in connection.ready_models() if name.startswith(PREPROCESS_PREFIX)]


def test_the_only_model_is_the_one_that_others_decode_for(files_repository):
    with Server(files_repository, ports=FREE_PORTS, only=["tiny_onnx_image"]) as running:
        assert len(running.models) == 3  # the ensemble brings what it runs
        with Classifier(running.url) as classifier:
            assert classifier.model.name == "tiny_onnx"
