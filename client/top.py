"""`python -m client top`: what a server does now, from its own metrics."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seresnext101_triton.client.address import Address, parse_all
from seresnext101_triton.client.classifier import default_url
from seresnext101_triton.client.errors import ServerUnreachable, UsageError
from seresnext101_triton.client.launches import running_launches
from seresnext101_triton.client.metrics import PORT, Counts, Page, read_page
from seresnext101_triton.client.output import standard_output
from seresnext101_triton.client.served import version_order
from seresnext101_triton.client.text import printable

_COLUMNS = (
    *("ver", "req/s", "img/s", "batch", "queue ms", "compute ms"),
    *("wait", "failed", "re- starts"),
)


@dataclass(frozen=True)
class Row:
    """What one version of a model did between two readings.

    Attributes:
        model: The name of the model.
        version: The version.
        requests_per_s: Requests that were answered in a second.
        images_per_s: Images that were computed in a second.
        batch: Images in one run, on average. None if there was no run.
        queue_ms: Time of a request in the queue, on average. None if none was answered.
        compute_ms: Time of a request in the model, on average. None if none was answered.
        pending: Requests that wait now.
        failed: Requests that failed between the readings.
        failed_before: Requests that failed since the model was loaded, these included.
        restarts: How often the launcher loaded the model again because one of its processes had
            died. None if it is not known.
        cached: Share of the requests that were looked up in the response cache and found there,
            0 to 1. None if none was looked up.
    """

    model: str
    version: str
    requests_per_s: float
    images_per_s: float
    batch: float | None
    queue_ms: float | None
    compute_ms: float | None
    pending: int
    failed: int
    failed_before: int
    restarts: int | None
    cached: float | None


@dataclass(frozen=True)
class Server:
    """Where the metrics of a server are.

    Attributes:
        url: The address that the user named, for people.
        host: The host of the metrics.
        port: The port of the metrics.
    """

    url: str
    host: str
    port: int


def run(options: argparse.Namespace) -> int:
    """Show what a server does, again and again, until Ctrl-C."""
    server = _find(options)
    readings = _readings(server, options)
    try:
        if options.json:
            _print_lines(readings)
        elif sys.stdout.isatty():
            _show(server, readings)
        else:
            with standard_output() as file:
                console = Console(file=file, highlight=False)
                for seconds, rows, page in readings:
                    console.print(_picture(server, seconds, rows, page))
                    file.flush()
    except KeyboardInterrupt:  # the usual end of this command
        return 0
    return 0


def rows_between(
    before: Page, after: Page, seconds: float, restarts: Mapping[str, int] | None
) -> list[Row]:
    """What every version of every model did between two readings, sorted by name and version.

    Args:
        before: The first reading.
        after: The second reading.
        seconds: The time between them.
        restarts: How often each model was loaded again, if it is known.
    """
    order = sorted(after.models, key=lambda key: (key[0], version_order(key[1])))
    return [
        _row(key, before.models.get(key, Counts()), after.models[key], seconds, restarts)
        for key in order
    ]


def _row(
    key: tuple[str, str],
    before: Counts,
    after: Counts,
    seconds: float,
    restarts: Mapping[str, int] | None,
) -> Row:
    if after.requests < before.requests or after.runs < before.runs:
        before = Counts()  # the model was loaded again, and counts from 0
    requests, runs = after.requests - before.requests, after.runs - before.runs
    images = after.images - before.images
    hits = after.cache_hits - before.cache_hits
    looked_up = hits + after.cache_misses - before.cache_misses
    return Row(
        model=key[0],
        version=key[1],
        requests_per_s=requests / seconds,
        images_per_s=images / seconds,
        batch=images / runs if runs else None,
        queue_ms=(after.queue_us - before.queue_us) / requests / 1000 if requests else None,
        compute_ms=(after.compute_us - before.compute_us) / requests / 1000 if requests else None,
        pending=round(after.pending),
        failed=round(after.failed - before.failed),
        failed_before=round(after.failed),
        restarts=None if restarts is None else restarts.get(key[0], 0),
        cached=hits / looked_up if looked_up else None,
    )


def _find(options: argparse.Namespace) -> Server:
    """The metrics of the server that the user named."""
    url = options.url or default_url(options.protocol)
    addresses = parse_all(url, options.protocol, options.tls)
    if len(addresses) > 1:
        raise UsageError(f"`url` names {len(addresses)} servers, and top shows one: name one")
    address = addresses[0]
    for launch in running_launches():
        if launch.serves(address) and options.metrics_port is None:
            return Server(address.netloc, launch.http_host, launch.metrics)
    port = PORT if options.metrics_port is None else options.metrics_port
    return Server(address.netloc, _host(address), port)


def _host(address: Address) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host


def _restarts(server: Server) -> Mapping[str, int] | None:
    """How often the launcher has loaded each model again. None if no launcher of ours runs."""
    for launch in running_launches():
        if (launch.http_host, launch.metrics) == (server.host, server.port):
            return launch.model_restarts
    return None


Reading = tuple[float, list[Row] | None, Page | ServerUnreachable]


def _readings(server: Server, options: argparse.Namespace) -> Iterator[Reading]:
    """The rows of each interval. They are None while a server that answered before does not.

    Raises:
        ServerUnreachable: The server does not answer at the beginning.
    """
    before, at = read_page(server.host, server.port, options.timeout), time.monotonic()
    shown = 0
    while options.count is None or shown < options.count:
        time.sleep(options.interval)
        try:
            page = read_page(server.host, server.port, options.timeout)
        except ServerUnreachable as error:
            yield 0.0, None, error
        else:
            now = time.monotonic()
            yield now - at, rows_between(before, page, now - at, _restarts(server)), page
            before, at = page, now
        shown += 1


def _show(server: Server, readings: Iterator[Reading]) -> None:
    """One picture on a terminal, drawn again after each interval."""
    console = Console(highlight=False)
    waiting = Text(f"reading the metrics of {server.url} ...", style="dim")
    with Live(waiting, console=console, auto_refresh=False) as live:
        for seconds, rows, page in readings:
            live.update(_picture(server, seconds, rows, page), refresh=True)


def _print_lines(readings: Iterator[Reading]) -> None:
    """One JSON object in a line for each interval."""
    with standard_output() as file:
        for seconds, rows, page in readings:
            document: dict[str, Any] = {"time": time.time(), "seconds": seconds}
            if rows is None:
                document["error"] = str(page)
            else:
                assert isinstance(page, Page)
                document["models"] = [asdict(row) for row in rows]
                document["server"] = dict(page.gauges)
            file.write(json.dumps(document) + "\n")
            file.flush()


def _picture(
    server: Server, seconds: float, rows: list[Row] | None, page: Page | ServerUnreachable
) -> Group:
    if rows is None or isinstance(page, ServerUnreachable):
        return Group(Text(f"{server.url} does not answer; asking again: {page}", style="bold red"))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    # A server without a response cache does not count hits.
    has_cache = any(each.cache_hits or each.cache_misses for each in page.models.values())
    for name in (*_COLUMNS, "cache hits") if has_cache else _COLUMNS:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        failed = Text(str(row.failed_before), style="bold red" if row.failed else "")
        if row.failed:
            failed.append(f" (+{row.failed})")
        share = "-" if row.cached is None else f"{row.cached:.0%}"
        table.add_row(
            Text(printable(row.model), style="bold" if row.requests_per_s else "dim"),
            printable(row.version),
            _number(row.requests_per_s),
            _number(row.images_per_s),
            _number(row.batch),
            _number(row.queue_ms),
            _number(row.compute_ms),
            str(row.pending),
            failed,
            "-" if row.restarts is None else str(row.restarts),
            *([share] if has_cache else []),
        )
    return Group(Text(_header(server, seconds, rows, page), style="dim"), table)


def _header(server: Server, seconds: float, rows: list[Row], page: Page) -> str:
    images = sum(row.images_per_s for row in rows)
    parts = [
        f"{server.url}",
        time.strftime("%H:%M:%S"),
        f"{_number(images)} images/s in the last {seconds:.1f} s",
    ]
    gauges = page.gauges
    if total := gauges.get("nv_cpu_memory_total_bytes"):
        used = gauges.get("nv_cpu_memory_used_bytes", 0.0)
        parts.append(f"CPU {gauges.get('nv_cpu_utilization', 0.0):.0%}")
        parts.append(f"memory {used / 1e9:.1f} of {total / 1e9:.1f} GB")
    if "nv_gpu_utilization" in gauges:
        parts.append(f"GPU {gauges['nv_gpu_utilization']:.0%}")
    return "  ".join(parts[:3]) + "\n" * bool(parts[3:]) + "  ".join(parts[3:])


def _number(value: float | None) -> str:
    """A number with three digits, as far as it has a fraction."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}"
