"""Checks a config against its artifact, as Triton's C++ backends do when they load a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seresnext101_triton.server.errors import ArtifactError
from seresnext101_triton.server.runtimes import Runtime, TensorSpec


@dataclass(frozen=True)
class Rules:
    """The rules of one C++ backend.

    Sources: CompareDimsSupported in src/onnxruntime_utils.cc of onnxruntime_backend and in
    src/openvino_utils.cc of openvino_backend; ValidateInputs and ValidateOutputs in src/libtorch.cc
    of pytorch_backend.

    Attributes:
        completes: Whether the backend completes a config that names no tensors.
        names: Whether the artifact has names of tensors. TorchScript has only their positions.
        exact_outputs: Whether an output's axis of any length must be -1 in the config. Otherwise
            the config may name one length.
        any_batch: Whether an artifact with a fixed batch can be served with another maximum batch.
    """

    completes: bool = False
    names: bool = True
    exact_outputs: bool = False
    any_batch: bool = False


def check(config: Mapping[str, Any], model: Runtime, rules: Rules) -> None:
    """Check a model's config against its artifact.

    Args:
        config: The model's config, as JSON.
        model: The artifact, loaded.
        rules: The rules of the backend.

    Raises:
        ArtifactError: They differ. The message names the difference and the right value.
    """
    for kind, spec in (("input", model.input), ("output", model.output)):
        tensors = config.get(kind, [])
        if len(tensors) != 1:
            raise ArtifactError(
                f"config.pbtxt must name one {kind}, as the artifact has, and names {len(tensors)}"
            )
        _check_tensor(kind, tensors[0], spec, config["max_batch_size"] > 0, rules)


def _check_tensor(
    kind: str, tensor: Mapping[str, Any], spec: TensorSpec, batched: bool, rules: Rules
) -> None:
    name = tensor["name"]
    if rules.names and name != spec.name:
        raise ArtifactError(
            f"config.pbtxt names the {kind} {name!r}, and the artifact has {spec.name!r}"
        )
    if tensor["data_type"] != spec.triton_type:
        raise ArtifactError(
            f"config.pbtxt gives the {kind} {name} {tensor['data_type']}: it must be "
            f"{spec.triton_type}, as in the artifact"
        )
    if not spec.dims and not rules.names:  # TorchScript without shapes: nothing to compare with
        return
    axes = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
    dims = [int(axis) for axis in axes]
    if batched and spec.batch != -1 and not rules.any_batch:
        raise ArtifactError(
            f"config.pbtxt has a max_batch_size, and the {kind} {name} of the artifact is fixed to "
            f"a batch of {spec.batch}: leave max_batch_size out and write dims: "
            f"{list(_shape(spec))}"
        )
    expected = spec.dims if batched else _shape(spec)
    if not _fits(expected, dims, exact=kind == "output" and rules.exact_outputs):
        raise ArtifactError(
            f"config.pbtxt gives the {kind} {name} the dims {dims}, and the artifact has "
            f"{list(expected)}"
        )


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return spec.batch, *spec.dims


def _fits(artifact: Sequence[int], config: Sequence[int], *, exact: bool) -> bool:
    return len(artifact) == len(config) and all(
        there == here or (there == -1 and not exact)
        for there, here in zip(artifact, config, strict=True)
    )
