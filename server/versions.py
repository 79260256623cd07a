"""The versions of a model, and which of them its config.pbtxt has Triton serve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

CONFIG_FILENAME = "config.pbtxt"
LABELS_FILENAME = "labels.txt"

# What Triton takes for a version: the name begins with no zero and fits into 64 bits
# (docs/user_guide/model_repository.md).
_VERSION = re.compile("[1-9][0-9]{0,17}")


def taken_numbers(folder: Path) -> list[int]:
    """Every name in a model's folder that Triton takes for a version, in order.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name))


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, oldest first.

    Raises:
        OSError: The folder cannot be read.
    """
    return [number for number in taken_numbers(folder) if (folder / str(number)).is_dir()]


def config_folder(folder: Path, version: int) -> Path:
    """Where the config and the labels of a version are: with it, or else in the model's folder."""
    own = folder / str(version)
    return own if (own / CONFIG_FILENAME).is_file() else folder


def read_config(folder: Path) -> pb.ModelConfig:
    """The config.pbtxt of a model's folder. It is empty if there is no file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a config.
    """
    path = folder / CONFIG_FILENAME
    if not path.exists():
        return pb.ModelConfig()
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is not a config of Triton: {error}") from None


def selected(config: pb.ModelConfig, available: Sequence[int]) -> list[int]:
    """The versions that Triton serves by the version policy of a config, oldest first.

    Args:
        config: The config of the model.
        available: The versions in the model's folder, oldest first.

    Triton serves the newest version if the config has no policy
    (docs/user_guide/model_configuration.md).
    """
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return list(available)
        case "specific":
            return [version for version in available if version in set(policy.specific.versions)]
        case _:
            return list(available)[-max(policy.latest.num_versions, 1) :]


def newest_policy() -> pb.ModelVersionPolicy:
    """The policy by which the newest version is served, also one that is published later."""
    return pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1))


def pinned_policy(*versions: int) -> pb.ModelVersionPolicy:
    """The policy by which exactly these versions are served."""
    return pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=versions))
