"""What callers may do with a server: the restricted protocols, their key, and TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import KEY_NAME
from seresnext101_triton.client.transport import Tls

# Protocols by which a caller can harm the server or other programs: it can have models loaded,
# have answers written over foreign shared memory, have files written, and silence the log.
RESTRICTED = ("model-repository", "shared-memory", "logging", "trace")


def restricted_without(allowed: Sequence[str]) -> tuple[str, ...]:
    """The protocols that stay restricted if some are allowed to everyone."""
    return tuple(name for name in RESTRICTED if name not in allowed)


def key_arguments(restricted: Sequence[str], key: str) -> Iterator[str]:
    """Arguments of tritonserver that restrict protocols to callers with a key."""
    if restricted:
        rule = f"{','.join(restricted)}:{KEY_NAME}={key}"
        yield f"--grpc-restricted-protocol={rule}"
        yield f"--http-restricted-api={rule}"


def tls_arguments(tls: Tls | None) -> Iterator[str]:
    """Arguments of tritonserver for TLS on its gRPC endpoint.

    With authorities, a client must show a certificate that one of them has signed.

    Raises:
        UsageError: There is no certificate.
    """
    if tls is None:
        return
    if tls.certificate is None:
        raise UsageError(
            "a server with TLS needs its own certificate and key: `tls.certificate` and `tls.key`"
        )
    yield "--grpc-use-ssl=true"
    yield f"--grpc-server-cert={tls.certificate}"
    yield f"--grpc-server-key={tls.key}"
    if tls.ca:
        yield "--grpc-use-ssl-mutual=true"
        yield f"--grpc-root-cert={tls.ca}"
