"""Prints what is known of versions: tables for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seresnext101_triton import as_typed
from seresnext101_triton.client.documents import print_json
from seresnext101_triton.client.output import say, standard_output
from seresnext101_triton.client.text import printable
from seresnext101_triton.export.canary import Trial
from seresnext101_triton.export.history import History, Version
from seresnext101_triton.export.operations import Pruned, Switch
from seresnext101_triton.export.verification import Verdict

_STYLES = {"changed": "bold red", "unknown": "yellow", "intact": "green", "no artifact": "dim"}
_DIGITS = 8  # of a sha256, as much as tells two apart


def print_history(found: Sequence[History], *, as_json: bool) -> None:
    """The versions of each model."""
    if as_json:
        print_json([_history_to_json(one) for one in found])
        return
    with standard_output() as file:
        console = Console(file=file, highlight=False)
        for one in found:
            after = (
                "a version that is published next waits for its promotion"
                if one.pinned
                else "a version that is published next is served"
            )
            table = Table(box=None, pad_edge=False, title_justify="left", title_style="")
            table.title = Text.assemble((one.model, "bold"), f" ({after})")
            for name in ("version", "published", "what", "weights", "parity", "size", "served"):
                right = name in ("version", "parity", "size")
                narrow = name not in ("what", "weights")
                table.add_column(name, justify="right" if right else "left", no_wrap=narrow)
            for version in one.versions:
                table.add_row(*map(_text, _cells(version)))
            console.print(table)
            console.print()


def _cells(version: Version) -> tuple[str, ...]:
    served = "now" if version.now else "by policy" if version.by_policy else ""
    facts = version.manifest
    if facts is None:
        return (str(version.number), "", "no manifest", "", "", "", served)
    weights = facts.weights
    return (
        str(version.number),
        facts.created[:16].replace("T", " "),
        f"{facts.format} {facts.precision}",
        f"{weights.kind} {weights.sha256[:_DIGITS]}",
        "unproven" if facts.unproven else f"{facts.parity['relative_error']:.1e}",
        f"{facts.bytes / 1e6:.1f} MB",
        served,
    )


def _history_to_json(one: History) -> dict[str, Any]:
    return {
        "model": one.model,
        "pinned": one.pinned,
        "versions": [
            {
                "version": version.number,
                "by_policy": version.by_policy,
                "now": version.now,
                "manifest": asdict(version.manifest) if version.manifest else None,
            }
            for version in one.versions
        ],
    }


def print_switch(switch: Switch, *, as_json: bool) -> None:
    """What a promotion or a rollback has done."""
    if switch.note:
        say(f"note: {switch.note}")
    if as_json:
        print_json(asdict(switch))
        return
    before = ", ".join(map(str, switch.before)) or "none"
    lines = [f"{switch.model}: version {switch.version} is served (before: {before})"]
    if switch.servers:
        servers = "servers" if len(switch.servers) > 1 else "server"
        lines.append(f"followed by the {servers} at {', '.join(switch.servers)}")
    elif switch.is_shared:
        lines.append("servers with --follow go over within seconds; others at their next start")
    else:
        lines.append("no server of this user serves the model now; the next start follows")
    lines.append(
        "a version that is published next waits for its promotion"
        if switch.pinned
        else "a version that is published next is served"
    )
    _print_lines(lines)


def print_trial(trial: Trial, *, as_json: bool) -> None:
    """What callers got from the version that was tried, and from the served one."""
    if as_json:
        print_json(asdict(trial))
        return
    _print_rows(
        ("version", "requests", "failed", "queue ms", "compute ms"),
        [
            (
                row.version,
                f"{row.requests_per_s * trial.seconds:.0f}",
                str(row.failed),
                *("-" if ms is None else f"{ms:.1f}" for ms in (row.queue_ms, row.compute_ms)),
            )
            for row in trial.rows
        ],
    )
    asked = trial.rows[-1].requests_per_s
    _print_lines(
        [
            f"{trial.model}: all callers get version {trial.before} again",
            "to serve the other one: "
            + as_typed(f"python -m export promote {trial.model} --to {trial.version}")
            if asked
            else f"no caller has used version {trial.version}, so that it was not judged by them",
        ]
    )


def print_pruned(done: Sequence[Pruned], *, as_json: bool) -> None:
    """What was removed, and what was kept."""
    if as_json:
        print_json([asdict(one) for one in done])
        return
    _print_rows(
        ("model", "removed", "kept", "of these served"),
        [
            (one.model, *(_numbers(numbers) for numbers in (one.removed, one.kept, one.served)))
            for one in done
        ],
    )


def print_verdicts(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    """What was found of each version."""
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
        return
    with standard_output() as file:
        console = Console(file=file, highlight=False)
        table = Table("model", "version", "state", "", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for verdict in verdicts:
            why = "; ".join(verdict.differences)
            if verdict.state == "unknown":
                why = "no manifest: its files are not checked"
            table.add_row(
                _text(verdict.model),
                str(verdict.version),
                Text(verdict.state, style=_STYLES[verdict.state]),
                _text(why),
            )
        console.print(table)


def _numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) or "-"


def _print_rows(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with standard_output() as file:
        table = Table(*names, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(_text, row))
        Console(file=file, highlight=False).print(table)


def _print_lines(lines: Sequence[str]) -> None:
    with standard_output() as file:
        file.write("".join(f"{printable(line)}\n" for line in lines))


def _text(text: str) -> Text:
    return Text(printable(text))
