"""One export from the weights to the publication, as a sequence of steps.

    weights ─▶ network ─▶ gate ─▶ material ─▶ artifact ─▶ proof ─▶ publication

Each step is a function that makes a value from the values of earlier steps. The material is what
the artifacts of one precision are made from: the network in this precision, and its ONNX file. The
proof is what the parity gate measured of an artifact. Either all requested formats are published,
or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seresnext101_triton.client import timings
from seresnext101_triton.export import config, image_input, manifest, promotion, sharing
from seresnext101_triton.export.errors import ManifestError, MissingHardware, ParityError
from seresnext101_triton.export.format import INPUT, OUTPUT, Proof
from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.job import Job, Weights
from seresnext101_triton.export.keys import key_of
from seresnext101_triton.export.labels import labels_for
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.materials import make_materials
from seresnext101_triton.export.network import Architecture
from seresnext101_triton.export.precision import Precision
from seresnext101_triton.export.quantization.images import Images
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.request import Request, Variant
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.tensorrt import rtx
from seresnext101_triton.export.weights import resolve
from seresnext101_triton.export.weights.provenance import Provenance
from seresnext101_triton.server.digest import sha256
from seresnext101_triton.server.errors import IntegrityError
from seresnext101_triton.server.integrity import MANIFEST_FILENAME
from seresnext101_triton.server.versions import CONFIG_FILENAME, LABELS_FILENAME

_ROOM_PER_ARTIFACT = 1.1  # times the number of bytes of the weights


@dataclass(frozen=True)
class Outcome:
    """The result for one requested format.

    Attributes:
        made: Whether this export made the artifact. It is False if the same artifact was published
            before.
        served: Whether the model's version policy has Triton serve this version. It is False if
            another version was promoted.
    """

    model: str
    version: int
    folder: Path
    made: bool
    manifest: Manifest
    served: bool = True

    @property
    def artifact(self) -> Path:
        """The path of the artifact, or of the first one if there are several plans."""
        return self.folder / str(self.manifest.artifacts[0]["file"])

    def to_json(self) -> dict[str, Any]:
        """The outcome as it is printed with `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "folder": str(self.folder),
            "made": self.made,
            "served": self.served,
            "manifest": asdict(self.manifest),
        }


@dataclass(frozen=True)
class Network:
    """The network with its weights.

    Attributes:
        served: The eager network in FP32, with the output that is served.
        provenance: What the manifest says about the weights.
    """

    served: ServedNetwork
    provenance: Provenance

    @property
    def architecture(self) -> Architecture:
        """The dimensions of the network, including the number of classes."""
        return self.served.network.architecture

    @property
    def bytes(self) -> int:
        """The size of all weights, in bytes."""
        tensors = self.served.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Artifact:
    """One artifact that has passed its gate.

    Attributes:
        variant: The format and the precision.
        folder: The folder of its files.
        material: What the artifact was made from.
        proof: What the parity gate measured of the artifact.
    """

    variant: Variant
    folder: Path
    material: Material
    proof: Proof


def lacking(request: Request) -> dict[str, str]:
    """The formats of a request that this machine cannot make, and what it lacks for each."""
    formats = [variant.format for variant in request.variants]
    return {format.name: lacks for format in formats if (lacks := format.missing())}


def export(request: Request, reporter: Reporter) -> list[Outcome]:
    """Publish every requested format that the repository does not have yet.

    Raises:
        ExportError: Nothing was published and the repository is unchanged, unless the message says
            otherwise.
        ServerError: A runtime or a release of tritonserver cannot be used. The repository is as
            after an `ExportError`.
    """
    for format, lacks in lacking(request).items():
        raise MissingHardware(
            f"{format} is made and proven on the machine that serves it, and this one lacks {lacks}"
        )
    weights = _weights(request, reporter)
    with Repository(request.repository).exclusive() as publication:
        if publication.restored:
            models = ", ".join(publication.restored)
            reporter.note(
                f"an export was killed while it published: {models} put back to what was there "
                "before it"
            )
        job = Job(request, weights, publication, reporter)
        keys = {variant: key_of(request, weights, variant) for variant in request.variants}
        published = {
            variant: facts
            for variant, key in keys.items()
            if (facts := _published(job, variant, key))
        }
        missing = [variant for variant in keys if variant not in published]
        made = {}
        if missing:
            network = _network(job)
            _prepare(job, network, missing)
            gate = _gate(job, network)
            materials = make_materials(job, network.served, gate, missing)
            artifacts = [_artifact(job, variant, materials, gate) for variant in missing]
            made = {
                artifact.variant: _add_version(job, network, artifact, keys[artifact.variant])
                for artifact in artifacts
            }
        for facts in published.values():
            _refresh(job, facts)
        images = [
            image_input.stage(publication, facts, request.image_input)
            for facts in (made | published).values()
        ]
        with timings.part("publishing"):
            publication.publish()
    for name in filter(None, images):
        reporter.note(f"published: {request.repository / name}, which takes image files")
    return [
        _outcome(request, made[variant], made=True)
        if variant in made
        else _outcome(request, published[variant], made=False)
        for variant in keys
    ]


def _outcome(request: Request, facts: Manifest, *, made: bool) -> Outcome:
    folder = request.repository / facts.model / str(facts.version)
    served = facts.version in promotion.by_policy(folder.parent)
    return Outcome(facts.model, facts.version, folder, made, facts, served)


def _weights(request: Request, reporter: Reporter) -> Weights:
    """Find the weights, and the images to quantise them with."""
    source = resolve(request.weights, ema=request.ema)
    identity = source.identity(reporter)
    options = request.quantization
    images = Images(options, request.preprocessing) if options else None
    return Weights(source, identity, images)


def _published(job: Job, variant: Variant, key: str) -> Manifest | None:
    """The manifest of a model's newest version, if it has the key and its files are intact."""
    folder = job.repository.latest(job.request.model(variant))
    if folder is None or job.request.force:
        return None
    try:
        facts = manifest.load(folder)
    except ManifestError as error:
        job.reporter.note(f"{error}: the model is exported anew", style="bold yellow")
        return None
    if facts.key != key:
        return None
    with suppress(IntegrityError):
        sharing.complete(folder)
    if not manifest.is_intact(folder, facts):
        job.reporter.note(
            f"{folder}: the artifact is not the one that was published: it is exported anew",
            style="bold yellow",
        )
        return None
    return facts


def _network(job: Job) -> Network:
    """Load the weights into the network."""
    network, provenance = job.weights.source.load(job.request.architecture, job.reporter)
    return Network(ServedNetwork(network, job.request.output), provenance)


def _prepare(job: Job, network: Network, variants: Sequence[Variant]) -> None:
    """Check before the long work that the models can be published.

    Raises:
        OptionError: The number of labels is not the number of classes of the network.
        RepositoryError: The repository cannot be written.
    """
    labels_for(network.architecture.classes, job.request.labels)
    room = round(network.bytes * _ROOM_PER_ARTIFACT * len(variants))
    job.publication.prepare([job.request.model(variant) for variant in variants], room)


def _gate(job: Job, network: Network) -> Gate:
    """Run the network on the inputs of the parity gate, and return the gate."""
    request, images = job.request, job.weights.images
    samples = images.samples(network.architecture.classes) if images else None
    with job.reporter.step("running the network on the parity inputs"):
        return Gate(
            network.served,
            request.preprocessing,
            request.serving.max_batch,
            samples,
            allow_error=request.allow_error,
        )


def _artifact(
    job: Job, variant: Variant, materials: Mapping[Precision, Material], gate: Gate
) -> Artifact:
    """Make an artifact, and run it in the parity gate.

    Raises:
        ParityError: The artifact must not be published.
    """
    folder, precision = job.publication.scratch(), variant.precision
    with job.reporter.step(f"exporting {variant.name}"):
        variant.format.export(materials[precision], folder, job.reporter)
    serving, reporter = job.request.serving, job.reporter
    proof = variant.format.prove(gate, folder, precision, serving, reporter)
    return Artifact(variant, folder, materials[precision], proof)


def _add_version(job: Job, network: Network, artifact: Artifact, key: str) -> Manifest:
    """Stage a new version of a model, with its manifest, its config.pbtxt and its labels."""
    request, variant, material = job.request, artifact.variant, artifact.material
    model = request.model(variant)
    staged = job.publication.stage(model)
    facts = Manifest(
        model=model,
        version=job.repository.next_version(model),
        format=variant.format.name,
        precision=variant.precision.name,
        key=key,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        artifacts=_files(artifact.folder),
        weights=network.provenance,
        architecture=asdict(network.architecture),
        tensors={
            "input": {"name": INPUT, "dims": list(request.preprocessing.shape)},
            "output": {"name": OUTPUT, "dims": [network.architecture.classes]},
        },
        output=request.output.value,
        preprocessing=request.preprocessing,
        parity=artifact.proof.parity,
        ranges=material.ranges,
        tools={
            **manifest.tool_versions("numpy", "pillow", "onnxruntime", *variant.format.packages),
            **({rtx.PACKAGE: material.tensorrt_rtx} if material.tensorrt_rtx else {}),
        },
        triton=request.target,
        quantization=material.quantization,
        speed=artifact.proof.speed,
    )
    (artifact.folder / MANIFEST_FILENAME).write_text(facts.to_text(), encoding="utf-8")
    texts = _texts(request, facts)
    staged.add_version(facts.version, artifact.folder)
    promotion.add(staged, facts.version, texts)
    return facts


def _files(folder: Path) -> list[dict[str, Any]]:
    """All files of a version except JSON files. The file that a runtime loads comes first."""
    files = sorted(
        (path for path in folder.iterdir() if path.suffix != ".json"),
        key=lambda path: (path.suffix == ".bin", path.name),
    )
    return [
        {"file": path.name, "sha256": sha256(path), "bytes": path.stat().st_size} for path in files
    ]


def _refresh(job: Job, facts: Manifest) -> None:
    """Write the config and the labels again if options changed that do not change the artifact."""
    folder = job.repository.root / facts.model
    texts = _texts(job.request, facts)
    wanted = promotion.adapted(folder, facts.version, texts)
    if any(
        promotion.current(folder, facts.version, name) != (text if text is None else text.encode())
        for name, text in wanted.items()
    ):
        promotion.replace(job.publication.stage(facts.model), facts.version, texts)


def _texts(request: Request, facts: Manifest) -> dict[str, str | None]:
    """The content of the files beside a model's versions. None means that the file must not exist.

    Raises:
        ParityError: By config.pbtxt, clients would prepare images in another way than the parity
            gate did.
    """
    labels = labels_for(facts.classes, request.labels)
    description = config.model_config(facts, request.serving, labelled=labels is not None)
    text = config.to_text(description)
    if config.contract(text) != request.preprocessing:
        raise ParityError(
            f"{facts.model}: config.pbtxt tells clients to prepare images by "
            f"{config.contract(text)}, and the artifact was proven with {request.preprocessing}"
        )
    return {CONFIG_FILENAME: text, LABELS_FILENAME: labels}
