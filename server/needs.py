"""What serving a model takes besides the model, as its config.pbtxt says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from seresnext101_triton.client.server_side import IMAGE_BYTES, PREPROCESS_PREFIX
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server.errors import InstallationError, NothingToServe, ServerError

# Takes model folders, names of models that must stay, and a function for a line; returns the rest.
LeaveOut = Callable[[Sequence[Path], Collection[str], Callable[[str], None]], list[Path]]


@dataclass(frozen=True)
class Needs:
    """What serving a model takes besides the model itself.

    Attributes:
        models: The models that an ensemble runs.
        images: Whether it decodes images, for which the server's Python needs this package.
        bytes: Whether the server must pass BYTES tensors to a Python model.
        gpu: Whether it runs on a GPU only.
    """

    models: tuple[str, ...] = ()
    images: bool = False
    bytes: bool = False
    gpu: bool = False


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
        gpu=any(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in config.instance_group),
    )


def with_needed(folders: Sequence[Path], names: Collection[str]) -> list[Path]:
    """The models that were named, and those that they need.

    A model that decodes images for others is served only if one of them is.

    Args:
        folders: The folders of all models.
        names: Names of models; all of them if it is empty.
    """
    models = {folder.name: folder for folder in folders}
    wanted = set(names) or {name for name in models if not name.startswith(PREPROCESS_PREFIX)}
    for name in list(wanted):
        wanted.update(models.keys() & set(needs_of(models[name]).models))
    return [folder for folder in folders if folder.name in wanted]


def artifact_models(folders: Sequence[Path]) -> list[str]:
    """The names of the models that run an artifact themselves."""
    needs = {folder.name: needs_of(folder) for folder in folders}
    return [name for name, found in needs.items() if not found.models and not found.images]


def without_bytes(
    folders: Sequence[Path], names: Collection[str], note: Callable[[str], None]
) -> list[Path]:
    """Leave out the models that take image files as BYTES, and say so.

    Raises:
        InstallationError: A model that was named is among them, or no model is left.
    """
    why = (
        "with numpy 2, the embedded tritonserver cannot take image files as BYTES: export the "
        "model again with `image_input=uint8`, or install numpy 1.26"
    )
    missing = {each.name for each in folders if needs_of(each).bytes}
    return _without(folders, missing, names, note, InstallationError, why)


def without_gpu(
    folders: Sequence[Path], names: Collection[str], note: Callable[[str], None]
) -> list[Path]:
    """On a machine without a GPU, leave out the models that run on a GPU only, and say so.

    Raises:
        NothingToServe: A model that was named is among them, or no model is left.
    """
    missing = {each.name for each in folders if needs_of(each).gpu}
    if missing and gpus.find():
        missing = set()
    why = "the config asks for a GPU (KIND_GPU), and this machine has none that CUDA can use"
    return _without(folders, missing, names, note, NothingToServe, why)


def without_images(folders: Sequence[Path], names: Collection[str]) -> list[Path]:
    """Leave out the models that take image files.

    Raises:
        InstallationError: A model that was named is among them.
    """
    kept, left_out = _split(folders, {each.name for each in folders if needs_of(each).images})
    if named := sorted(set(left_out) & set(names)):
        raise InstallationError(
            f"{', '.join(named)} cannot be served by NVIDIA's own image, which lacks the code that "
            "decodes image files: build one with `docker build --file server/Dockerfile --tag "
            "seresnext101 .` and name it with `image=seresnext101`"
        )
    return kept


def _without(  # noqa: PLR0913  (what is left out, and all that is said of it)
    folders: Sequence[Path],
    missing: set[str],
    names: Collection[str],
    note: Callable[[str], None],
    error: type[ServerError],
    why: str,
) -> list[Path]:
    """Leave out some models and those that need them, and say why.

    Raises `error` if a model that was named is among them, or no model is left.
    """
    kept, left_out = _split(folders, missing)
    if not left_out:
        return kept
    if set(left_out) & set(names) or not kept:
        raise error(f"{', '.join(left_out)} cannot be served: {why}")
    note(f"left out: {', '.join(left_out)}: {why}")
    return kept


def _split(folders: Sequence[Path], missing: set[str]) -> tuple[list[Path], list[str]]:
    """The models to serve without some others, and the names of those others.

    A model that decodes images for none of the rest is in neither.
    """
    left_out = [
        folder
        for folder in folders
        if folder.name in missing or missing & set(needs_of(folder).models)
    ]
    if not left_out:
        return list(folders), []
    rest = [folder for folder in folders if folder not in left_out]
    return with_needed(rest, ()), [folder.name for folder in left_out]
