"""The report of stored results: one HTML page that needs no other file, and Markdown tables.

Every kind of record has a function here that makes its sections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from seresnext101_triton.perf import cpu, plots
from seresnext101_triton.perf.errors import PerfError, ResultsError
from seresnext101_triton.perf.records import (
    AdviceRecord,
    ComparisonRecord,
    CpuRecord,
    Point,
    PrecisionRecord,
    Record,
    TuningRecord,
)
from seresnext101_triton.perf.tables import (
    SPREAD,
    Table,
    advice_table,
    advice_verdict,
    comparison_table,
    point_table,
    precision_table,
    tuning_table,
    tuning_verdict,
)

_TITLE = "SE-ResNeXt101-32x4d on Triton"
# DeepLearningExamples, PyTorch/Classification/ConvNets/triton/se-resnext101-32x4d/README.md:
# TensorRT with dynamic batching on one V100 16 GB, Triton 20.07, gRPC, requests of one image, two
# instances.
_NVIDIA_V100 = Table(
    ("concurrency", "FP32 images/s", "p99 ms", "FP16 images/s", "p99 ms"),
    (
        ("1", "62.1", "16.3", "77.5", "13.1"),
        ("8", "151.1", "53.2", "212.0", "43.2"),
        ("32", "326.8", "137.7", "548.0", "59.8"),
        ("128", "506.7", "279.9", "985.7", "132.9"),
        ("256", "588.8", "444.1", "1132.8", "229.3"),
    ),
)


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        title: The heading.
        text: A sentence or two under the heading.
        table: The measured values as text.
        svg: A plot as an SVG element.
        commands: The commands that measure the values again.
    """

    title: str
    text: str = ""
    table: Table | None = None
    svg: str = ""
    commands: Sequence[str] = ()


def report(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write `report.html`, `report.md` and the plots.

    Args:
        records: The records of one machine, as `seresnext101_triton.perf.results.read` returns
            them. If a load or a command was measured more than once, the last record counts.
        folder: The folder to write to. It is created if it does not exist.

    Returns:
        The written pages, and the plots as PNG.

    Raises:
        PerfError: There is nothing to report, or the results are of several machines.
        ResultsError: The folder cannot be written.
    """
    if not records:
        raise PerfError(
            "there are no results to report: measure first, with `python -m perf sweep` or compare"
        )
    machines = {record.machine for record in records}
    if len(machines) > 1:
        raise PerfError(
            f"the results are of {len(machines)} machines, which one table cannot hold: "
            "report their files one by one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sections = _sections(records, folder)
        page, text = folder / "report.html", folder / "report.md"
        page.write_text(_html(sections, records), encoding="utf-8")
        text.write_text(_markdown(sections, records[-1]), encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{folder} cannot be written: {error.strerror}") from None
    return [page, text, *sorted(folder.glob("*.png"))]


def write_cpu(record: CpuRecord, folder: Path) -> tuple[list[Section], list[Path]]:
    """Write `cpu.md`, `cpu.svg` and `cpu.png`.

    Returns:
        The sections of the text, and the paths of the files.

    Raises:
        ResultsError: The folder cannot be written.
    """
    paths = [folder / f"cpu{suffix}" for suffix in (".md", ".svg", ".png")]
    try:
        sections = _cpu_sections(record, folder)
        paths[0].write_text(_markdown(sections, record), encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{folder} cannot be written: {error.strerror}") from None
    return sections, paths


def _markdown(sections: Sequence[Section], record: Record) -> str:
    """The tables of sections as Markdown, under the machine and the time of a record."""
    machine = record.machine
    lines = [f"{machine.cpu}, {machine.cores} cores, {record.measured}", ""]
    for section in sections:
        if section.table is None:
            continue
        header = section.table.header
        lines += [f"**{section.title}.** {section.text}".rstrip(), ""]
        lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in section.table.rows]
        lines += ["", *(f"`{command}`" for command in section.commands), ""]
    return "\n".join(lines)


def _html(sections: Sequence[Section], records: Sequence[Record]) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=select_autoescape(["j2"]))
    return environment.get_template("report.html.j2").render(
        title=_TITLE, sections=sections, seeded=any(map(_seeded, records)), record=records[-1]
    )


def _seeded(record: Record) -> bool:
    return isinstance(record, Point | TuningRecord) and record.model.weights == "seeded"


def _sections(records: Sequence[Record], folder: Path) -> list[Section]:
    points = {record.load: record for record in records if isinstance(record, Point)}
    others = {
        (record.kind, record.command): record for record in records if not isinstance(record, Point)
    }
    sections = _point_sections(list(points.values()), folder)
    for record in others.values():
        sections += _SECTIONS[type(record)](record, folder)
    return [*sections, _nvidia_section(records[-1].machine.gpu)]


def _point_sections(points: list[Point], folder: Path) -> list[Section]:
    if not points:
        return []
    points.sort(key=lambda point: (point.load.series, point.load.level))
    unstable = sum(not point.stable for point in points)
    text = ""
    if unstable:
        text = (
            f"{unstable} of {len(points)} loads never had three windows in a row that agreed "
            "within 10 %."
        )
    commands = list(dict.fromkeys(point.command for point in points if point.command))
    drawn = plots.draw(points, folder).items()
    return [
        Section("What was served", text, point_table(points), commands=commands),
        *(Section(title.capitalize(), svg=_inline(path)) for title, path in drawn),
    ]


def _comparison_sections(record: ComparisonRecord, _: Path) -> list[Section]:
    text = f"In turns, {record.rounds} rounds; the interval is of 99 %."
    return [Section("Side by side", text, comparison_table(record), commands=[record.command])]


def _tuning_sections(record: TuningRecord, _: Path) -> list[Section]:
    title = f"Tuning of {record.model.name}"
    text = tuning_verdict(record)
    return [Section(title, text, tuning_table(record), commands=[record.command])]


def _advice_sections(record: AdviceRecord, _: Path) -> list[Section]:
    text = " ".join(advice_verdict(record))
    return [Section("The best model", text, advice_table(record), commands=[record.command])]


def _cpu_sections(record: CpuRecord, folder: Path) -> list[Section]:
    text = f"Images per second, {SPREAD}: with no server, and served, one image in a request."
    plot = _inline(cpu.draw(record, folder))
    targets = cpu.target_table(cpu.targets(record))
    commands = [record.command]
    return [
        Section("On a CPU", text, cpu.cpu_table(record), plot, commands),
        Section("What is promised", table=targets, commands=commands),
    ]


def _precision_sections(record: PrecisionRecord, _: Path) -> list[Section]:
    text = f"Images per second on {record.device}, median, without a server."
    table = precision_table(record.images_per_second)
    return [Section("Precisions", text, table, commands=[record.command])]


_SECTIONS: dict[type[Record], Callable[[Any, Path], list[Section]]] = {
    ComparisonRecord: _comparison_sections,
    TuningRecord: _tuning_sections,
    AdviceRecord: _advice_sections,
    CpuRecord: _cpu_sections,
    PrecisionRecord: _precision_sections,
}


def _nvidia_section(gpu: str) -> Section:
    against = f"NOT comparable with the above, which is {gpu or 'a machine without a GPU'}"
    if "V100" in gpu:
        against = "comparable with the above"
    text = (
        "Published by NVIDIA for TensorRT on one V100 16 GB, Triton 20.07, gRPC, requests of one "
        f"image: {against}."
    )
    return Section("NVIDIA's own figures for this network", text, _NVIDIA_V100)


def _inline(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
