"""Models that take image files: for a model `NAME` the ensemble `NAME_image`.

The ensemble runs a Python model, which decodes and prepares images with the client's code, and then
`NAME`. So Triton's batcher still makes batches of the images of many callers. All models with the
same contract share one such Python model, whose name is made from the contract.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.images import ImageOptions
from seresnext101_triton.client.server_side import (
    IMAGE_PARAMETER,
    IMAGE_SUFFIX,
    IMAGE_TENSOR,
    IMAGE_TYPES,
    PREPROCESS_PREFIX,
    option_parameters,
)
from seresnext101_triton.export import config, promotion
from seresnext101_triton.export.errors import OptionError, RepositoryError
from seresnext101_triton.export.format import INPUT, OUTPUT
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.publication import Publication
from seresnext101_triton.export.serving import DEFAULT_IMAGE_INSTANCES, ImageInput
from seresnext101_triton.server.versions import (
    CONFIG_FILENAME,
    LABELS_FILENAME,
    newest_policy,
    read_config,
)

_PREPARED = "prepared"
_MODEL_FILENAME = "model.py"
_MODEL = '''"""Decodes and prepares images. Written by `python -m export`.

The server's Python needs the package, numpy and Pillow: see server/Dockerfile.
"""

from seresnext101_triton.server.backends.image import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
# A server must find a folder for the version, and object stores keep no empty folder.
_PLACEHOLDER = "README.txt"
_NOTHING_HERE = "An ensemble has no files. Triton only wants to find this folder.\n"


@dataclass(frozen=True)
class Folder:
    """The content of a model's folder that has one version.

    Attributes:
        name: Name of the model.
        version: The version.
        texts: Each file's path in the folder and its content; None if it must not exist.
    """

    name: str
    version: int
    texts: Mapping[str, str | None]

    def publish(self, publication: Publication) -> bool:
        """Stage the folder, unless it is there already. Return whether it was staged."""
        if self._is_there(publication.folder_of(self.name)):
            return False
        staged = publication.stage(self.name)
        staged.keep_only(self.version)
        for filename, content in self.texts.items():
            staged.write(filename, content)
        return True

    def _is_there(self, folder: Path) -> bool:
        try:
            versions = [path.name for path in folder.iterdir() if path.name.isdigit()]
            return versions == [str(self.version)] and all(
                (folder / name).read_text(encoding="utf-8") == text
                if text is not None
                else not (folder / name).exists()
                for name, text in self.texts.items()
            )
        except (OSError, ValueError):
            return False


def stage(
    publication: Publication, facts: Manifest, wanted: ImageInput | None = None
) -> str | None:
    """Stage the ensemble of one model, if there shall be one and its version is served.

    Args:
        publication: The transaction, in which the model itself may be staged.
        facts: The manifest of the model's version.
        wanted: How image files are taken. If it is None, an ensemble that is published already is
            kept up to date.

    Returns:
        The name of the ensemble. None if nothing had to be staged.

    Raises:
        RepositoryError: Another model has the ensemble's name.
    """
    wanted = wanted or published(publication.root, facts.model)
    folder = publication.folder_of(facts.model)
    if wanted is None or facts.version not in promotion.by_policy(folder):
        return None
    labels = folder / LABELS_FILENAME
    *others, ensemble = folders(
        facts,
        read_config(folder),
        wanted,
        labels.read_text(encoding="utf-8") if labels.exists() else None,
    )
    for other in others:
        other.publish(publication)
    return ensemble.name if ensemble.publish(publication) else None


def folders(
    facts: Manifest, model: pb.ModelConfig, image_input: ImageInput, labels: str | None
) -> list[Folder]:
    """The ensemble of one model, and the Python model that it needs.

    Args:
        facts: The manifest of the model.
        model: Its config.
        image_input: How image files are taken.
        labels: The content of its file of labels.
    """
    largest = config.largest_batch(model)
    limits = _limits()
    prepare = _preprocess(facts.preprocessing, image_input, largest, limits)
    ensemble = pb.ModelConfig(
        name=f"{facts.model}{IMAGE_SUFFIX}",
        platform="ensemble",
        max_batch_size=largest,
        input=[_image(image_input)],
        output=[
            pb.ModelOutput(
                name=OUTPUT,
                data_type=pb.TYPE_FP32,
                dims=[facts.classes],
                label_filename=LABELS_FILENAME if labels is not None else "",
            )
        ],
        version_policy=newest_policy(),
        ensemble_scheduling=pb.ModelEnsembling(
            step=[
                pb.ModelEnsembling.Step(
                    model_name=prepare.name,
                    model_version=-1,
                    input_map={IMAGE_TENSOR: IMAGE_TENSOR},
                    output_map={INPUT: _PREPARED},
                ),
                pb.ModelEnsembling.Step(
                    model_name=facts.model,
                    model_version=-1,
                    input_map={INPUT: _PREPARED},
                    output_map={OUTPUT: OUTPUT},
                ),
            ]
        ),
    )
    if model.HasField("response_cache"):
        ensemble.response_cache.CopyFrom(model.response_cache)
    contract = {**config.contract_parameters(facts), IMAGE_PARAMETER: image_input.type, **limits}
    for key, value in contract.items():
        ensemble.parameters[key].string_value = value
    return [
        Folder(
            prepare.name,
            1,
            {CONFIG_FILENAME: config.to_text(prepare), f"1/{_MODEL_FILENAME}": _MODEL},
        ),
        Folder(
            ensemble.name,
            facts.version,
            {
                CONFIG_FILENAME: config.to_text(ensemble),
                LABELS_FILENAME: labels,
                f"{facts.version}/{_PLACEHOLDER}": _NOTHING_HERE,
            },
        ),
    ]


def published(root: Path, model: str) -> ImageInput | None:
    """How a model's published ensemble takes image files. None if there is no ensemble.

    Raises:
        RepositoryError: Another model has the ensemble's name.
    """
    folder = root / f"{model}{IMAGE_SUFFIX}"
    path = folder / CONFIG_FILENAME
    if not folder.exists():
        return None
    try:
        known = config.from_text(path.read_text(encoding="utf-8"))
        kind = known.parameters[IMAGE_PARAMETER].string_value
        (name, *_) = [step.model_name for step in known.ensemble_scheduling.step]
        prepare = config.from_text((root / name / CONFIG_FILENAME).read_text(encoding="utf-8"))
        return ImageInput(kind, prepare.instance_group[0].count)
    except (OSError, ValueError, IndexError, text_format.ParseError, OptionError):
        raise RepositoryError(
            f"{folder} is not an ensemble that `python -m export` wrote, and has the name of the "
            f"one for {model}: remove it, or choose another `name`"
        ) from None


def _preprocess(
    preprocessing: Preprocessing,
    image_input: ImageInput,
    largest: int,
    limits: Mapping[str, str],
) -> pb.ModelConfig:
    """The config of the Python model that decodes and prepares images."""
    kind = config.TYPES[preprocessing.dtype.name]
    prepare = pb.ModelConfig(
        backend="python",
        max_batch_size=largest,
        input=[_image(image_input)],
        output=[pb.ModelOutput(name=INPUT, data_type=kind, dims=preprocessing.shape)],
    )
    for key, value in {**preprocessing.to_parameters(), **limits}.items():
        prepare.parameters[key].string_value = value
    facts = json.dumps(config.to_text(prepare)).encode()
    prepare.name = f"{PREPROCESS_PREFIX}{hashlib.sha256(facts).hexdigest()[:8]}"
    count = image_input.instances or DEFAULT_IMAGE_INSTANCES
    prepare.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=count)
    return prepare


def _image(image_input: ImageInput) -> pb.ModelInput:
    """The input: one image in each row of BYTES, or one image of any length of UINT8."""
    kind = pb.DataType.Value(IMAGE_TYPES[image_input.type])
    dims = [1] if image_input.type == "bytes" else [-1]
    return pb.ModelInput(name=IMAGE_TENSOR, data_type=kind, dims=dims)


def _limits() -> dict[str, str]:
    options = ImageOptions()
    return {key: str(getattr(options, name)) for name, key in option_parameters().items()}
