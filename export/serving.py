"""How a model is served."""

from __future__ import annotations

from dataclasses import dataclass

from seresnext101_triton.client.server_side import IMAGE_TYPES
from seresnext101_triton.export.errors import OptionError
from seresnext101_triton.server.cores import MOST_THREADS

DEVICES = ("cpu", "gpu")

# The largest values that the runtimes take, or that the fields of Triton's configuration hold.
_LARGEST = {
    "max_batch": (1 << 31) - 1,
    "instances": (1 << 31) - 1,
    "threads": MOST_THREADS,
    "queue_size": (1 << 32) - 1,
    "queue_timeout_ms": ((1 << 64) - 1) // 1000,
    "queue_delay_us": (1 << 64) - 1,
}
# Decoding needs a core for itself while the network runs on the others.
DEFAULT_IMAGE_INSTANCES = 2
_MOST_IMAGE_INSTANCES = 1024


@dataclass(frozen=True)
class Serving:
    """How a model is served; only the maximum batch changes the artifact.

    Attributes:
        max_batch: The one maximum batch: of the artifact's batch axis, of the parity gate and of
            Triton's batcher.
        device: `cpu` or `gpu`.
        instances: Copies of the model that run at the same time, on each device; 0 is one on a CPU,
            and two on a GPU or without a batcher, where one computes while the other copies.
        threads: CPU threads of one run; 0 is the machine's physical cores, within the container's
            quota.
        queue_size: Requests that may wait; one more is rejected. 0 is any number.
        queue_timeout_ms: How long one may wait before it is rejected, in milliseconds; 0 is any
            time.
        queue_delay_us: How long the batcher may hold a request back to fill a batch, in
            microseconds.
        batcher: Have Triton's batcher make batches of a model that is otherwise served without it
            (OpenVINO).
        response_cache: Answer a request that equals an earlier one from Triton's response cache, if
            the server has one.

    A bound of the queue is paid for: with any queue policy Triton's batcher is not woken by a
    request that arrives while every instance is busy and the queue empty, and looks again after
    500 ms (measured with 24.10; triton-inference-server/server issue 8870 has the same gate wear
    out over minutes of traffic, fixed in core pull request 509 of July 2026). So there is none
    unless asked for.

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
    batcher: bool = False
    response_cache: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise OptionError(f"`max_batch` must be at least 1, not {self.max_batch}")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if value < 0:
                raise OptionError(f"`{name}` must not be negative, as {value} is")
            if value > largest:
                raise OptionError(f"`{name}` must be at most {largest}, not {value}")
        if self.device not in DEVICES:
            raise OptionError(f"`device` must be one of {', '.join(DEVICES)}, not {self.device!r}")

    @property
    def has_queue(self) -> bool:
        """Whether an option of Triton's batcher was asked for."""
        return bool(self.queue_size or self.queue_timeout_ms or self.queue_delay_us)


@dataclass(frozen=True)
class ImageInput:
    """How image files are taken.

    Attributes:
        type: `bytes`, one image in each row of a BYTES tensor; or `uint8`, the bytes of one image,
            for servers whose Python backend cannot take BYTES.
        instances: How many processes decode images. 0 means `DEFAULT_IMAGE_INSTANCES`.

    Raises:
        OptionError: A value is out of range.
    """

    type: str = "bytes"
    instances: int = 0

    def __post_init__(self) -> None:
        if self.type not in IMAGE_TYPES:
            raise OptionError(
                f"`image_input` must be one of {', '.join(IMAGE_TYPES)}, not {self.type!r}"
            )
        if not 0 <= self.instances <= _MOST_IMAGE_INSTANCES:
            raise OptionError(
                f"`image_instances` must be 0 to {_MOST_IMAGE_INSTANCES}, not {self.instances}"
            )
