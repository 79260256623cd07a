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
from export.errors import OptionError
from export.formats import FORMATS, INPUT, OUTPUT, Format
from export.labels import labels_for
from export.network import ARCHITECTURES, Architecture
from export.repository import CONFIG_FILENAME, MANIFEST_FILENAME, Repository, StagedModel
from export.weights import Provenance, resolve
from export.weights.checkpoint import sha256_of_file
from server import TRITON_RELEASE, runtimes

if TYPE_CHECKING:
    from export.network import SEResNeXt
    from export.parity import Gate
    from export.reporting import Reporter
    from export.weights import Source

_RECIPE = 1  # raised whenever the code here makes another artifact from the same weights and options
_ROOM_PER_ARTIFACT = 1.1  # of the weights' bytes


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        weights: As `export.weights.resolve` takes it.
        formats: Keys of `FORMATS`.
        repository: The model repository.
        name: Models are called `<name>_<format>`.
        architecture: Every number of the network but its class count, which the weights decide.
        labels: A file, `none`, or None for the default.
        force: Export even what is there already.

    Raises:
        OptionError: A format is unknown.
    """

    weights: str
    repository: Path
    formats: tuple[str, ...] = tuple(FORMATS)
    name: str = "seresnext101"
    architecture: Architecture = field(default_factory=lambda: ARCHITECTURES["se-resnext101-32x4d"])
    output: OutputKind = OutputKind.PROBABILITIES
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    serving: config.Serving = field(default_factory=config.Serving)
    labels: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise OptionError(f"unknown format {', '.join(unknown)}: choose from {', '.join(FORMATS)}")
        if not self.formats:
            raise OptionError(f"no format: choose from {', '.join(FORMATS)}")
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise OptionError(f"--name {self.name!r} may have letters, digits, - and _ only")


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

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "folder": str(self.folder),
            "made": self.made,
            "manifest": asdict(self.manifest),
        }


def export(request: Request, reporter: Reporter) -> list[Outcome]:
    """Publish every format that is not there yet.

    Raises:
        ExportError: Nothing was published; the repository is as it was.
    """
    source = resolve(request.weights)
    identity = source.identity(reporter)
    formats = [FORMATS[name] for name in dict.fromkeys(request.formats)]
    repository = Repository(request.repository)
    keys = {format.name: _key(request, format, identity) for format in formats}
    with repository.exclusive(), ExitStack() as stages:
        published = {format.name: _published(repository, request, format, keys[format.name]) for format in formats}
        missing = [format for format in formats if published[format.name] is None]
        made = _make(missing, source, request, repository, keys, reporter, stages) if missing else {}
        outcomes = []
        for format in formats:
            if known := published[format.name]:
                _refresh(repository, request, format, known)
                outcomes.append(_outcome(request, known, made=False))
            else:
                staged, facts = made[format.name]
                _describe(staged, request, format, facts)
                staged.publish()
                outcomes.append(_outcome(request, facts, made=True))
    return outcomes


def _outcome(request: Request, facts: manifest.Manifest, *, made: bool) -> Outcome:
    return Outcome(facts.model, facts.version, request.repository / facts.model / str(facts.version), made, facts)


def _key(request: Request, format: Format, identity: str) -> str:
    facts = {
        "recipe": _RECIPE,
        "weights": identity,
        "format": format.name,
        "architecture": asdict(request.architecture),
        "output": request.output.value,
        "preprocessing": asdict(request.preprocessing),
        "max_batch": request.serving.max_batch,
        "tools": manifest.tool_versions(*format.packages),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _model_name(request: Request, format: Format) -> str:
    return f"{request.name}_{format.name}"


def _published(repository: Repository, request: Request, format: Format, key: str) -> manifest.Manifest | None:
    """The manifest of a model's newest version, where it is what was asked for and intact."""
    folder = repository.latest(_model_name(request, format))
    facts = manifest.read(folder) if folder and not request.force else None
    return facts if folder and facts and facts.key == key and manifest.is_intact(folder, facts) else None


