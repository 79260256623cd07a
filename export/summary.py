"""What a person reads when an export is done: its figures, and what they mean."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.table import Table

from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.pipeline import Outcome
from seresnext101_triton.export.precision import PRECISIONS
from seresnext101_triton.export.reporting import Reporter

UNTRAINED = (
    " UNTRAINED WEIGHTS  They were made from a seed, for trying things out.",
    "                    Whatever these models answer, their labels mean nothing. ",
)


def conclude(outcomes: Sequence[Outcome], reporter: Reporter, seconds: float) -> None:
    """What was published, how well it agrees with the network, and what it cost."""
    manifests = [outcome.manifest for outcome in outcomes]
    _tell_proofs(manifests, reporter)
    for warning in dict.fromkeys(
        warning for outcome in outcomes for warning in outcome.manifest.parity.get("warnings", ())
    ):
        reporter.note(f"warning: {warning}", style="bold yellow")
    for outcome in outcomes:
        size = outcome.manifest.bytes / 1e6
        reporter.note(
            f"{'published' if outcome.made else 'there already'}: {outcome.folder} ({size:.1f} MB)"
        )
        if not outcome.served:
            reporter.note(
                f"version {outcome.version} is not served, because another version of "
                f"{outcome.model} was promoted. Serve it: "
                f"python -m export promote {outcome.model} --to {outcome.version}"
            )
    if cast := next((facts for facts in manifests if facts.ranges), None):
        reporter.note(_ranges_line(cast))
    if quantization := next(filter(None, (facts.quantization for facts in manifests)), None):
        for line in _quantization_lines(quantization):
            reporter.note(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    reporter.note(f"took {seconds:.1f} s, peak memory {peak:.2f} GB")
    if not all(outcome.manifest.weights.trained for outcome in outcomes):
        for line in UNTRAINED:
            reporter.note(line, style="bold yellow reverse")


def _tell_proofs(manifests: Sequence[Manifest], reporter: Reporter) -> None:
    """The figures of the gate, and which artifacts nobody has run."""
    if proven := [facts for facts in manifests if not facts.unproven]:
        parity = proven[0].parity
        batches = ", ".join(map(str, parity["batches"]))
        inputs = "images held out of calibration" if proven[0].quantization else "inputs"
        reporter.note(
            f"against the eager FP32 network: {parity['samples']} {inputs}, each at batch {batches}"
        )
        reporter.table(_parity_table(proven))
    for facts in manifests:
        if facts.unproven:
            reporter.note(f"UNPROVEN: no machine has run {facts.model}", style="bold yellow")


def _parity_table(manifests: Sequence[Manifest]) -> Table:
    """A column for each artifact; the figures are those of the gate it passed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    scores = "log-probabilities" if manifests[0].output == "probabilities" else "logits"
    table.add_column("")
    for facts in manifests:
        suffix = PRECISIONS[facts.precision].suffix.replace("_", " ")
        table.add_column(f"{facts.format}{suffix}", justify="right")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        f"relative error of the {scores}": lambda parity: f"{parity['relative_error']:.1e}",
        "  allowed": lambda parity: f"{parity['bound']:.1e}",
        "  between batch neighbours": lambda parity: f"{parity['neighbour_error']:.1e}",
        "largest error of the output": lambda parity: f"{parity['max_abs_error']:.1e}",
        "smallest cosine": lambda parity: f"{parity['cosine']:.9f}",
        "run on": lambda parity: str(parity["device"]),
        "top-1 agreement": lambda parity: f"{parity['top1']:.0%}",
        "top-5 agreement": lambda parity: f"{parity['top5']:.0%}",
    }
    if any(facts.parity.get("float64") for facts in manifests):
        rows["distance from float64, where over it"] = lambda parity: _worst_distance(
            parity, "artifact"
        )
        rows["  of the eager network itself"] = lambda parity: _worst_distance(parity, "eager")
    if manifests[0].parity.get("accuracy") is not None:
        rows["accuracy"] = lambda parity: f"{parity['accuracy']:.1%}"
        rows["  of the network"] = lambda parity: f"{parity['network_accuracy']:.1%}"
    for label, cell in rows.items():
        table.add_row(label, *(cell(facts.parity) for facts in manifests))
    return table


def _worst_distance(parity: dict[str, Any], whose: str) -> str:
    """The largest distance from float64, of the artifact, or of the network on the same input.

    It is a dash where nothing was over the bound.
    """
    judged = parity.get("float64") or {}
    worst = max(judged.values(), key=lambda found: found["artifact"], default=None)
    return "–" if worst is None or worst[whose] is None else f"{worst[whose]:.1e}"


def _ranges_line(facts: Manifest) -> str:
    """How much room the precision leaves above the network's largest value."""
    assert facts.ranges is not None
    largest, headroom = facts.ranges["largest"], facts.ranges["headroom"]
    return (
        f"{facts.precision.upper()} holds {headroom:.0f} times the largest value, "
        f"{largest['value']:.4g} in {largest['tensor']}"
    )


def _quantization_lines(facts: dict[str, Any]) -> list[str]:
    """How a network was quantised, and where that hurts most."""
    tried = ", ".join(f"{name} {error:.1e}" for name, error in facts["methods"].items())
    layers = facts["layers"]
    worst = ", ".join(f"{name} {noise:.1%}" for name, noise in list(layers.items())[:4])
    kernels = ", ".join(f"{count} in {kind}" for kind, count in facts["kernels"].items())
    return [
        f"calibrated on {facts['calibration_images']} images by {facts['method']}"
        + (f" (errors there: {tried})" if tried else ""),
        f"{facts['int8']} of {facts['int8'] + len(facts['keep_fp32'])} layers in INT8; the noise "
        f"on a layer's output is largest in {worst}",
        f"OpenVINO runs the convolutions, squeezes and expansions included, {kernels}",
    ]
