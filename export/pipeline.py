"""One export from end to end: weights, artifacts, the gate, and publication. All formats that were named are published, or none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.decoding import OutputKind
from client.preprocessing import Preprocessing
from export import config, manifest
from export.errors import MissingHardware, OptionError
from export.formats import DEFAULT_FORMATS, FORMATS, INPUT, OUTPUT, Format
from export.labels import labels_for
from export.network import ARCHITECTURES, Architecture
from export.quantization import Quantization
from export.repository import CONFIG_FILENAME, MANIFEST_FILENAME, Repository, StagedModel
from export.tensorrt.plan import PlanRequest
from export.weights import resolve
from export.weights.checkpoint import sha256_of_file
from server import TRITON_RELEASE, runtimes
from server.releases import release

if TYPE_CHECKING:
    from export.formats.material import Material
    from export.formats.served import ServedNetwork
    from export.parity import Gate
    from export.quantization.images import Images
    from export.reporting import Reporter
    from export.weights import Source

PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_RECIPE = 2  # raised whenever the code here makes another artifact from the same weights and options
_ROOM_PER_ARTIFACT = 1.1  # of the weights' bytes


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        weights: As `export.weights.resolve` takes it.
        formats: Keys of `FORMATS`.
        precision: `fp32`, `fp16`, `bf16` or `int8`; None is each format's own.
        quantization: For INT8, with what and how.
        fp32_squeeze: In FP16, keep the Squeeze-and-Excitations in FP32.
        repository: The model repository.
        name: Models are called `<name>_<format>`, with the precision behind it unless it is FP32.
        architecture: Every number of the network but its class count, which the weights decide.
        target: The release of tritonserver that will serve.
        plans: What TensorRT is asked for.
        labels: A file, `none`, or None for the default.
        force: Export even what is there already.

    Raises:
        OptionError: A format or a precision is unknown, or two of the options do not go together.
        ReleaseError: The target is unknown.
    """

    weights: str
    repository: Path
    formats: tuple[str, ...] = DEFAULT_FORMATS
    precision: str | None = None
    quantization: Quantization | None = None
    fp32_squeeze: bool = False
    name: str = "seresnext101"
    architecture: Architecture = field(default_factory=lambda: ARCHITECTURES["se-resnext101-32x4d"])
    output: OutputKind = OutputKind.PROBABILITIES
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    serving: config.Serving = field(default_factory=config.Serving)
    target: str = TRITON_RELEASE
    plans: PlanRequest = field(default_factory=PlanRequest)
    labels: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise OptionError(f"unknown format {', '.join(unknown)}: choose from {', '.join(FORMATS)}")
        if not self.formats:
            raise OptionError(f"no format: choose from {', '.join(FORMATS)}")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise OptionError(f"--name {self.name!r} may have letters, digits, - and _ only")
        if self.precision not in (None, *PRECISIONS):
            raise OptionError(f"unknown precision {self.precision}: choose from {', '.join(PRECISIONS)}")
        for variant in self.variants:
            if variant.precision not in variant.format.precisions:
                known = ", ".join(variant.format.precisions)
                raise OptionError(f"{variant.format.name} is not exported in {variant.precision}: choose from {known}")
            if variant.format.cpu_only and self.serving.device != "cpu":
                raise OptionError(f"{variant.format.name} is served on CPUs only: leave --device gpu out, or the format")
            if not variant.format.batched and (self.serving.queue_size or self.serving.queue_timeout_ms or self.serving.queue_delay_us):
                raise OptionError(f"{variant.format.name} is served without Triton's batcher: it has no queue to bound or to delay")
        if (self.precision == "int8") != (self.quantization is not None):
            raise OptionError("--precision int8 and --calibration DIR, the images to quantise with, go together: name both")
        if self.fp32_squeeze and not any(variant.precision == "fp16" for variant in self.variants):
            raise OptionError("--fp32-squeeze is for FP16: name it with --precision fp16")
        if self.plans.tuning.opt_batch > self.serving.max_batch:
            raise OptionError(f"--opt-batch {self.plans.tuning.opt_batch} is over the maximum batch, {self.serving.max_batch}")
        release(self.target)

    @property
    def variants(self) -> list[Variant]:
        """What the formats are exported as, each once."""
        formats = [FORMATS[name] for name in dict.fromkeys(self.formats)]
        return [Variant(format, self.precision or format.precision) for format in formats]


