"""Which version of a model is served, and with which config.

A model has one config.pbtxt and one file of labels beside its versions. They belong to the version
that its policy has Triton serve. The config and the labels of every other version lie in that
version's own folder, so that a version comes back with the config that it was served with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.export import config, manifest
from seresnext101_triton.export.errors import VersionError
from seresnext101_triton.export.publication import StagedModel
from seresnext101_triton.server.integrity import MANIFEST_FILENAME
from seresnext101_triton.server.versions import (
    CONFIG_FILENAME,
    LABELS_FILENAME,
    newest_policy,
    read_config,
    selected,
    versions,
)

BACKUP_FILENAME = "config.pbtxt.before-tuning"  # of `perf tune`
# The content of the files of a version, by name. None means that the file must not exist.
Texts = Mapping[str, str | None]

_OF_THE_SERVED = (CONFIG_FILENAME, LABELS_FILENAME, BACKUP_FILENAME)


def by_policy(folder: Path) -> list[int]:
    """The versions in a model's folder that its config.pbtxt has Triton serve, oldest first.

    Raises:
        VersionError: The config cannot be parsed.
        OSError: The folder cannot be read.
    """
    return selected(_config(folder), versions(folder))


def policy_of(folder: Path) -> pb.ModelVersionPolicy:
    """The version policy of a model.

    Raises:
        VersionError: The config cannot be parsed.
        OSError: The folder cannot be read.
    """
    return _config(folder).version_policy


def add(staged: StagedModel, version: int, texts: Texts) -> bool:
    """Put the config and the labels of a new version where they belong.

    Args:
        staged: The model, with the folder of the new version in it.
        version: The new version.
        texts: The files.

    Returns:
        Whether the new version is served. It is not if another version was promoted.
    """
    place = _place(staged.folder, version)
    if not place:
        others = [each for each in versions(staged.folder) if each != version]
        _put_aside(staged, selected(_readable_config(staged.folder), others))
    replace(staged, version, texts)
    return not place


def replace(staged: StagedModel, version: int, texts: Texts) -> None:
    """Replace the config and the labels of a version. The version policy stays as it is."""
    place = _place(staged.folder, version)
    for filename, content in adapted(staged.folder, version, texts).items():
        staged.write(place + filename, content)


def current(folder: Path, version: int, filename: str) -> bytes | None:
    """The config or the labels of a version as they are now. None if there is no such file."""
    path = folder / _place(folder, version) / filename
    return path.read_bytes() if path.is_file() else None


def adapted(folder: Path, version: int, texts: Texts) -> Texts:
    """The files of a version, with the version policy that the model has now."""
    config, policy = _readable_config(folder), newest_policy()
    has_policy = config.HasField("version_policy") and selected(config, versions(folder))
    if has_policy and not _place(folder, version):
        policy = config.version_policy
    return {**texts, CONFIG_FILENAME: with_policy(texts[CONFIG_FILENAME], policy)}


def with_policy(text: str | None, policy: pb.ModelVersionPolicy) -> str:
    """A config.pbtxt with another version policy. The text is the same if it has this one."""
    changed = config.from_text(text or "")
    if text and changed.version_policy == policy:
        return text
    changed.version_policy.CopyFrom(policy)
    return config.to_text(changed)


def switch(staged: StagedModel, version: int, policy: pb.ModelVersionPolicy) -> None:
    """Have a version served instead of the one that is served now.

    Args:
        staged: The model.
        version: The version to serve.
        policy: A version policy that selects this version.

    Raises:
        VersionError: It is not known with which config the version was served.
    """
    folder = staged.folder
    if not (folder / CONFIG_FILENAME).is_file():
        raise VersionError(f"{folder.name} has no {CONFIG_FILENAME} whose policy could be changed")
    served = by_policy(folder)
    if served != [version]:
        kept = {name: _content(folder / str(version) / name) for name in _OF_THE_SERVED}
        if kept[CONFIG_FILENAME] is None:
            _check_fits(folder, version)
            _put_aside(staged, served)
        else:
            _put_aside(staged, served, always=True)
            for filename, content in kept.items():
                staged.write(filename, content)
                staged.write(f"{version}/{filename}", None)
    text = (folder / CONFIG_FILENAME).read_text(encoding="utf-8")
    staged.write(CONFIG_FILENAME, with_policy(text, policy))


def _check_fits(folder: Path, version: int) -> None:
    """Refuse a config that the export wrote for a version with other images or classes.

    Raises:
        VersionError: It is so.
    """
    facts = manifest.read(folder / str(version))
    if facts is None:
        return
    text = (folder / CONFIG_FILENAME).read_text(encoding="utf-8")
    try:
        fits = config.contract(text) == facts.preprocessing
    except ContractError:
        fits = False
    parsed = config.from_text(text)
    if not fits or [output.dims[-1:] for output in parsed.output] != [[facts.classes]]:
        raise VersionError(
            f"{folder.name}: {CONFIG_FILENAME} is of a version with other images or classes than "
            f"version {version}, whose own config was not kept: export version {version} anew"
        )


def _config(folder: Path) -> pb.ModelConfig:
    try:
        return read_config(folder)
    except ValueError as error:
        raise VersionError(str(error)) from None


def _readable_config(folder: Path) -> pb.ModelConfig:
    """The config, or an empty one if Triton cannot read it: the export replaces such a config."""
    try:
        return read_config(folder)
    except ValueError:
        return pb.ModelConfig()


def _place(folder: Path, version: int) -> str:
    """Where the config and the labels of a version lie, relative to the model's folder."""
    served = selected(_readable_config(folder), versions(folder))
    return "" if version in served or not served else f"{version}/"


def _put_aside(staged: StagedModel, served: Sequence[int], *, always: bool = False) -> None:
    """Keep the files of the version that was served in its own folder.

    Args:
        staged: The model.
        served: The versions that were served. The newest one gets the files.
        always: Do so too if this toolkit did not publish the version.
    """
    if not (staged.folder / CONFIG_FILENAME).is_file():
        return
    for version in served[-1:]:
        if always or (staged.folder / str(version) / MANIFEST_FILENAME).is_file():
            for filename in _OF_THE_SERVED:
                staged.write(f"{version}/{filename}", _content(staged.folder / filename))
            text = (staged.folder / CONFIG_FILENAME).read_text(encoding="utf-8")
            staged.write(f"{version}/{CONFIG_FILENAME}", with_policy(text, newest_policy()))
            staged.write(BACKUP_FILENAME, None)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
