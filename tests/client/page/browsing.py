"""What a person does on the page, and what one sees there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

DEADLINE_S = 300  # on a loaded machine; an idle one needs a second or two
ANSWERED = "#answers section[aria-busy=false] article"


@contextmanager
def opened(
    browser: Browser, url: str, width: int = 1200, height: int = 900, scheme: str = "light"
) -> Iterator[Page]:
    """The page in a new window of the browser.

    At the end the window must have asked no other host, and no script may have failed.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        permissions=["camera"],
    )
    context.set_default_timeout(1000 * DEADLINE_S)
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda line: failed.append(line.text) if line.type == "error" else None)
    page.goto(url)
    page.wait_for_selector("#answers section")
    try:
        yield page
    finally:
        context.close()
    elsewhere = [each for each in asked if not each.startswith((url, "data:", "blob:"))]
    assert not elsewhere and not failed, (elsewhere, failed)


def models_listed(page: Page) -> None:
    """Wait until the page has asked the server for its models."""
    page.wait_for_function("document.querySelector('input[aria-label=Model]').value")


def choose(page: Page, label: str, model: str) -> None:
    """Choose a model in one of the two lists."""
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=model, exact=True).click()


def drop(page: Page, *paths: Path) -> Locator:
    """Upload pictures, and wait until all are answered."""
    page.set_input_files("#pictures input[type=file]", list(paths))
    return answered(page)


def answered(page: Page) -> Locator:
    """The cards with the answers, once all are there."""
    page.wait_for_selector(ANSWERED)
    return page.locator("#answers article")


def predictions(reply: Locator) -> list[tuple[str, str]]:
    """Label and share of each bar."""
    items = reply.locator("li").all()
    return [
        (each.locator(".label").inner_text(), each.locator(".share").inner_text()) for each in items
    ]


def stages(reply: Locator) -> dict[str, float]:
    """The table of times, in milliseconds; stages without a time are left out."""
    rows: Sequence[Locator] = reply.locator("tr").all()
    cells = {row.locator("th").inner_text(): row.locator("td").inner_text() for row in rows}
    return {name: float(time) for name, time in cells.items() if time != "–"}