def _make(
    formats: Sequence[Format],
    source: Source,
    request: Request,
    repository: Repository,
    keys: dict[str, str],
    reporter: Reporter,
    stages: ExitStack,
) -> dict[str, tuple[StagedModel, manifest.Manifest]]:
    """Export every format into a stage of its own and hold each against the network."""
    import torch

    from export.formats.served import ServedNetwork
    from export.parity import Gate

    network, provenance = source.load(request.architecture, reporter)
    labels_for(network.architecture.classes, request.labels)  # refused now, not after the work
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    room = round(parameters * _ROOM_PER_ARTIFACT * len(formats))
    staged = {format.name: stages.enter_context(repository.stage(_model_name(request, format), bytes_needed=room)) for format in formats}
    served = ServedNetwork(network, request.output)
    crop = request.preprocessing.crop
    example = torch.zeros(2, 3, crop, crop)
    with reporter.step("running the network on the parity inputs"):
        gate = Gate(served, request.preprocessing, request.serving.max_batch)
    folded = served.folded()
    made = {}
    for format in formats:
        stage = staged[format.name]
        folder = stage.new_version()
        artifact = folder / format.filename
        with reporter.step(f"exporting {format.name}"):
            format.export(folded, example, request.serving.max_batch, artifact)
        with reporter.step(f"checking {format.name} against the network"):
            facts = _prove(gate, artifact, request, format, network, provenance, stage.version, keys[format.name])
        (folder / MANIFEST_FILENAME).write_text(facts.to_text(), encoding="utf-8")
        made[format.name] = (stage, facts)
    return made


def _prove(
    gate: Gate,
    artifact: Path,
    request: Request,
    format: Format,
    network: SEResNeXt,
    provenance: Provenance,
    version: int,
    key: str,
) -> manifest.Manifest:
    """Run an artifact as it will be served, and write down how it did.

    Raises:
        ParityError: It must not be published.
    """
    threads = {format.thread_parameter: str(request.serving.threads)}
    runtime = runtimes.load(format.runtime, artifact, threads)
    parity = gate.check(format.name, runtime)
    classes = network.architecture.classes
    crop = request.preprocessing.crop
    return manifest.Manifest(
        model=_model_name(request, format),
        version=version,
        format=format.name,
        key=key,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        artifact={
            "file": artifact.name,
            "sha256": sha256_of_file(artifact),
            "bytes": artifact.stat().st_size,
        },
        weights=provenance,
        architecture=asdict(network.architecture),
        tensors={
            "input": {"name": INPUT, "dims": [3, crop, crop]},
            "output": {"name": OUTPUT, "dims": [classes]},
        },
        output=request.output.value,
        preprocessing=asdict(request.preprocessing),
        parity=parity.to_json(),
        tools=manifest.tool_versions("numpy", "pillow", "onnxruntime", *format.packages),
        triton=TRITON_RELEASE,
    )


def _texts(request: Request, format: Format, facts: manifest.Manifest) -> dict[str, str | None]:
    """The files beside a model's versions."""
    labels = labels_for(facts.classes, request.labels)
    description = config.model_config(
        facts.model,
        format,
        classes=facts.classes,
        preprocessing=request.preprocessing,
        output=request.output,
        serving=request.serving,
        labelled=labels is not None,
        trained=facts.weights.trained,
    )
    return {CONFIG_FILENAME: config.to_text(description), config.LABELS_FILENAME: labels}


def _describe(staged: StagedModel, request: Request, format: Format, facts: manifest.Manifest) -> None:
    for filename, content in _texts(request, format, facts).items():
        staged.write(filename, content)


def _refresh(repository: Repository, request: Request, format: Format, facts: manifest.Manifest) -> None:
    """Write config and labels anew where options changed that need no other artifact."""
    folder = repository.root / facts.model
    texts = _texts(request, format, facts)
    current = {name: path.read_text(encoding="utf-8") if (path := folder / name).exists() else None for name in texts}
    if current != texts:
        with repository.stage(facts.model) as staged:
            _describe(staged, request, format, facts)
            staged.publish()
