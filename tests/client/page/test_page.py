"""The page in Chromium, with the real tritonserver."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from tests.client.page.browsing import (
    DEADLINE_S,
    answered,
    choose,
    drop,
    models_listed,
    opened,
    predictions,
    stages,
)
from tests.client.page.conftest import PROJECT, page_at

PHOTOGRAPH = next(path for path in sample_photographs() if path.name == "chelsea.jpg")


def expected(server, model: str) -> list[tuple[str, str]]:
    """What the client itself prints for the photograph."""
    with Classifier(server.url, model) as classifier:
        return [(each.label, f"{each.probability:.1%}") for each in classifier.classify(PHOTOGRAPH)]


def test_a_picture_is_classified(server, live, browser):
    with opened(browser, live) as page:
        models_listed(page)
        choose(page, "Model", "tiny_onnx")
        (card,) = drop(page, PHOTOGRAPH).all()
        reply = card.locator(".reply")
        assert reply.locator("h3").inner_text() == "tiny_onnx version 1"
        assert predictions(reply) == expected(server, "tiny_onnx")
        assert "untrained" in reply.locator(".warning").inner_text()
        times = stages(reply)
        parts = ["upload", "decode", "prepare", "queue", "compute", "transfer"]
        assert list(times) == [*parts, "total"]
        assert times["compute"] > 0 and times["upload"] > 0
        assert times["total"] == pytest.approx(sum(times[part] for part in parts), abs=0.4)
        assert card.locator("figcaption").inner_text() == "451 × 300 pixels"


def test_two_models_stand_side_by_side(server, live, browser):
    """The pictures that are on the page are classified again when a second model is chosen."""
    with opened(browser, live) as page:
        models_listed(page)
        choose(page, "Model", "tiny_onnx")
        drop(page, PHOTOGRAPH)
        choose(page, "Compare with", "tiny_torchscript")
        page.locator(".reply").nth(1).wait_for()
        first, second = answered(page).locator(".reply").all()
        assert predictions(first) == expected(server, "tiny_onnx")
        assert predictions(second) == expected(server, "tiny_torchscript")
        places = first.bounding_box(), second.bounding_box()
        assert places[0] and places[1] and places[0]["y"] == places[1]["y"]
        verdict = page.locator(".verdict").inner_text()
        assert verdict == f"Both models say: {expected(server, 'tiny_onnx')[0][0]}"


def test_a_refused_file_is_one_sentence_and_stops_no_other(live, browser, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with opened(browser, live) as page:
        refused, good = drop(page, text, PHOTOGRAPH).all()
        assert refused.locator(".error").inner_text() == (
            "text.jpg is not an image that Pillow can read: it begins with b'no pictu'"
        )
        assert len(predictions(good)) == 5


def test_a_file_that_is_too_large_is_not_uploaded(live, browser, tmp_path):
    large = tmp_path / "large.bmp"
    large.write_bytes(bytes(2 << 20))
    with opened(browser, live) as page:
        page.set_input_files("#pictures input[type=file]", large)
        page.get_by_text("exceed the maximum allowed size of 1").wait_for()
        assert not page.locator("#answers article").count()


def test_it_fits_a_narrow_screen(live, browser):
    with opened(browser, live, width=400, scheme="dark") as page:
        models_listed(page)
        choose(page, "Compare with", "tiny_openvino")
        drop(page, PHOTOGRAPH)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for reply in page.locator(".reply").all():
            place = reply.bounding_box()
            assert place and place["x"] >= 0 and place["x"] + place["width"] <= 400


def test_it_works_from_the_keyboard(live, browser):
    """With Tab, Enter and the arrows one chooses a model, opens the files and asks."""
    with opened(browser, live) as page:
        models_listed(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.ariaLabel") == "Model"
        before = page.get_by_label("Model", exact=True).input_value()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('input[aria-label=Model]').value !== before",
            arg=before,
        )
        chosen = page.get_by_label("Model", exact=True).input_value()
        with page.expect_file_chooser() as chooser:
            _tab_to(page, "Click to upload or drop files")
            page.keyboard.press("Enter")
        assert chooser.value.is_multiple()
        _tab_to(page, "Try the sample photographs")
        page.keyboard.press("Enter")
        assert answered(page).count() == len(sample_photographs())
        assert page.locator("h3").first.inner_text() == f"{chosen} version 1"


def _tab_to(page, name: str) -> None:
    """Press Tab until the element with this name has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        if page.evaluate(f"{focused}.ariaLabel || {focused}.innerText").strip() == name:
            return
    raise AssertionError(f"Tab does not reach {name!r}")


def test_the_camera(live, browser):
    with opened(browser, live) as page:
        models_listed(page)
        page.get_by_role("tab", name="Camera").click()
        page.locator("#camera button:visible").first.click()
        page.wait_for_function(
            "[...document.querySelectorAll('#camera video')].some(video => video.videoWidth)"
        )
        page.get_by_label("capture photo").click()
        (card,) = answered(page).all()
        assert len(predictions(card)) == 5


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """The addresses of a page and of the server that it asks, where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        triton = f"127.0.0.1:{unused.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("dead")
    with page_at(triton, "--retries", "0", folder=folder) as (url, process):
        yield url, triton
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr and process.stderr.read() == ""
    assert list(folder.iterdir()) == []


def test_a_dead_server_is_one_sentence(dead, browser):
    url, triton = dead
    sentence = rf"no Triton server answers at {triton}.*python -m server"
    with opened(browser, url) as page:
        assert re.search(sentence, page.locator("#server .error").inner_text())
        page.get_by_role("button", name="Try the sample photographs").click()
        page.locator("#answers .error").wait_for()
        assert re.search(sentence, page.locator("#answers .error").inner_text())


def ask(url: str, method: str, path: str, body: bytes | None = None, **headers: str):
    """One request: the status, the headers and the body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_other_sites_cannot_use_it(live):
    assert ask(live, "GET", "/", Host="attacker.example")[0] == 400
    status, _, body = ask(live, "POST", "/gradio_api/upload", b"", Origin="http://attacker.example")
    assert (status, body) == (403, b"Only this page itself may send this request.")
    status, headers, _ = ask(live, "GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_uploads_are_bounded(live):
    too_much = str(18 << 20)
    status, _, body = ask(live, "POST", "/gradio_api/upload", None, Content_Length=too_much)
    assert status == 413 and b"together they have more than 16 MB" in body
    chunked = {"Transfer_Encoding": "chunked"}
    assert ask(live, "POST", "/gradio_api/upload", b"0\r\n\r\n", **chunked)[0] == 411


def test_a_port_in_use_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "client", "web", "--port", port]
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: the page cannot listen on 127.0.0.1 port {port}: Address already in use. Name "
        "another --address or --port\n"
    )


def test_without_gradio_it_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['gradio'] = None\n"
        "from seresnext101_triton.client.cli import main\n"
        "sys.exit(main(['web', '--port', '0']))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"error: the page needs gradio.*run it by `make web`.*\n", result.stderr)