@dataclass(frozen=True)
class Variant:
    """One format in one precision: what becomes one model."""

    format: Format
    precision: str

    @property
    def name(self) -> str:
        """What stands behind the request's name in the model's."""
        return self.format.name if self.precision == "fp32" else f"{self.format.name}_{self.precision}"


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
    identity = source.identity(reporter)
    variants = request.variants
    repository = Repository(request.repository)
    images = _images(request)
    keys = {variant: _key(request, variant, identity, images) for variant in variants}
    with repository.exclusive(), ExitStack() as stages:
        published = {variant: _published(repository, request, variant, keys[variant]) for variant in variants}
        missing = [variant for variant in variants if published[variant] is None]
        made = _make(missing, source, identity, request, images, repository, keys, reporter, stages) if missing else {}
        outcomes = []
        for variant in variants:
            if known := published[variant]:
                _refresh(repository, request, variant, known)
                outcomes.append(_outcome(request, known, made=False))
            else:
                staged, facts = made[variant]
                _describe(staged, request, variant, facts)
                staged.publish()
                outcomes.append(_outcome(request, facts, made=True))
    return outcomes


def _outcome(request: Request, facts: manifest.Manifest, *, made: bool) -> Outcome:
    return Outcome(facts.model, facts.version, request.repository / facts.model / str(facts.version), made, facts)


def _key(request: Request, variant: Variant, identity: str, images: Images | None) -> str:
    facts = {
        "recipe": _RECIPE,
        "weights": identity,
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
    if images and request.quantization:
        from export.quantization import recipe

        facts["quantization"] = recipe.identity(request.quantization, images)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _model_name(request: Request, variant: Variant) -> str:
    return f"{request.name}_{variant.name}"


def _images(request: Request) -> Images | None:
    """What INT8 is calibrated with and judged by."""
    if request.quantization is None:
        return None
    from export.quantization.images import Images

    return Images(request.quantization, request.preprocessing)


def _published(repository: Repository, request: Request, variant: Variant, key: str) -> manifest.Manifest | None:
    """The manifest of a model's newest version, where it is what was asked for and intact."""
    folder = repository.latest(_model_name(request, variant))
    facts = manifest.read(folder) if folder and not request.force else None
    return facts if folder and facts and facts.key == key and manifest.is_intact(folder, facts) else None


def _make(
    variants: Sequence[Variant],
    source: Source,
    identity: str,
    request: Request,
    images: Images | None,
    repository: Repository,
    keys: dict[Variant, str],
    reporter: Reporter,
    stages: ExitStack,
) -> dict[Variant, tuple[StagedModel, manifest.Manifest]]:
    """Export every variant into a stage of its own and hold each against the network."""
    from export.formats.served import ServedNetwork
    from export.parity import Gate

    network, provenance = source.load(request.architecture, reporter)
    labels_for(network.architecture.classes, request.labels)  # refused now, not after the work
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    room = round(parameters * _ROOM_PER_ARTIFACT * len(variants))
    staged = {variant: stages.enter_context(repository.stage(_model_name(request, variant), bytes_needed=room)) for variant in variants}
    scratch = stages.enter_context(repository.scratch())
    served = ServedNetwork(network, request.output)
    samples = images.samples(network.architecture.classes) if images else None
    with reporter.step("running the network on the parity inputs"):
        gate = Gate(served, request.preprocessing, request.serving.max_batch, samples)
    materials, ranges, quantization = _materials(variants, served.folded(), gate, identity, request, images, scratch, reporter)
    made = {}
    for variant in variants:
        stage = staged[variant]
        folder = stage.new_version()
        with reporter.step(f"exporting {variant.name}"):
            variant.format.export(materials[variant.precision], folder)
        with reporter.step(f"checking {variant.name} against the network"):
            parity = _prove(gate, folder, request, variant)
        facts = manifest.Manifest(
            model=_model_name(request, variant),
            version=stage.version,
            format=variant.format.name,
            precision=variant.precision,
            key=keys[variant],
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
    variants: Sequence[Variant],
    folded: ServedNetwork,
    gate: Gate,
    identity: str,
    request: Request,
    images: Images | None,
    scratch: Path,
    reporter: Reporter,
) -> tuple[dict[str, Material], dict[str, Any] | None, dict[str, Any] | None]:
    """What each precision is made from; for FP16 the ranges that show that the network fits, and for INT8 how it was quantised.

    Raises:
        RangeError: It does not fit.
    """
    import torch

    from export.formats.material import Material
    from export.ranges import measure

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
        quantized = quantize(source, f"{identity} {folded.network.architecture}", request.quantization, images, gate, scratch, reporter)
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


def _refresh(repository: Repository, request: Request, variant: Variant, facts: manifest.Manifest) -> None:
    """Write config and labels anew where options changed that need no other artifact."""
    folder = repository.root / facts.model
    texts = _texts(request, variant, facts, folder / str(facts.version))
    current = {name: path.read_text(encoding="utf-8") if (path := folder / name).exists() else None for name in texts}
    if current != texts:
        with repository.stage(facts.model) as staged:
            _describe(staged, request, variant, facts)
            staged.publish()
