"""How large the network's activations and weights get, held against what FP16 can hold before anything is cast to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from export.errors import RangeError
from export.formats.served import ServedNetwork
from export.network import SqueezeAndExcitation

FP16_MAX = 65504.0


class _Observer(fx.Interpreter):
    """Runs the network in FP32 and notes the largest magnitude of every tensor in it, and of every sum that a squeeze takes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(fx.symbolic_trace(network))
        self.tensors: dict[str, float] = {}
        self.squeezes: dict[str, float] = {}
        self._pools = {f"{name}.pool" for name, module in network.named_modules() if isinstance(module, SqueezeAndExcitation)}

    def run_node(self, n: fx.Node) -> Any:
        if n.target in self._pools:
            (image,) = self.fetch_args_kwargs_from_env(n)[0]
            self._note(self.squeezes, f"{n.target} (sum)", image.abs().sum(dim=(2, 3)))
        result = super().run_node(n)
        if n.op != "output":
            self._note(self.tensors, str(n.target) if n.op == "call_module" else n.name, result)
        return result

    @staticmethod
    def _note(ranges: dict[str, float], name: str, tensor: torch.Tensor) -> None:
        ranges[name] = max(ranges.get(name, 0.0), float(tensor.abs().max()))


def measure(network: ServedNetwork, inputs: np.ndarray, *, fp32_squeeze: bool) -> dict[str, Any]:
    """The ranges of an FP32 network with BatchNorm folded, and their headroom to FP16's largest number.

    A squeeze adds up to 3136 values before it divides. A kernel that adds in FP16 overflows there first, so the sum counts as a tensor
    unless squeezes are kept in FP32.

    Args:
        network: In FP32, folded.
        inputs: Prepared images, float32 [N, 3, H, W].
        fp32_squeeze: Whether squeezes are to run in FP32.

    Returns:
        For the manifest: `limit`, `largest` (name and value), `headroom` (how many times larger the largest could be), and `tensors`.

    Raises:
        RangeError: Something would overflow; the message names it.
    """
    observer = _Observer(network.network)
    with torch.inference_mode():
        for sample in inputs:
            observer.run(torch.from_numpy(sample[None]))
    weights = {f"{name} (weight)": float(tensor.abs().max()) for name, tensor in network.network.named_parameters()}
    ranges = observer.tensors | weights | ({} if fp32_squeeze else observer.squeezes)
    name = max(ranges, key=lambda key: ranges[key])
    if not ranges[name] < FP16_MAX:
        squeeze = name in observer.squeezes
        raise RangeError(
            f"{name} reaches {ranges[name]:.3g}, and FP16 holds {FP16_MAX:.0f} at most: "
            + ("keep the squeezes in FP32 with --fp32-squeeze" if squeeze else "export this network with --precision fp32")
        )
    return {
        "limit": FP16_MAX,
        "largest": {"tensor": name, "value": ranges[name]},
        "headroom": FP16_MAX / ranges[name],
        "tensors": observer.tensors | observer.squeezes,
    }
