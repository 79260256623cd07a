"""The throughput of the network in each precision that a device has, without a server.

It compares the eager network in FP32, TF32 and FP16 with the FP16 TorchScript that is served.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.export.formats.torchscript import TorchScript
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.precision import FP16
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.perf.console import SILENT, Progress
from seresnext101_triton.perf.eager import architecture_named
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.records import PrecisionThroughput
from seresnext101_triton.perf.turns import Turn, take_turns
from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.releases import release

_RUNS_PER_TURN = 5
Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PrecisionOptions:
    """What is measured.

    Attributes:
        architecture: A key of `seresnext101_triton.export.network.ARCHITECTURES`.
        crop: The side of the images, in pixels.
        batches: The batch sizes.
        device: `cpu` or `cuda`.
        rounds: The number of turns of each precision at each batch size.
    """

    architecture: str
    crop: int
    batches: Sequence[int]
    device: str
    rounds: int


def measure_precision(
    options: PrecisionOptions, progress: Progress = SILENT
) -> list[PrecisionThroughput]:
    """Measure every precision at every batch size. The precisions take turns.

    The weights are seeded: the time of a convolution does not depend on their values.

    Args:
        options: What is measured.
        progress: It is advanced after each batch size.

    Raises:
        PerfError: This machine has no such device.
        UsageError: There is no such architecture.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise PerfError(
            "this machine has no NVIDIA GPU, or its PyTorch has no CUDA: `device=cpu` measures here"
        )
    seeded = seeded_network(architecture_named(options.architecture), 0)
    network = ServedNetwork(seeded, OutputKind.PROBABILITIES)
    results = []
    with _tf32_restored():
        runs = _runs(network, options.crop, options.device)
        for batch in options.batches:
            images = torch.randn(batch, 3, options.crop, options.crop, device=options.device)
            contestants: dict[str, Turn] = {
                name: partial(_throughput, run, images) for name, run in runs.items()
            }
            rates = take_turns(contestants, options.rounds, warmup_rounds=1).turns
            results += [
                PrecisionThroughput(name, batch, list(values)) for name, values in rates.items()
            ]
            progress.advance()
    return results


def device_name(device: str) -> str:
    """The name of the GPU, or `cpu`."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _runs(network: ServedNetwork, crop: int, device: str) -> dict[str, Run]:
    # Traced on the CPU, before `to` moves the network itself.
    script = _torchscript(network.folded().in_half(), crop, device)
    eager, eager_half = (
        each.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for each in (network, network.folded().in_half())
    )
    runs: dict[str, Run] = {"eager FP32": _with_tf32(eager, allowed=False)}
    if device == "cuda":
        runs["eager TF32"] = _with_tf32(eager, allowed=True)
    return runs | {"eager FP16": eager_half, "TorchScript FP16": script}


def _torchscript(network: ServedNetwork, crop: int, device: str) -> Run:
    material = Material(network, FP16, crop, 2, release(TRITON_RELEASE))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        TorchScript().export(material, folder, Reporter(quiet=True))
        return torch.jit.load(str(folder / "model.pt"), map_location=device)


def _with_tf32(network: Run, *, allowed: bool) -> Run:
    def run(images: torch.Tensor) -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        return network(images)

    return run


@contextmanager
def _tf32_restored() -> Iterator[None]:
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


def _throughput(run: Run, images: torch.Tensor) -> float:
    """Images per second of some runs."""
    with torch.inference_mode():
        _synchronize(images)
        started = time.perf_counter()
        for _ in range(_RUNS_PER_TURN):
            run(images)
        _synchronize(images)
        return len(images) * _RUNS_PER_TURN / (time.perf_counter() - started)


def _synchronize(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()
