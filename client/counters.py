"""What a Triton server has counted of one version of a model since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tritonclient.grpc import service_pb2


@dataclass(frozen=True)
class ModelCounters:
    """The counters of one version of a model. They only grow while the version stays loaded.

    Triton counts a request after it has answered it, so that a caller may read the counters before
    its own request is in them.

    The times are sums over requests: one execution of a batch of four requests counts four times.

    Attributes:
        model: Name of the model.
        version: The version.
        answered: Requests that were answered.
        failed: Requests that failed in the queue or in the model. A request that does not fit the
            model is refused before that, and not counted.
        cached: Requests that were answered from the response cache.
        images: Images that were computed.
        executions: How often the model was run, each time for a batch.
        queue_s: Time in the queue, in seconds.
        compute_s: Time of the backend for input, network and output, in seconds.
    """

    model: str
    version: str
    answered: int
    failed: int
    cached: int
    images: int
    executions: int
    queue_s: float
    compute_s: float


def read_counters(statistics: service_pb2.ModelStatistics) -> ModelCounters:
    """Read the counters from Triton's statistics of one version.

    The fields are described in Triton's statistics extension:
    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
    """
    of = statistics.inference_stats
    compute_ns = of.compute_input.ns + of.compute_infer.ns + of.compute_output.ns
    return ModelCounters(
        model=statistics.name,
        version=statistics.version,
        answered=of.success.count,
        failed=of.fail.count,
        cached=of.cache_hit.count,
        images=statistics.inference_count,
        executions=statistics.execution_count,
        queue_s=of.queue.ns / 1e9,
        compute_s=compute_ns / 1e9,
    )
