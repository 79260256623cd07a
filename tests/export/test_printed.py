"""What the exporter's commands print: the figures of an export, and what is known of versions."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import OutputError
from seresnext101_triton.client.output import printing
from seresnext101_triton.export import summary, tables
from seresnext101_triton.export.history import History, Version
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.operations import Pruned, Switch
from seresnext101_triton.export.pipeline import Outcome
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.verification import Verdict
from seresnext101_triton.export.weights.provenance import Provenance

PARITY: dict[str, Any] = {
    "samples": 12,
    "batches": [1, 2, 4],
    "relative_error": 1.2e-6,
    "bound": 1e-5,
    "neighbour_error": 3e-7,
    "max_abs_error": 4e-8,
    "cosine": 0.99999999949,
    "device": "cpu",
    "top1": 1.0,
    "top5": 0.75,
    "warnings": ["take care", "take care"],
}
MANIFEST = Manifest(
    model="m_onnx",
    version=3,
    format="onnx",
    precision="fp32",
    key="k",
    created="2026-11-27T01:02:03+00:00",
    artifacts=[{"file": "model.onnx", "bytes": 1_500_000}, {"file": "b", "bytes": 250_000}],
    weights=Provenance("file", "/w.pth", "0123456789abcdef"),
    architecture={},
    tensors={"output": {"dims": [10]}},
    output="probabilities",
    preprocessing=Preprocessing(),
    parity=PARITY,
    ranges=None,
    tools={},
    triton="26.07",
)
PLAIN = Outcome("m_onnx", 3, Path("r/m_onnx/3"), True, MANIFEST)


class Written(Reporter):
    """A reporter that keeps what it writes, and in which style."""

    def __init__(self) -> None:
        super().__init__()
        self.text = io.StringIO()
        self.styles: dict[str, str | None] = {}
        self._console = Console(file=self.text, width=200, highlight=False)

    def note(self, text: str, style: str | None = None) -> None:
        self.styles[text] = style
        super().note(text, style)


def concluded(*outcomes: Outcome) -> tuple[list[str], dict[str, str | None]]:
    """The lines, without the blanks between columns, and the styles of notes."""
    reporter = Written()
    summary.conclude(outcomes, reporter, 2.345)
    lines = [re.sub(r"  +", " | ", line.strip()) for line in reporter.text.getvalue().splitlines()]
    return [line for line in lines if line and set(line) - set("─━ ")], reporter.styles


def test_the_figures_of_an_export():
    lines, styles = concluded(PLAIN)
    assert lines[:-1] == [
        "against the eager FP32 network: 12 inputs, each at batch 1, 2, 4",
        "onnx",
        "relative error of the log-probabilities | 1.2e-06",
        "allowed | 1.0e-05",
        "between batch neighbours | 3.0e-07",
        "largest error of the output | 4.0e-08",
        "smallest cosine | 0.999999999",
        "run on | cpu",
        "top-1 agreement | 100%",
        "top-5 agreement | 75%",
        "warning: take care",
        "published: r/m_onnx/3 (1.8 MB)",
    ]
    assert re.fullmatch(r"took 2\.3 s, peak memory [0-9]+\.[0-9]{2} GB", lines[-1])
    peak = float(lines[-1].split()[-2])
    mapped = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
    assert peak == pytest.approx(mapped / 1e6, abs=0.5)
    assert styles["warning: take care"] == "bold yellow"


def test_two_artifacts_stand_side_by_side_with_all_that_is_known():
    quantised = replace(
        MANIFEST,
        model="m_openvino_int8",
        format="openvino",
        precision="int8",
        output="logits",
        weights=replace(MANIFEST.weights, trained=False),
        quantization={
            "calibration_images": 5,
            "method": "mse",
            "methods": {"mse": 0.01, "minmax": 0.2},
            "layers": {"a": 0.5, "b": 0.25, "c": 0.125, "d": 0.1, "e": 0.01},
            "int8": 7,
            "keep_fp32": ["x", "y"],
            "kernels": {"INT8": 6, "FP32": 2},
        },
        parity=PARITY
        | {
            "warnings": [],
            "accuracy": 0.5,
            "network_accuracy": 0.625,
            "float64": {
                "p": {"artifact": 2e-5, "eager": 1e-5},
                "q": {"artifact": 3e-5, "eager": None},
            },
        },
    )
    half = replace(
        quantised,
        model="m_onnx_fp16",
        format="onnx",
        precision="fp16",
        quantization=None,
        ranges={"largest": {"value": 123.456, "tensor": "layer4"}, "headroom": 530.7},
        parity=PARITY
        | {
            "accuracy": 0.25,
            "network_accuracy": 0.75,
            "float64": {"p": {"artifact": 4e-5, "eager": 2e-5}},
        },
    )
    lines, styles = concluded(
        replace(PLAIN, manifest=quantised, made=False, served=False), replace(PLAIN, manifest=half)
    )
    expected = [
        "against the eager FP32 network: 12 images held out of calibration, each at batch 1, 2, 4",
        "openvino int8 | onnx fp16",
        "relative error of the logits | 1.2e-06 | 1.2e-06",
        "distance from float64, where over it | 3.0e-05 | 4.0e-05",
        "of the eager network itself | – | 2.0e-05",
        "accuracy | 50.0% | 25.0%",
        "of the network | 62.5% | 75.0%",
        "warning: take care",
        "there already: r/m_onnx/3 (1.8 MB)",
        "version 3 is not served, because another version of m_onnx was promoted. Serve it: "
        "python -m export promote m_onnx --to 3",
        "published: r/m_onnx/3 (1.8 MB)",
        "FP16 holds 531 times the largest value, 123.5 in layer4",
        "calibrated on 5 images by mse (errors there: mse 1.0e-02, minmax 2.0e-01)",
        "7 of 9 layers in INT8; the noise on a layer's output is largest in a 50.0%, b 25.0%, "
        "c 12.5%, d 10.0%",
        "OpenVINO runs the convolutions, squeezes and expansions included, 6 in INT8, 2 in FP32",
    ]
    assert [line for line in lines if line in expected] == expected
    for line in summary.UNTRAINED:
        assert line.strip() in " ".join(lines).replace(" | ", "  ") or line in styles
        assert styles[line] == "bold yellow reverse"


def test_what_nobody_has_run_is_called_so():
    unproven = replace(MANIFEST, parity={"unproven": True})
    lines, styles = concluded(replace(PLAIN, manifest=unproven))
    assert lines[0] == "UNPROVEN: no machine has run m_onnx"
    assert styles[lines[0]] == "bold yellow"
    assert not any("network" in line for line in lines)


# Versions


def printed(capsys) -> list[str]:
    out = capsys.readouterr().out
    return [re.sub(r"  +", " | ", line.strip()) for line in out.splitlines() if line.strip()]


HISTORY = History(
    "m_onnx",
    True,
    (
        Version(1, None, False, False),
        Version(2, replace(MANIFEST, parity={"unproven": True}), True, False),
        Version(3, MANIFEST, True, True),
    ),
)


def test_versions_for_people_and_machines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    tables.print_history([HISTORY, replace(HISTORY, pinned=False, versions=())], as_json=False)
    assert printed(capsys) == [
        "m_onnx (a version that is published next waits for its promotion)",
        "version | published | what | weights | parity | size | served",
        "1 | no manifest",
        "2 | 2026-11-27 01:02 | onnx fp32 | file 01234567 | unproven | 1.8 MB | by policy",
        "3 | 2026-11-27 01:02 | onnx fp32 | file 01234567 | 1.2e-06 | 1.8 MB | now",
        "m_onnx (a version that is published next is served)",
        "version | published | what | weights | parity | size | served",
    ]
    tables.print_history([HISTORY], as_json=True)
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["model"], document["pinned"]) == ("m_onnx", True)
    first, _, last = document["versions"]
    assert first == {"version": 1, "by_policy": False, "now": False, "manifest": None}
    assert (last["version"], last["by_policy"], last["now"]) == (3, True, True)
    assert last["manifest"]["weights"]["sha256"] == "0123456789abcdef"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            [
                "m: version 2 is served (before: 1, 3)",
                "followed by the servers at a:1, b:2",
                "a version that is published next waits for its promotion",
            ],
        ),
        (
            {"before": (), "servers": (), "pinned": False},
            [
                "m: version 2 is served (before: none)",
                "no server of this user serves the model now; the next start follows",
                "a version that is published next is served",
            ],
        ),
        (
            {"servers": (), "is_shared": True},
            [
                "m: version 2 is served (before: 1, 3)",
                "servers with --follow go over within seconds; others at their next start",
                "a version that is published next waits for its promotion",
            ],
        ),
    ],
)
def test_what_a_promotion_has_done(capsys, changes, lines):
    switch = replace(Switch("m", 2, (1, 3), True, ("a:1", "b:2"), ""), **changes)
    tables.print_switch(switch, as_json=False)
    captured = capsys.readouterr()
    assert (captured.out.splitlines(), captured.err) == (lines, "")
    tables.print_switch(replace(switch, note="mind"), as_json=True)
    captured = capsys.readouterr()
    assert captured.err == "note: mind\n"
    document = json.loads(captured.out)
    assert (document["version"], document["before"]) == (2, list(switch.before))


def test_an_output_that_is_full_does_not_hide_what_is_done(monkeypatch):
    switch = Switch("m", 2, (1,), True, (), "")
    full = Path("/dev/full").open("w")  # noqa: SIM115  (closing it raises)
    monkeypatch.setattr("sys.stdout", full)
    done = "version 2 of m is served"
    with pytest.raises(OutputError, match=f"^{done}, but this cannot be printed: "), printing(done):
        tables.print_switch(switch, as_json=False)
    with suppress(OSError):
        full.close()


def test_what_was_pruned(capsys):
    done = [Pruned("m", (1, 2), (3, 4), (4,)), Pruned("n", (), (1,), ())]
    tables.print_pruned(done, as_json=False)
    assert printed(capsys) == [
        "model | removed | kept | of these served",
        "m | 1 2 | 3 4 | 4",
        "n | - | 1 | -",
    ]
    tables.print_pruned(done, as_json=True)
    assert json.loads(capsys.readouterr().out)[0] == {
        "model": "m",
        "removed": [1, 2],
        "kept": [3, 4],
        "served": [4],
    }


def test_what_was_verified(capsys):
    verdicts = [
        Verdict("m", 1, "intact"),
        Verdict("m", 2, "changed", ("a differs", "b\x1b is missing")),
        Verdict("n", 1, "unknown"),
        Verdict("o", 1, "no artifact"),
    ]
    tables.print_verdicts(verdicts, as_json=False)
    assert printed(capsys) == [
        "model | version | state",
        "m | 1 | intact",
        r"m | 2 | changed | a differs; b\x1b is missing",
        "n | 1 | unknown | no manifest: its files are not checked",
        "o | 1 | no artifact",
    ]
    tables.print_verdicts(verdicts, as_json=True)
    assert json.loads(capsys.readouterr().out)[1] == {
        "model": "m",
        "version": 2,
        "state": "changed",
        "differences": ["a differs", "b\x1b is missing"],
    }
