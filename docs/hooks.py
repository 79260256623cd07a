"""What mkdocs does to a page before it renders it."""

from __future__ import annotations


def on_page_markdown(markdown: str, **_: object) -> str:
    """Make the links of the files in the root, which lead into `docs/`, right for the site."""
    return markdown.replace("](docs/", "](")
