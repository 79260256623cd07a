"""manifest.json: what a published version is, and how it was proven."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from export.repository import MANIFEST_FILENAME
from export.weights import Provenance
from export.weights.checkpoint import sha256_of_file

SCHEMA = 2


@dataclass(frozen=True)
class Manifest:
    """The facts of one version.

    Attributes:
        key: Equal for two exports exactly when they would make the same artifact; an equal one is not made again.
        created: UTC, ISO 8601.
        precision: What the artifact computes in, `fp32`, `fp16`, `bf16` or `int8`.
        artifacts: File name, sha256 and length in bytes of each. More than one are TensorRT plans for several GPUs, or a
            graph and its weights.
        weights: Where they came from and their sha256.
        architecture: The numbers of the network.
        tensors: Names and dims (without the batch axis) of input and output; both are FP32.
        output: `probabilities` or `logits`.
        preprocessing: The contract for the input.
        parity: The gate's figures.
        ranges: For FP16, the largest magnitude of every activation on the gate's inputs, and the headroom to FP16's largest number.
        quantization: For INT8, the images, the method, the noise on each layer and the kernels: `export.quantization.recipe.Quantized`.
        tools: Versions of what made and judged it.
        triton: The release of NVIDIA's image it is meant for.
    """

    model: str
    version: int
    format: str
    precision: str
    key: str
    created: str
    artifacts: list[dict[str, Any]]
    weights: Provenance
    architecture: dict[str, Any]
    tensors: dict[str, Any]
    output: str
    preprocessing: dict[str, Any]
    parity: dict[str, Any]
    ranges: dict[str, Any] | None
    tools: dict[str, str]
    triton: str
    quantization: dict[str, Any] | None = None
    schema: int = SCHEMA

    @property
    def classes(self) -> int:
        """Length of the output vector."""
        return int(self.tensors["output"]["dims"][0])

    @property
    def bytes(self) -> int:
        """Length of all artifacts."""
        return sum(artifact["bytes"] for artifact in self.artifacts)

    def to_text(self) -> str:
        """The content of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read(folder: Path) -> Manifest | None:
    """The manifest of a version's folder; None where there is none, or one of another schema."""
    try:
        content = json.loads((folder / MANIFEST_FILENAME).read_text(encoding="utf-8"))
        if content.get("schema") != SCHEMA:
            return None
        return Manifest(**content | {"weights": Provenance(**content["weights"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether the artifacts are still those the manifest was written for."""
    return all(
        (folder / artifact["file"]).is_file() and sha256_of_file(folder / artifact["file"]) == artifact["sha256"]
        for artifact in manifest.artifacts
    )


def tool_versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the named distributions."""
    versions = {"python": python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
