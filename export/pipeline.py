"""One export from end to end: weights, artifacts, the gate, and publication. All formats that were named are published, or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import config, manifest
from export.errors import MissingHardware
from export.formats import INPUT, OUTPUT
from export.labels import labels_for
from export.repository import CONFIG_FILENAME, MANIFEST_FILENAME, Repository, StagedModel
from export.request import Request, Variant
from export.weights import resolve
from export.weights.checkpoint import sha256_of_file
from server import runtimes
from server.releases import release

if TYPE_CHECKING:
    from export.formats.material import Material
    from export.formats.served import ServedNetwork
    from export.parity import Gate
    from export.quantization.images import Images
    from export.reporting import Reporter
    from export.weights import Source

_RECIPE = 2  # raised whenever the code here makes another artifact from the same weights and options
_ROOM_PER_ARTIFACT = 1.1  # of the weights' bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one format.

    Attributes:
        made: False when the same artifact had been published before.
    """

    model: str
    version: int
    folder: Path
    made: bool
    manifest: manifest.Manifest

    @property
    def artifact(self) -> Path:
        """The artifact, or the first of several plans."""
        return self.folder / str(self.manifest.artifacts[0]["file"])

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "folder": str(self.folder),
            "made": self.made,
            "manifest": asdict(self.manifest),
        }


@dataclass(frozen=True)
class _Job:
    """One export under way.

    Attributes:
        identity: What tells its weights from others.
        images: For INT8, what the network is calibrated with and judged by.
    """

    request: Request
    source: Source
    identity: str
    images: Images | None
    repository: Repository
    reporter: Reporter


def lacking(request: Request) -> dict[str, str]:
    """Formats of a request that this machine cannot make, and what it lacks for them."""
    from export.formats import tensorrt

    named = any(variant.format.name == "tensorrt" for variant in request.variants)
    lacks = tensorrt.missing() if named and not request.plans.brought and not request.plans.in_image else None
    return {"tensorrt": lacks} if lacks else {}


def export(request: Request, reporter: Reporter) -> list[Outcome]:
    """Publish every format that is not there yet.

    Raises:
        ExportError: Nothing was published; the repository is as it was.
    """
    for format, lacks in lacking(request).items():
        raise MissingHardware(f"{format} is made and proven on the machine that serves it, and this one lacks {lacks}")
    source = resolve(request.weights)
    job = _Job(request, source, source.identity(reporter), _images(request), Repository(request.repository), reporter)
    with job.repository.exclusive(), ExitStack() as stages:
        published = {variant: facts for variant in request.variants if (facts := _published(job, variant))}
        missing = [variant for variant in request.variants if variant not in published]
        made = _make(job, missing, stages) if missing else {}
        for variant, facts in published.items():
            _refresh(job, variant, facts)
        for variant, (staged, facts) in made.items():
            _describe(staged, request, variant, facts)
            staged.publish()
    return [
        _outcome(request, published[variant], made=False) if variant in published else _outcome(request, made[variant][1], made=True)
        for variant in request.variants
    ]


def _outcome(request: Request, facts: manifest.Manifest, *, made: bool) -> Outcome:
    return Outcome(facts.model, facts.version, request.repository / facts.model / str(facts.version), made, facts)


def _key(job: _Job, variant: Variant) -> str:
    """What tells an artifact from every other: equal keys make equal artifacts."""
    request = job.request
    facts = {
        "recipe": _RECIPE,
        "weights": job.identity,
        "format": variant.name,
        "fp32_squeeze": request.fp32_squeeze and variant.precision == "fp16",
        "architecture": asdict(request.architecture),
        "output": request.output.value,
        "preprocessing": asdict(request.preprocessing),
        "max_batch": request.serving.max_batch,
        "target": request.target,
        "tools": manifest.tool_versions(*variant.format.packages),
    }
    if variant.format.name == "tensorrt":
        from export.formats import tensorrt

        facts["plans"] = tensorrt.identity(request.plans)
    if job.images and request.quantization:
        from export.quantization import recipe

        facts["quantization"] = recipe.identity(request.quantization, job.images)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _images(request: Request) -> Images | None:
    if request.quantization is None:
        return None
    from export.quantization.images import Images

    return Images(request.quantization, request.preprocessing)


def _published(job: _Job, variant: Variant) -> manifest.Manifest | None:
    """The manifest of a model's newest version, where it is what was asked for and intact."""
    folder = job.repository.latest(job.request.model(variant))
    facts = manifest.read(folder) if folder and not job.request.force else None
    return facts if folder and facts and facts.key == _key(job, variant) and manifest.is_intact(folder, facts) else None


