"""config.pbtxt: what Triton must know to serve a model, and what a client must know to use it."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from seresnext101_triton.client.contract import (
    ALLOWED_ERROR_PARAMETER,
    NORMALISED,
    OUTPUT_KIND_PARAMETER,
    PIXELS,
    SEEDED,
    UNPROVEN_PARAMETER,
    WEIGHTS_PARAMETER,
    Preprocessing,
)
from seresnext101_triton.export.format import INPUT, OUTPUT, Format
from seresnext101_triton.export.formats import FORMATS
from seresnext101_triton.export.manifest import Manifest
from seresnext101_triton.export.precision import precision_named
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.server.versions import LABELS_FILENAME, newest_policy

_HEADER = "# Written by `python -m export`, and written anew by the next export of this model.\n"
_KINDS = {"cpu": pb.ModelInstanceGroup.KIND_CPU, "gpu": pb.ModelInstanceGroup.KIND_GPU}
# Triton's types of the inputs that a contract can name.
TYPES = {"float32": pb.TYPE_FP32, "uint8": pb.TYPE_UINT8}
_LAYOUTS = {NORMALISED: pb.ModelInput.FORMAT_NCHW, PIXELS: pb.ModelInput.FORMAT_NHWC}
_INSTANCES = {"cpu": 1, "gpu": 2}
_UNBATCHED_INSTANCES = 2


def model_config(manifest: Manifest, serving: Serving, *, labelled: bool) -> pb.ModelConfig:
    """The config of one model.

    Args:
        manifest: What is served.
        serving: How it is served.
        labelled: Whether a file of labels lies beside the config.
    """
    format = FORMATS[manifest.format]
    device = format.device(serving)
    image = manifest.preprocessing
    dims, kind = list(image.shape), TYPES[image.dtype.name]
    batched = format.batches(serving)
    # Triton knows of the batch axis itself where it makes the batches.
    axis = [] if batched else [-1]
    layout = _LAYOUTS[image.layout] if batched else pb.ModelInput.FORMAT_NONE
    labels = LABELS_FILENAME if labelled else ""
    instances = _INSTANCES[device] if batched else _UNBATCHED_INSTANCES
    config = pb.ModelConfig(
        name=manifest.model,
        max_batch_size=serving.max_batch if batched else 0,
        input=[pb.ModelInput(name=INPUT, data_type=kind, format=layout, dims=axis + dims)],
        output=[
            pb.ModelOutput(
                name=OUTPUT,
                data_type=pb.TYPE_FP32,
                dims=[*axis, manifest.classes],
                label_filename=labels,
            )
        ],
        version_policy=newest_policy(),
        instance_group=[
            pb.ModelInstanceGroup(kind=_KINDS[device], count=serving.instances or instances)
        ],
    )
    setattr(config, format.platform_field, format.platform)
    if batched:
        _batch(config, serving)
    if serving.response_cache:
        config.response_cache.enable = True
    _warm_up(config, serving.max_batch, image, every_batch=device == "gpu")
    for key, value in _parameters(manifest, serving.threads).items():
        config.parameters[key].string_value = value
    format.configure(config, [artifact["file"] for artifact in manifest.artifacts])
    if device == "gpu":
        format.tune_gpu(config)
    return config


def _batch(config: pb.ModelConfig, serving: Serving) -> None:
    """Let Triton make batches, with a queue policy only where one was asked for."""
    config.dynamic_batching.max_queue_delay_microseconds = serving.queue_delay_us
    config.dynamic_batching.SetInParent()
    if serving.queue_size or serving.queue_timeout_ms:
        policy = config.dynamic_batching.default_queue_policy
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = serving.queue_timeout_ms * 1000
        policy.allow_timeout_override = True
        policy.max_queue_size = serving.queue_size


def _warm_up(
    config: pb.ModelConfig, largest: int, image: Preprocessing, *, every_batch: bool
) -> None:
    """Have Triton run the model before it calls it ready.

    Args:
        config: It is changed.
        largest: The maximum batch.
        image: The shape and the type of one image.
        every_batch: Run every batch size, because a GPU's libraries choose their kernels anew for
            each that they have not seen; otherwise 1 and the maximum only.
    """
    batched = config.max_batch_size > 0
    for batch in range(1, largest + 1) if every_batch else sorted({1, largest}):
        # Triton makes a batch of so many requests of one image each. Without a batcher, one request
        # brings all images; a batch size of 0 would be skipped.
        warmup = config.model_warmup.add(name=f"batch {batch}", batch_size=batch if batched else 1)
        shape = image.shape if batched else (batch, *image.shape)
        warmup.inputs[INPUT].CopyFrom(
            pb.ModelWarmup.Input(data_type=TYPES[image.dtype.name], dims=shape, random_data=True)
        )


def largest_batch(config: pb.ModelConfig) -> int:
    """The most images that a request to a model may bring.

    A model without a batcher takes any number. Its warm-up has the number that was proven.
    """
    warmed_up = (each.inputs[INPUT].dims[0] for each in config.model_warmup)
    return config.max_batch_size or max(warmed_up, default=1)


def with_batcher(config: pb.ModelConfig, format: Format) -> pb.ModelConfig:
    """The config of a model without a batcher, with Triton's batcher.

    Args:
        config: What `model_config` wrote for `format`. It does not change.
        format: The format of the artifact.
    """
    changed = pb.ModelConfig()
    changed.CopyFrom(config)
    changed.max_batch_size = largest_batch(config)
    changed.dynamic_batching.SetInParent()
    changed.input[0].format = _LAYOUTS[contract(to_text(config)).layout]
    for tensor in (*changed.input, *changed.output):
        del tensor.dims[0]
    for warmup in changed.model_warmup:
        warmup.batch_size = warmup.inputs[INPUT].dims.pop(0)
    format.configure(changed, [])
    return changed


def _parameters(manifest: Manifest, threads: int) -> dict[str, str]:
    """What the backend and the client are told."""
    format, precision = FORMATS[manifest.format], precision_named(manifest.precision)
    return {**format.parameters(precision, threads), **contract_parameters(manifest)}


def contract_parameters(manifest: Manifest) -> dict[str, str]:
    """What the client is told."""
    parameters = {
        OUTPUT_KIND_PARAMETER: manifest.output,
        **manifest.preprocessing.to_parameters(),
    }
    if not manifest.weights.trained:
        parameters[WEIGHTS_PARAMETER] = SEEDED
    if manifest.unproven:
        parameters[UNPROVEN_PARAMETER] = "true"
    if manifest.parity.get("allow_error") is not None:
        parameters[ALLOWED_ERROR_PARAMETER] = repr(manifest.parity["allow_error"])
    return parameters


def to_text(config: pb.ModelConfig) -> str:
    """The content of config.pbtxt, read back and found equal."""
    text = _HEADER + text_format.MessageToString(config)
    assert from_text(text) == config
    return text


def from_text(text: str) -> pb.ModelConfig:
    """Parse a config.pbtxt; the inverse of `to_text`."""
    return text_format.Parse(text, pb.ModelConfig())


def contract(text: str) -> Preprocessing:
    """How a config.pbtxt tells clients to prepare images, read as they read it."""
    return Preprocessing.from_parameters(
        {key: value.string_value for key, value in from_text(text).parameters.items()}
    )
