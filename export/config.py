"""config.pbtxt: what Triton must know to serve a model, and what a client must know to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from client.decoding import OUTPUT_KIND_PARAMETER, SEEDED, WEIGHTS_PARAMETER, OutputKind
from client.preprocessing import Preprocessing
from export import gpu_config
from export.errors import OptionError
from export.formats import INPUT, OUTPUT, Format

LABELS_FILENAME = "labels.txt"
_HEADER = "# Written by `python -m export`, and written anew by the next export of this model.\n"
_KINDS = {"cpu": pb.ModelInstanceGroup.KIND_CPU, "gpu": pb.ModelInstanceGroup.KIND_GPU}
_INSTANCES = {"cpu": 1, "gpu": 2}
_UNBATCHED_INSTANCES = 2


@dataclass(frozen=True)
class Serving:
    """How a model is served; none of it changes the artifact.

    Attributes:
        max_batch: The one maximum batch: of the artifact's batch axis, of the parity gate and of Triton's batcher.
        device: `cpu` or `gpu`.
        instances: Copies of the model that run at the same time, on each device; 0 is one on a CPU, and two on a GPU or without a
            batcher, where one computes while the other copies.
        threads: CPU threads of one run; 0 is the machine's physical cores, within the container's quota.
        queue_size: Requests that may wait; one more is rejected. 0 is any number.
        queue_timeout_ms: How long one may wait before it is rejected, in milliseconds; 0 is any time.
        queue_delay_us: How long the batcher may hold a request back to fill a batch, in microseconds.

    A bound of the queue is paid for: with any queue policy Triton's batcher is not woken by a request that arrives while every instance
    is busy and the queue empty, and looks again after 500 ms (measured with 24.10; triton-inference-server/server issue 8870 has the
    same gate wear out over minutes of traffic, mended in core pull request 509 of July 2026). So there is none unless asked for.

    Raises:
        OptionError: A value is out of range.
    """

    max_batch: int = 8
    device: str = "cpu"
    instances: int = 0
    threads: int = 0
    queue_size: int = 0
    queue_timeout_ms: int = 0
    queue_delay_us: int = 0

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise OptionError(f"max_batch must be at least 1, not {self.max_batch}")
        for name in ("instances", "threads", "queue_size", "queue_timeout_ms", "queue_delay_us"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must not be negative, as {getattr(self, name)} is")
        if self.device not in _KINDS:
            raise OptionError(f"device must be one of {', '.join(_KINDS)}, not {self.device!r}")


def model_config(
    name: str,
    format: Format,
    *,
    classes: int,
    preprocessing: Preprocessing,
    output: OutputKind,
    serving: Serving,
    labelled: bool,
    trained: bool,
    precision: str = "fp32",
    plans: Mapping[str, str] | None = None,
) -> pb.ModelConfig:
    """The config of one model.

    Args:
        name: The model's name, and its folder's.
        format: What is served.
        classes: Length of the output vector.
        preprocessing: The contract for the input.
        output: The contract for the output.
        serving: How it is served.
        labelled: Whether a file of labels lies beside the config.
        trained: False for seeded weights; the client warns of those.
        precision: What it computes in, where the config decides that.
        plans: TensorRT plans by compute capability, where there is more than one.
    """
    device = "gpu" if format.gpu_only else serving.device
    dims = [3, preprocessing.crop, preprocessing.crop]
    instances = serving.instances or (_INSTANCES[device] if format.batched else _UNBATCHED_INSTANCES)
    axis = [] if format.batched else [-1]  # of the batch, which Triton knows of itself where it batches
    layout = pb.ModelInput.FORMAT_NCHW if format.batched else pb.ModelInput.FORMAT_NONE  # it would want three dims
    labels = LABELS_FILENAME if labelled else ""
    config = pb.ModelConfig(
        name=name,
        max_batch_size=serving.max_batch if format.batched else 0,
        input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_FP32, format=layout, dims=axis + dims)],
        output=[pb.ModelOutput(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[*axis, classes], label_filename=labels)],
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        instance_group=[pb.ModelInstanceGroup(kind=_KINDS[device], count=instances)],
    )
    if format.batched:
        config.platform = format.platform
        config.dynamic_batching.max_queue_delay_microseconds = serving.queue_delay_us
        config.dynamic_batching.SetInParent()
    else:
        config.backend = format.platform
    if serving.queue_size or serving.queue_timeout_ms:
        policy = config.dynamic_batching.default_queue_policy
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = serving.queue_timeout_ms * 1000
        policy.allow_timeout_override = True
        policy.max_queue_size = serving.queue_size
    # A GPU's libraries choose their kernels anew for every batch size they have not seen.
    for batch in range(1, serving.max_batch + 1) if device == "gpu" else sorted({1, serving.max_batch}):
        warmup = config.model_warmup.add(name=f"batch {batch}", batch_size=batch if format.batched else 0)
        shape = dims if format.batched else [batch, *dims]
        warmup.inputs[INPUT].CopyFrom(pb.ModelWarmup.Input(data_type=pb.TYPE_FP32, dims=shape, random_data=True))
    parameters = {
        **({format.thread_parameter: str(serving.threads)} if format.thread_parameter else {}),
        **cpu_parameters(format, precision),
        OUTPUT_KIND_PARAMETER: output.value,
        **preprocessing.to_parameters(),
    }
    if not trained:
        parameters[WEIGHTS_PARAMETER] = SEEDED
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    config.cc_model_filenames.update(plans or {})
    if device == "gpu":
        gpu_config.tune(config, format, dims)
    return config


def cpu_parameters(format: Format, precision: str) -> dict[str, str]:
    """What a backend must be told besides threads: OpenVINO that one run may have all of them, and its precision.

    What INT8 leaves in floating point runs in bfloat16 where the processor has it, as NVIDIA's backend would run it anyway.
    """
    if format.name != "openvino":
        return {}
    return {"PERFORMANCE_HINT": "LATENCY", **({"HINT_BF16": "YES"} if precision in ("bf16", "int8") else {})}


def to_text(config: pb.ModelConfig) -> str:
    """The content of config.pbtxt, read back and found equal."""
    text = _HEADER + text_format.MessageToString(config)
    assert from_text(text) == config
    return text


def from_text(text: str) -> pb.ModelConfig:
    """Parse a config.pbtxt; the inverse of `to_text`."""
    return text_format.Parse(text, pb.ModelConfig())