def _make(job: _Job, variants: Sequence[Variant], stages: ExitStack) -> dict[Variant, tuple[StagedModel, manifest.Manifest]]:
    """Export every variant into a stage of its own and hold each against the network."""
    from export.formats.served import ServedNetwork
    from export.parity import Gate

    request, repository, reporter = job.request, job.repository, job.reporter
    network, provenance = job.source.load(request.architecture, reporter)
    labels_for(network.architecture.classes, request.labels)  # refused now, not after the work
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    room = round(parameters * _ROOM_PER_ARTIFACT * len(variants))
    staged = {variant: stages.enter_context(repository.stage(request.model(variant), bytes_needed=room)) for variant in variants}
    scratch = stages.enter_context(repository.scratch())
    served = ServedNetwork(network, request.output)
    samples = job.images.samples(network.architecture.classes) if job.images else None
    with reporter.step("running the network on the parity inputs"):
        gate = Gate(served, request.preprocessing, request.serving.max_batch, samples)
    materials, ranges, quantization = _materials(job, variants, served.folded(), gate, scratch)
    made = {}
    for variant in variants:
        stage = staged[variant]
        folder = stage.new_version()
        with reporter.step(f"exporting {variant.name}"):
            variant.format.export(materials[variant.precision], folder)
        with reporter.step(f"checking {variant.name} against the network"):
            parity = _prove(gate, folder, request, variant)
        facts = manifest.Manifest(
            model=request.model(variant),
            version=stage.version,
            format=variant.format.name,
            precision=variant.precision,
            key=_key(job, variant),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            artifacts=_artifacts(folder),
            weights=provenance,
            architecture=asdict(network.architecture),
            tensors={
                "input": {"name": INPUT, "dims": [3, request.preprocessing.crop, request.preprocessing.crop]},
                "output": {"name": OUTPUT, "dims": [network.architecture.classes]},
            },
            output=request.output.value,
            preprocessing=asdict(request.preprocessing),
            parity=parity,
            ranges=ranges if variant.precision == "fp16" else None,
            tools=manifest.tool_versions("numpy", "pillow", "onnxruntime", *variant.format.packages),
            triton=request.target,
            quantization=quantization,
        )
        (folder / MANIFEST_FILENAME).write_text(facts.to_text(), encoding="utf-8")
        made[variant] = (stage, facts)
    return made


def _materials(
    job: _Job, variants: Sequence[Variant], folded: ServedNetwork, gate: Gate, scratch: Path
) -> tuple[dict[str, Material], dict[str, Any] | None, dict[str, Any] | None]:
    """What each precision is made from; for FP16 the ranges that show that the network fits, and for INT8 how it was quantised.

    Raises:
        RangeError: It does not fit.
    """
    import torch

    from export.formats.material import Material
    from export.ranges import measure

    request, images, reporter = job.request, job.images, job.reporter
    precisions = {variant.precision for variant in variants}
    # bfloat16 is the runtime's, from FP32's own artifact; INT8 is made of FP32's ONNX.
    networks, ranges = dict.fromkeys(("fp32", "bf16", "int8"), folded), None
    if "fp16" in precisions:
        with reporter.step("measuring how large activations get"):
            ranges = measure(folded, gate.inputs, fp32_squeeze=request.fp32_squeeze)
        networks["fp16"] = folded.in_half(fp32_squeeze=request.fp32_squeeze)
    example = torch.zeros(2, *gate.inputs.shape[1:])
    target = release(request.target)

    def material(precision: str, quantized: Path | None = None) -> Material:
        network = networks[precision]
        return Material(network, example, request.serving.max_batch, target, request.plans, scratch, reporter, quantized)

    if images and request.quantization:
        from export.quantization.recipe import quantize
        from export.tensorrt.gate import check_onnx

        with reporter.step("exporting the ONNX to quantise"):
            source = material("fp32").onnx
        quantized = quantize(source, f"{job.identity} {folded.network.architecture}", request.quantization, images, gate, scratch, reporter)
        check_onnx(quantized.path, "int8", target)
        return {"int8": material("int8", quantized.path)}, None, quantized.facts
    return {precision: material(precision) for precision in precisions}, ranges, None


def _prove(gate: Gate, folder: Path, request: Request, variant: Variant) -> dict[str, Any]:
    """Run an artifact as it will be served, on a GPU if it will be served on one and this machine has one.

    Raises:
        ParityError: It must not be published.
    """
    import torch

    from export.formats import tensorrt

    format = variant.format
    if format.name == "tensorrt":
        return tensorrt.prove(gate, folder, variant.precision)
    on_gpu = (format.gpu_only or request.serving.device == "gpu") and torch.cuda.is_available()
    device = "cuda:0" if on_gpu else "cpu"
    parameters = {format.thread_parameter: str(request.serving.threads), **config.cpu_parameters(format, variant.precision)}
    runtime = runtimes.load(format.runtime, folder / format.filename, parameters, device)
    return gate.check(variant.name, runtime, variant.precision, device).to_json()


def _artifacts(folder: Path) -> list[dict[str, Any]]:
    """Every file of a version but the JSON that describes it, the one that is loaded first."""
    files = sorted((path for path in folder.iterdir() if path.suffix != ".json"), key=lambda path: (path.suffix == ".bin", path.name))
    return [{"file": path.name, "sha256": sha256_of_file(path), "bytes": path.stat().st_size} for path in files]


def _texts(request: Request, variant: Variant, facts: manifest.Manifest, folder: Path) -> dict[str, str | None]:
    """The files beside a model's versions."""
    from export.formats import tensorrt

    labels = labels_for(facts.classes, request.labels)
    description = config.model_config(
        facts.model,
        variant.format,
        classes=facts.classes,
        preprocessing=request.preprocessing,
        output=request.output,
        serving=request.serving,
        labelled=labels is not None,
        trained=facts.weights.trained,
        precision=variant.precision,
        plans=tensorrt.compute_capabilities(folder),
    )
    return {CONFIG_FILENAME: config.to_text(description), config.LABELS_FILENAME: labels}


def _describe(staged: StagedModel, request: Request, variant: Variant, facts: manifest.Manifest) -> None:
    for filename, content in _texts(request, variant, facts, staged.folder / str(facts.version)).items():
        staged.write(filename, content)


def _refresh(job: _Job, variant: Variant, facts: manifest.Manifest) -> None:
    """Write config and labels anew where options changed that need no other artifact."""
    folder = job.repository.root / facts.model
    texts = _texts(job.request, variant, facts, folder / str(facts.version))
    current = {name: path.read_text(encoding="utf-8") if (path := folder / name).exists() else None for name in texts}
    if current != texts:
        with job.repository.stage(facts.model) as staged:
            _describe(staged, job.request, variant, facts)
            staged.publish()
