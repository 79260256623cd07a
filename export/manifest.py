"""manifest.json: what a published version is, and how it was proven."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.export.errors import ManifestError, RepositoryError
from seresnext101_triton.export.weights.provenance import Provenance
from seresnext101_triton.server import integrity
from seresnext101_triton.server.integrity import MANIFEST_FILENAME

SCHEMA = 2


@dataclass(frozen=True)
class Manifest:
    """The facts of one version.

    Attributes:
        key: Equal for two exports exactly when they would make the same artifact. An artifact with
            an equal key is not made again.
        created: UTC, ISO 8601.
        precision: What the artifact computes in, `fp32`, `fp16`, `bf16` or `int8`.
        artifacts: File name, sha256 and length in bytes of each. More than one are TensorRT plans
            for several GPUs, or a graph and its weights.
        weights: Where they came from and their sha256.
        architecture: The numbers of the network.
        tensors: Names and dims (without the batch axis) of input and output. The output is FP32;
            the input is FP32 or UINT8, as the layout of `preprocessing` says.
        output: `probabilities` or `logits`.
        preprocessing: The contract for the input.
        parity: The gate's figures; `unproven` alone where nothing was run.
        ranges: For FP16, the largest magnitude of every activation on the gate's inputs, and the
            headroom to FP16's largest number.
        quantization: For INT8, the images, the method, the noise on each layer and the kernels:
            `seresnext101_triton.export.quantization.recipe.Quantized`.
        speed: For bfloat16, its speed compared with FP32 on the machine that exported it:
            `seresnext101_triton.export.speed.Speed`.
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
    preprocessing: Preprocessing
    parity: dict[str, Any]
    ranges: dict[str, Any] | None
    tools: dict[str, str]
    triton: str
    quantization: dict[str, Any] | None = None
    schema: int = SCHEMA
    speed: dict[str, Any] | None = None

    @property
    def classes(self) -> int:
        """Length of the output vector."""
        return int(self.tensors["output"]["dims"][0])

    @property
    def unproven(self) -> bool:
        """Whether it was published although no machine has run it."""
        return bool(self.parity.get("unproven"))

    @property
    def bytes(self) -> int:
        """Length of all artifacts."""
        return sum(artifact["bytes"] for artifact in self.artifacts)

    def to_text(self) -> str:
        """The content of manifest.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read(folder: Path) -> Manifest | None:
    """The manifest of a version's folder; None where `load` finds none of ours, or a damaged one.

    Raises:
        RepositoryError: It is there and may not be read.
    """
    try:
        return load(folder)
    except ManifestError:
        return None


def load(folder: Path) -> Manifest:
    """The manifest of a version's folder.

    Raises:
        ManifestError: There is none, it is damaged, or it is one of another schema.
        RepositoryError: It is there and may not be read.
    """
    path = folder / MANIFEST_FILENAME
    try:
        if not path.is_file():  # reading a FIFO would block
            raise ManifestError(f"{path} is not there, or no file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is damaged: {type(error).__name__}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ManifestError(f"{path} has schema {schema!r}, and this version reads {SCHEMA}")
    try:
        facts = Manifest(**content | _typed(content))
    except (ValueError, TypeError, KeyError, ContractError) as error:
        raise ManifestError(f"{path} is damaged: {error}") from None
    if not integrity.names_files(facts.artifacts):
        raise ManifestError(f"{path} names no artifacts beside it")
    return facts


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    """The fields that JSON holds as objects."""
    preprocessing = content["preprocessing"]
    triples = {name: tuple(preprocessing[name]) for name in ("mean", "std")}
    return {
        "weights": Provenance(**content["weights"]),
        "preprocessing": Preprocessing(**preprocessing | triples),
    }


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether the artifacts are still those that the manifest was written for.

    One that is missing, empty or cannot be read is not.
    """
    return bool(manifest.artifacts) and not integrity.changed(folder, manifest.artifacts)


def tool_versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the named distributions."""
    versions = {"python": python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
