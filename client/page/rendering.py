"""Writes what the models said as HTML. All text of files and servers is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from seresnext101_triton.client.page.asking import Picture, Reply
from seresnext101_triton.client.text import printable

UNTRAINED = "The weights are untrained: the labels mean nothing."
# Gradio reads `${...}` and `{{...}}` in HTML as templates.
_TEMPLATES = {"$": "&#36;", "{": "&#123;", "}": "&#125;"}


def answers(pictures: Sequence[Picture], uploads: Mapping[Path, float], pending: int = 0) -> str:
    """All pictures with their answers.

    Args:
        pictures: What is answered so far.
        uploads: Time of the upload of each file that was uploaded, in seconds.
        pending: How many pictures are still to be answered.
    """
    cards = "".join(_card(picture, uploads.get(picture.path)) for picture in pictures)
    waiting = f'<p class="waiting">{_count(pending)} to go…</p>' if pending else ""
    return _region(cards + waiting, busy=pending > 0)


def sentence(text: str) -> str:
    """One sentence in place of the answers, for example that no server answers."""
    return _region(_error(text))


def hint(text: str) -> str:
    """A sentence that is no error."""
    return _region(f'<p class="waiting">{_text(text)}</p>')


def _region(content: str, *, busy: bool = False) -> str:
    # A screen reader reads what is new in it.
    state = str(busy).lower()
    return f'<section class="answers" aria-live="polite" aria-busy="{state}">{content}</section>'


def _card(picture: Picture, upload_s: float | None) -> str:
    name = _text(picture.path.name)
    if picture.error:
        return f'<article class="refused"><h2>{name}</h2>{_error(picture.error)}</article>'
    source = base64.b64encode(picture.thumbnail).decode()
    replies = "".join(_reply(reply, picture, upload_s) for reply in picture.replies)
    return (
        f'<article class="card"><h2>{name}</h2>'
        f'<figure><img alt="" src="data:image/webp;base64,{source}">'
        f"<figcaption>{picture.width} × {picture.height} pixels</figcaption></figure>"
        f'<div class="said">{_comparison(picture.replies)}'
        f'<div class="replies">{replies}</div></div></article>'
    )


def _comparison(replies: Sequence[Reply]) -> str:
    """Whether two models agree, in one sentence."""
    first = [reply.predictions[0].label for reply in replies if reply.predictions]
    if len(first) < 2:
        return ""
    if len(set(first)) == 1:
        return f'<p class="verdict">Both models say: <b>{_text(first[0])}</b></p>'
    return '<p class="verdict">The models <b>differ</b>.</p>'


def _reply(reply: Reply, picture: Picture, upload_s: float | None) -> str:
    title = _text(reply.model)
    if reply.version:
        title += f' <span class="version">version {_text(reply.version)}</span>'
    if reply.error:
        return f'<div class="reply"><h3>{title}</h3>{_error(reply.error)}</div>'
    warning = f'<p class="warning">{UNTRAINED}</p>' if reply.untrained else ""
    bars = "".join(
        f'<li><span class="label">{_text(each.label)}</span>'
        f'<span class="share">{each.probability:.1%}</span>'
        f'<span class="bar" style="width:{100 * each.probability:.2f}%"></span></li>'
        for each in reply.predictions
    )
    return (
        f'<div class="reply"><h3>{title}</h3>{warning}<ol>{bars}</ol>'
        f"{_times(reply, picture, upload_s)}</div>"
    )


def _times(reply: Reply, picture: Picture, upload_s: float | None) -> str:
    """The table of the stages. The last row is the sum of the others."""
    rows: list[tuple[str, float | None]] = [
        ("upload", upload_s),
        ("decode", picture.decode_s),
        ("prepare", reply.prepare_s),
    ]
    if reply.queue_s is None or reply.compute_s is None:
        rows.append(("request", reply.request_s))
        note = "The server does not tell its times in queue and compute."
    else:
        rest = max(0.0, reply.request_s - reply.queue_s - reply.compute_s)
        rows += [("queue", reply.queue_s), ("compute", reply.compute_s), ("transfer", rest)]
        others = reply.requests - 1
        note = (
            f"Queue and compute are averages over {reply.requests} requests: others used the model."
            if others
            else ""
        )
    total = sum(seconds or 0.0 for _, seconds in rows)
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td>{_milliseconds(seconds)}</td></tr>'
        for name, seconds in [*rows, ("total", total)]
    )
    caption = "<caption>Time of each stage, in milliseconds</caption>"
    footnote = f'<p class="note">{note}</p>' if note else ""
    return f'<table class="times">{caption}<tbody>{cells}</tbody></table>{footnote}'


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f}"


def _error(text: str) -> str:
    return f'<p class="error" role="alert">{_text(text)}</p>'


def _text(text: str) -> str:
    escaped = html.escape(printable(text))
    return "".join(_TEMPLATES.get(character, character) for character in escaped)


def _count(pictures: int) -> str:
    return "1 picture" if pictures == 1 else f"{pictures} pictures"
