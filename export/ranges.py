"""How large the network's activations and weights get, before it is cast to a narrower dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from seresnext101_triton.export.errors import RangeError
from seresnext101_triton.export.network import SqueezeAndExcitation
from seresnext101_triton.export.precision import FP16, Precision
from seresnext101_triton.export.served import ServedNetwork

FP16_MAX = float(torch.finfo(getattr(torch, FP16.made_in)).max)


class _Observer(fx.Interpreter):
    """Runs the network in FP32 and notes the largest magnitude of every tensor in it.

    It notes the sums in the squeezes as well.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(fx.symbolic_trace(network))
        self.tensors: dict[str, float] = {}
        self.squeezes: dict[str, float] = {}
        self._pools = {
            f"{name}.pool"
            for name, module in network.named_modules()
            if isinstance(module, SqueezeAndExcitation)
        }

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


def measure(network: ServedNetwork, inputs: np.ndarray, precision: Precision) -> dict[str, Any]:
    """The ranges of an FP32 network with BatchNorm folded, and their headroom in a precision.

    A squeeze adds up to 3136 values before it divides. A kernel that adds in FP16 overflows there
    first, so the sum counts as a tensor unless the squeezes are kept in FP32.

    Args:
        network: In FP32, folded.
        inputs: Prepared images, float32 [N, 3, H, W].
        precision: What the network is to be cast to.

    Returns:
        For the manifest: `limit`, `largest` (name and value), `headroom` (how many times larger the
        largest could be), and `tensors`.

    Raises:
        RangeError: Something would overflow; the message names it.
    """
    observer = _Observer(network.network)
    with torch.inference_mode():
        for sample in inputs:
            observer.run(torch.from_numpy(sample[None]))
    weights = {
        f"{name} (weight)": float(tensor.abs().max())
        for name, tensor in network.network.named_parameters()
    }
    ranges = observer.tensors | weights | ({} if precision.fp32_squeeze else observer.squeezes)
    name = max(ranges, key=lambda key: ranges[key])
    limit = float(torch.finfo(getattr(torch, precision.made_in)).max)
    if not ranges[name] < limit:
        in_squeeze = name in observer.squeezes
        way_out = (
            "keep the squeezes in FP32 with `fp32_squeeze`"
            if in_squeeze
            else "export this network with `precision=fp32`"
        )
        raise RangeError(
            f"{name} reaches {ranges[name]:.3g}, and {precision.name.upper()} holds {limit:.0f} at "
            f"most: {way_out}"
        )
    return {
        "limit": limit,
        "largest": {"tensor": name, "value": ranges[name]},
        "headroom": limit / ranges[name],
        "tensors": observer.tensors | observer.squeezes,
    }
