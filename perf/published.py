"""A model of a repository with everything that measuring it needs: folder, manifest and config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc.model_config_pb2 as pb

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.export import config, manifest
from seresnext101_triton.export.format import Format
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.server.models import model_and_version, versions_to_serve
from seresnext101_triton.server.versions import CONFIG_FILENAME


@dataclass(frozen=True)
class PublishedModel:
    """A version of a model that this toolkit published.

    Attributes:
        folder: The folder of the version.
        manifest: The facts that the export wrote there.
        config: The config of the model.
    """

    folder: Path
    manifest: Manifest
    config: pb.ModelConfig

    @classmethod
    def find(cls, repository: Path, model: str) -> PublishedModel:
        """Read the version of a model that is served, or version N of MODEL@N.

        Raises:
            PerfError: The repository has no such model or version, or this toolkit did not publish
                it.
        """
        folder = _folder(Repository(repository), model)
        facts = manifest.read(folder) if folder else None
        if folder is None or facts is None:
            raise PerfError(f"{repository} holds no model {model} that this toolkit published")
        kept = folder / CONFIG_FILENAME
        text = (kept if kept.is_file() else folder.parent / kept.name).read_text(encoding="utf-8")
        return cls(folder, facts, config.from_text(text))

    @property
    def format(self) -> Format:
        """The format of the artifact."""
        return FORMATS[self.manifest.format]

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters in the config."""
        return {key: value.string_value for key, value in self.config.parameters.items()}

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the model."""
        return Preprocessing.from_parameters(self.parameters)

    @property
    def artifact(self) -> Path:
        """The file that the runtime loads."""
        return self.folder / str(self.manifest.artifacts[0]["file"])

    @property
    def on_gpu(self) -> bool:
        """Whether the config places the model on a GPU."""
        return bool(self.config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU)

    @property
    def instances(self) -> int:
        """The number of instances in the config."""
        return int(self.config.instance_group[0].count or 1)


def _folder(repository: Repository, model: str) -> Path | None:
    """The folder of a version; None if there is none."""
    name, version = model_and_version(model)
    if version is None:
        served = versions_to_serve(repository.root / name)
        return repository.root / name / str(served[-1]) if served else repository.latest(name)
    return repository.root / name / str(version)
