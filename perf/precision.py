"""What a precision is worth on a device: the eager network in FP32, TF32 and FP16 against the FP16 TorchScript that is served, by turns."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.decoding import OutputKind
from export.formats import torchscript
from export.formats.material import Material
from export.formats.served import ServedNetwork
from export.network import Architecture
from export.reporting import Reporter
from export.tensorrt.plan import PlanRequest
from export.weights.seeded import seeded_network
from server import TRITON_RELEASE
from server.releases import release

_WARMUP_RUNS = 3
_RUNS_PER_TURN = 5


@dataclass(frozen=True)
class Throughput:
    """One way to run the network at one batch size.

    Attributes:
        images_per_second: Of every turn.
    """

    name: str
    batch: int
    images_per_second: tuple[float, ...]

    @property
    def median(self) -> float:
        """Over the turns."""
        return float(np.median(self.images_per_second))


def measure(architecture: Architecture, crop: int, batches: Sequence[int], device: str, turns: int) -> list[Throughput]:
    """Run every way at every batch size, the ways by turns, so that a drifting machine favours none.

    Weights are seeded: their values do not change how long a convolution takes.

    Args:
        architecture: Of the network.
        crop: Side of the images, in pixels.
        batches: Batch sizes.
        device: `cpu` or `cuda`.
        turns: How often each way has its turn.
    """
    network = ServedNetwork(seeded_network(architecture, 0), OutputKind.PROBABILITIES)
    ways = _ways(network, crop, device)
    results = []
    for batch in batches:
        images = torch.randn(batch, 3, crop, crop, device=device)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        with torch.inference_mode():
            for run in ways.values():
                for _ in range(_WARMUP_RUNS):
                    run(images)
            for _ in range(turns):
                for name, run in ways.items():
                    rates[name].append(batch * _RUNS_PER_TURN / _seconds(run, images))
        results += [Throughput(name, batch, tuple(found)) for name, found in rates.items()]
    return results


def write(results: Sequence[Throughput], device: str, folder: Path) -> Path:
    """Write the figures with what they were measured on; the file is named after it."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    content: dict[str, Any] = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "images_per_second": [asdict(result) for result in results],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"precision-{'-'.join(name.lower().split())}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _ways(network: ServedNetwork, crop: int, device: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    half = network.folded().in_half()
    example = torch.zeros(2, 3, crop, crop)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torchscript.export(Material(half, example, 2, release(TRITON_RELEASE), PlanRequest(), folder, Reporter(quiet=True)), folder)
        script = torch.jit.load(str(folder / "model.pt"), map_location=device)
    eager, eager_half = (
        each.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for each in (network, network.folded().in_half())
    )
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager FP32": _with_tf32(eager, allowed=False)}
    if device == "cuda":
        ways["eager TF32"] = _with_tf32(eager, allowed=True)
    return ways | {"eager FP16": eager_half, "TorchScript FP16": script}


def _with_tf32(network: Callable[[torch.Tensor], torch.Tensor], *, allowed: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(images: torch.Tensor) -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        return network(images)

    return run


def _seconds(run: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    _wait(images)
    started = time.perf_counter()
    for _ in range(_RUNS_PER_TURN):
        run(images)
    _wait(images)
    return time.perf_counter() - started


def _wait(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()
