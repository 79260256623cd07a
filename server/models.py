"""Which models of a repository a server serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.server_side import IMAGE_BYTES, PREPROCESS_PREFIX
from seresnext101_triton.server.errors import NothingToServe


@dataclass(frozen=True)
class Needs:
    """What serving a model takes besides the model itself.

    Attributes:
        models: The models that an ensemble runs.
        images: Whether it decodes images, for which the server's Python needs this package.
        bytes: Whether the server must pass BYTES tensors to a Python model.
    """

    models: tuple[str, ...] = ()
    images: bool = False
    bytes: bool = False


def needs_of(folder: Path) -> Needs:
    """What serving a model takes, as its config.pbtxt says.

    A config that is missing or cannot be read needs nothing: the server will say what is wrong.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, pb.ModelConfig(), allow_unknown_field=True)
    except (OSError, ValueError, text_format.ParseError):
        return Needs()
    prepares = folder.name.startswith(PREPROCESS_PREFIX)
    types = [pb.DataType.Name(tensor.data_type) for tensor in config.input]
    return Needs(
        tuple(step.model_name for step in config.ensemble_scheduling.step),
        images=prepares,
        bytes=prepares and IMAGE_BYTES in types,
    )


def served_models(repository: Path, names: Sequence[str] = ()) -> list[Path]:
    """The model folders of a repository that have at least one version.

    A model that decodes images for others is served only if one of them is.

    Args:
        repository: The model repository.
        names: The models to serve; the models that they need are added. If it is empty, all models
            are served.

    Raises:
        NothingToServe: The repository is not a folder, holds no exported model, or lacks a model
            that was named.
    """
    if not repository.is_dir():
        raise NothingToServe(
            f"{repository} is not a folder: name a model repository with `repository`"
        )
    models = {
        folder.name: folder
        for folder in sorted(repository.iterdir())
        if folder.is_dir()
        and not folder.name.startswith(".")
        and any(path.name.isdigit() for path in folder.iterdir())
    }
    if not models:
        raise NothingToServe(
            f"{repository} holds no exported model. Export one: python -m export --weights ngc "
            f"--repository {repository}"
        )
    if unknown := set(names) - models.keys():
        known = ", ".join(models)
        missing = ", ".join(sorted(unknown))
        raise NothingToServe(f"{repository} holds no exported model {missing}: choose from {known}")
    wanted = set(names) or {name for name in models if not name.startswith(PREPROCESS_PREFIX)}
    for name in list(wanted):
        wanted.update(models.keys() & set(needs_of(models[name]).models))
    return [folder for name, folder in models.items() if name in wanted]


def artifact_models(repository: Path) -> list[str]:
    """The names of the models of a repository that run an artifact themselves.

    Raises:
        NothingToServe: As `served_models`.
    """
    return [
        folder.name
        for folder in served_models(repository)
        if not (needs := needs_of(folder)).models and not needs.images
    ]


def without(folders: Sequence[Path], needed: Iterable[Path]) -> list[Path]:
    """The models that are left if some are not served, nor the ensembles that need them."""
    missing = {folder.name for folder in needed}
    return [
        folder
        for folder in folders
        if folder.name not in missing and not missing & set(needs_of(folder).models)
    ]
