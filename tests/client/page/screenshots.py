"""Draws the pictures of the page in the documentation: `make screenshots`.

The models are a small network that has really learnt to read digits, in two formats.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, Page

from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.server.launcher import Server
from tests.client.page.browsing import choose, drop, models_listed, opened
from tests.client.page.conftest import chromium, page_at
from tests.conftest import FREE_PORTS, QUIET
from tests.trained import digits_in, digits_request

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LARGEST = 150_000  # bytes of one picture


def main(target: Path) -> None:
    """Draw all pictures.

    Args:
        target: The folder to write to.
    """
    with TemporaryDirectory() as scratch, chromium() as browser:
        folder = Path(scratch)
        digits = digits_in(folder / "digits")
        (seven, *_), (three, *_) = (sorted((digits.unseen / n).glob("*.png")) for n in "73")
        labels = folder / "labels.txt"
        labels.write_text("".join(f"{name}\n" for name in _DIGITS))
        formats = ("onnx", "torchscript")
        changes = {"precision": "fp32", "quantization": None, "labels": str(labels)}
        export(digits_request(digits, folder / "models", formats=formats, **changes), QUIET)
        text = folder / "notes.jpg"
        text.write_text("This is no picture.")

        def compare(page: Page) -> None:
            models_listed(page)
            choose(page, "Compare with", "digits_torchscript")
            drop(page, seven)
            page.locator(".reply").nth(1).wait_for()

        def refuse(page: Page) -> None:
            models_listed(page)
            drop(page, three, text)

        with Server(folder / "models", ports=FREE_PORTS) as server:
            with page_at(server.url, folder=folder) as (url, _):
                _draw(browser, url, target / "page.webp", compare)
                _draw(browser, url, target / "page-narrow.webp", refuse, 400, "dark")
                stopped = server.url
        with page_at(stopped, "--retries", "0", folder=folder) as (url, _):
            _draw(browser, url, target / "page-no-server.webp", _ask_nobody, height=520)


def _ask_nobody(page: Page) -> None:
    page.set_input_files("#pictures input[type=file]", sample_photographs()[0])
    page.locator("#answers .error").wait_for()


def _draw(
    browser: Browser,
    url: str,
    path: Path,
    prepare: Callable[[Page], None],
    width: int = 1000,
    scheme: str = "light",
    height: int = 400,
) -> None:
    """Draw the page once it shows what `prepare` has done."""
    with opened(browser, url, width, height, scheme) as page:
        prepare(page)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(1000)  # animations of the page
        content = page.screenshot(full_page=True, animations="disabled")
    Image.open(BytesIO(content)).save(path, quality=80, method=6)
    size = path.stat().st_size
    assert size < _LARGEST, f"{path} has {size} bytes"
    print(f"{path}: {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
