"""Results as one HTML page that needs nothing beside it, and as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from perf import plots
from perf.errors import PerfError, ResultsError
from perf.results import Record

_TITLE = "SE-ResNeXt101-32x4d on Triton"
# DeepLearningExamples, PyTorch/Classification/ConvNets/triton/se-resnext101-32x4d/README.md: TensorRT with dynamic batching on one
# V100 16 GB, Triton 20.07, gRPC, requests of one image, two instances.
_NVIDIA_HEADER = ("concurrency", "FP32 images/s", "p99 ms", "FP16 images/s", "p99 ms")
_NVIDIA_V100 = (
    ("1", "62.1", "16.3", "77.5", "13.1"),
    ("8", "151.1", "53.2", "212.0", "43.2"),
    ("32", "326.8", "137.7", "548.0", "59.8"),
    ("128", "506.7", "279.9", "985.7", "132.9"),
    ("256", "588.8", "444.1", "1132.8", "229.3"),
)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        commands: That give its figures again.
    """

    title: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""
    commands: Sequence[str] = field(default_factory=tuple)


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write `report.html`, `report.md` and the plots.

    Args:
        records: Of one machine.
        folder: Where they go.

    Raises:
        PerfError: There is nothing to report, or the results are of several machines.
        ResultsError: The folder cannot be written.
    """
    if not records:
        raise PerfError("there are no results to report: measure first, with `python -m perf sweep` or compare")
    machines = {repr(record["machine"]) for record in records}
    if len(machines) > 1:
        raise PerfError(f"the results are of {len(machines)} machines, which one table cannot hold: report their files one by one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sections = _sections(records, folder)
        last = records[-1]
        environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["j2"]))
        page = environment.get_template("report.html.j2").render(
            title=_TITLE,
            sections=sections,
            seeded=_seeded(records),
            **{name: last[name] for name in ("machine", "measured", "commit", "versions")},
        )
        paths = [folder / "report.html", folder / "report.md"]
        paths[0].write_text(page, encoding="utf-8")
        paths[1].write_text(_markdown(sections, last), encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{folder} cannot be written: {error.strerror}") from None
    return [*paths, *sorted(folder.glob("*.png"))]


def _seeded(records: Sequence[Record]) -> bool:
    return any(record.get("model", {}).get("weights") == "seeded" for record in records)


def _sections(records: Sequence[Record], folder: Path) -> list[Section]:
    points = list({plots.series_of(point) + str(plots.level_of(point)): point for point in records if point["kind"] == "point"}.values())
    points.sort(key=lambda point: (plots.series_of(point), plots.level_of(point)))
    sections = []
    if points:
        commands = list(dict.fromkeys(point["command"] for point in points))
        sections.append(
            Section("What was served", _unstable(points), POINT_HEADER, [point_row(point) for point in points], commands=commands)
        )
        sections += [Section(name.capitalize(), svg=_inline(path)) for name, path in plots.draw(points, folder).items()]
    for record in _latest(records):
        if record["kind"] == "comparison":
            header, rows = comparison_table(record)
            text = f"By turns, {record['rounds']} rounds; the interval is of 99 %."
            sections.append(Section("Side by side", text, header, rows, commands=[record["command"]]))
        if record["kind"] == "tuning":
            header, rows = tuning_table(record)
            sections.append(Section(f"Tuning of {record['model']['name']}", verdict(record), header, rows, commands=[record["command"]]))
    gpu = records[-1]["machine"]["gpu"]
    against = (
        "comparable with the above" if "V100" in gpu else f"NOT comparable with the above, which is {gpu or 'a machine without a GPU'}"
    )
    text = f"Published by NVIDIA for TensorRT on one V100 16 GB, Triton 20.07, gRPC, requests of one image: {against}."
    sections.append(Section("NVIDIA's own figures for this network", text, _NVIDIA_HEADER, _NVIDIA_V100))
    return sections


def _latest(records: Sequence[Record]) -> list[Record]:
    """Comparisons and tunings, without those that were made again with the same command."""
    return list({(record["kind"], record["command"]): record for record in records if record["kind"] != "point"}.values())


POINT_HEADER = (
    "model",
    "concurrency",
    "images/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "queue ms",
    "compute ms",
    "mean batch",
    "server cores",
    "MiB",
    "",
)


def point_row(point: Record) -> list[str]:
    """One measured load as a row under `POINT_HEADER`."""
    latency, phases, server = point["latency"], point["phases"], point["server"]
    level = f"{point['load']['rate']:g}/s" if point["load"]["rate"] else str(point["load"]["concurrency"])
    figures = (point["throughput"], latency["p50"], latency["p90"], latency["p99"], phases["queue"], phases["compute"])
    used = (_figure(server["mean_batch"], 2), _figure(server["cores"], 2), _figure(server["memory_mib"], 0))
    return [plots.series_of(point), level, *(f"{figure:.1f}" for figure in figures), *used, "" if point["stable"] else "unstable"]


def comparison_table(record: Record) -> tuple[list[str], list[list[str]]]:
    """Medians and ratios of one comparison."""
    import numpy as np

    rows = []
    for name, turns in record["turns"].items():
        low, middle, high = np.percentile(turns, (10, 50, 90))
        ratio = record["ratios"].get(name)
        against = "1" if ratio is None else f"{ratio['value']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})"
        rows.append([name, f"{middle:.1f} ({low:.1f} – {high:.1f})", against])
    return ["", "images/s, median (10 % – 90 %)", f"ratio to {next(iter(record['turns']))}"], rows


def write_markdown(path: Path, tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]], record: Record) -> None:
    """Titled tables of one run, with the machine above and the command below each.

    Raises:
        ResultsError: The file cannot be written.
    """
    sections = [Section(title, "", header, rows, commands=[record["command"]]) for title, (header, rows) in tables.items()]
    try:
        path.write_text(_markdown(sections, record), encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}") from None


def tuning_table(record: Record) -> tuple[list[str], list[list[str]]]:
    """Every trial of a search."""
    rows = [
        [
            trial["step"],
            *(str(trial["setting"][name]) for name in ("instances", "threads", "max_batch", "delay_us")),
            f"{trial['throughput']:.1f}",
            f"{trial['p99_ms']:.1f}{' over' * (not trial['within'])}",
        ]
        for trial in record["trials"]
    ]
    return ["question", "instances", "threads", "largest batch", "delay us", "images/s", "p99 ms"], rows


def verdict(record: Record) -> str:
    """What a search found, in a sentence."""
    runs = f"{len(record['trials'])} trials, where a full grid has {record['grid']}."
    confirmed = record["confirmed"]
    if confirmed is None:
        return f"The configuration is the best as it is. {runs}"
    gain = f"{confirmed['value']:.3f} times ({confirmed['low']:.3f} – {confirmed['high']:.3f})"
    if record["chosen"] is None:
        return f"The configuration stays as it is: the best trial, measured anew by turns, gives {gain} as much. {runs}"
    return f"The choice, measured anew by turns, gives {gain} as much as the old configuration. {runs}"


def _unstable(points: Sequence[Record]) -> str:
    count = sum(not point["stable"] for point in points)
    return f"{count} of {len(points)} loads never had three windows in a row that agreed within 10 %." if count else ""


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _inline(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _markdown(sections: Sequence[Section], last: dict[str, Any]) -> str:
    lines = [f"{last['machine']['cpu']}, {last['machine']['cores']} cores, {last['measured']}", ""]
    for section in sections:
        if not section.rows:
            continue
        lines += [f"**{section.title}.** {section.text}".rstrip(), ""]
        lines += ["| " + " | ".join(section.header) + " |", "|" + "---|" * len(section.header)]
        lines += ["| " + " | ".join(row) + " |" for row in section.rows]
        lines += ["", *(f"`{command}`" for command in section.commands), ""]
    return "\n".join(lines)
