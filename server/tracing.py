"""OpenTelemetry traces: Triton's own trace mode sends the spans of requests to a collector.

NVIDIA's image and the embedded server both have it (`docs/user_guide/trace.md` of Triton).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from seresnext101_triton.client.errors import UsageError

SERVICE = "seresnext101-triton"
DEFAULT_RATE = 1000  # Triton's own


@dataclass(frozen=True)
class Tracing:
    """Which requests are traced, and where the spans go.

    Attributes:
        url: The collector's endpoint for OTLP over HTTP, for example
            `http://localhost:4318/v1/traces`.
        rate: One of this many requests is traced, and every request whose caller sends a trace
            context. 0 means only the latter.

    Raises:
        UsageError: A value cannot be used.
    """

    url: str
    rate: int = DEFAULT_RATE

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or any(character.isspace() for character in self.url):
            raise UsageError(
                f"`trace_url` must be the URL of a collector, for example "
                f"http://localhost:4318/v1/traces, not {self.url!r}"
            )
        if self.rate < 0:
            raise UsageError(f"`trace_rate` must not be negative, as {self.rate} is")

    def arguments(self) -> list[str]:
        """The arguments of tritonserver."""
        settings = (
            "mode=opentelemetry",
            f"opentelemetry,url={self.url}",
            f"opentelemetry,resource=service.name={SERVICE}",
            "level=TIMESTAMPS",
            f"rate={self.rate}",
            "count=-1",
        )
        return [f"--trace-config={setting}" for setting in settings]
