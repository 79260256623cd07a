"""Sends a request to one of several servers, and sends it again where that is useful."""

from __future__ import annotations

import asyncio
import random
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tritonclient.utils import InferenceServerException

from seresnext101_triton.client.address import Address, parse_all
from seresnext101_triton.client.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    NotTriton,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.client.explain import refusal, unreachable
from seresnext101_triton.client.launches import Launch, key_headers, launch_at
from seresnext101_triton.client.probe import hint
from seresnext101_triton.client.protocols import Meaning
from seresnext101_triton.client.transport import (
    Tls,
    Transport,
    TransportOptions,
    check_header,
    connect,
)

Result = TypeVar("Result")
Question = Callable[[Transport], Awaitable[Result]]

_FIRST_BACKOFF_S, _LARGEST_BACKOFF_S = 0.1, 5.0
# Headers with which whoever reads them can act as the user.
_SECRET = re.compile(
    "authorization|token|key|secret|password|cookie|triton-grpc-protocol", re.IGNORECASE
)


@dataclass(frozen=True)
class About:
    """The model that a question is about, for messages.

    Attributes:
        model: Its name; empty if the question is about the server.
        version: Its version; empty if the server may choose one.
        is_awaited: Whether the question is asked again if the model has answered before and is not
            served now.
    """

    model: str = ""
    version: str = ""
    is_awaited: bool = True


class Servers:
    """The servers of one connection. Any of them may answer a question.

    Args:
        urls: As for `seresnext101_triton.client.address.parse_all`.
        options: How to communicate with the servers.
        blocking: Whether the coroutines of this object block instead of suspending.

    Raises:
        UsageError: A URL is invalid or contradicts the options, or the protocol cannot send a
            header.
    """

    def __init__(
        self, urls: str | Sequence[str], options: TransportOptions, *, blocking: bool
    ) -> None:
        addresses = parse_all(urls, options.protocol, options.tls is not None)
        protocol, tls = addresses[0].protocol, addresses[0].tls
        for name, value in options.headers.items():
            check_header(name, value, protocol)
        _warn_of_secrets(addresses, options)
        self.url = ",".join(map(str, addresses))
        self.options = replace(
            options, protocol=protocol, tls=options.tls or (Tls() if tls else None)
        )
        self._blocking = blocking
        self._servers = [
            (address, connect(address, _with_key(self.options, address), blocking=blocking))
            for address in addresses
        ]
        self._current = 0  # the server that is asked first
        self._served: set[str] = set()  # the models that have answered

    def launches(self) -> list[Launch]:
        """What this user's launchers tell of those servers that they run."""
        return [launch for address, _ in self._servers if (launch := launch_at(address))]

    async def close(self) -> None:
        """End the connections."""
        for _, transport in self._servers:
            await transport.close()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        if self._blocking:
            time.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    async def ask(self, question: Question[Result], about: About = About()) -> Result:
        """Ask until a server answers or refuses, or until the retries are used up.

        A request that no server answered is sent again, to the next server and after a growing,
        random pause. So is one for a model that has answered before and is not served now, because
        a server that loads a model again has it back soon, unless `about` says otherwise. A request
        that a server refused for another reason, or took and did not answer in time, is not.

        Raises:
            ClientError: A server refused the request, or none answered.
        """
        for attempt in range(self.options.retries + 1):
            try:
                return await self.ask_once(question, about)
            except (ServerUnreachable, ModelUnavailable) as error:
                is_awaited = about.is_awaited or isinstance(error, ServerUnreachable)
                may_come_back = is_awaited and self._may_come_back(error, about)
                if attempt == self.options.retries or not may_come_back:
                    if isinstance(error, ServerUnreachable):
                        raise await self.with_hint(error) from None
                    raise
                await self.sleep(_pause_s(attempt))
        raise AssertionError

    async def ask_once(self, question: Question[Result], about: About = About()) -> Result:
        """Ask each server once, beginning with the one that answered last.

        Raises:
            ClientError: A server refused the request, or none answered.
        """
        error: ClientError = ServerUnreachable("there is no server")
        first = self._current
        for number in range(len(self._servers)):
            index = (first + number) % len(self._servers)
            address, transport = self._servers[index]
            try:
                answer = await question(transport)
            except (ClientError, InferenceServerException, OSError) as fault:
                error = await self._explained(fault, address, about)
            else:
                self._current = index
                transport.understood = True
                self._served.add(about.model)
                return answer
            if isinstance(error, DeadlineExceeded):
                # Its time is used up. The next request begins with another server.
                self._current = (index + 1) % len(self._servers)
                break
            if not self._may_come_back(error, about) and not isinstance(error, NotTriton):
                break
        raise error from None

    def _may_come_back(self, error: ClientError, about: About) -> bool:
        """Whether the same request may be answered a little later."""
        if isinstance(error, ModelUnavailable):
            return about.model in self._served
        return isinstance(error, ServerUnreachable) and not isinstance(
            error, DeadlineExceeded | NotTriton
        )

    async def with_hint(self, error: ServerUnreachable) -> ServerUnreachable:
        """The error with the right scheme, if an address never answered in its own protocol."""
        for address, transport in self._servers:
            if transport.understood:
                continue
            if self._blocking:
                advice = hint(address)
            else:
                advice = await asyncio.to_thread(hint, address)
            if advice:
                return type(error)(f"{error}. {advice}")
        return error

    async def _explained(
        self,
        fault: ClientError | InferenceServerException | OSError,
        address: Address,
        about: About,
    ) -> ClientError:
        """The error that a person sees for what a transport has raised."""
        if isinstance(fault, ClientError):  # the answer is not Triton's, or it cannot be read
            return fault
        if isinstance(fault, TimeoutError):
            return self._too_late(address)
        if isinstance(fault, OSError):  # the connection was refused or cut, or was never made
            return unreachable(address, str(fault) or type(fault).__name__)
        status = str(fault.status() or "").removeprefix("StatusCode.")
        message = str(fault.message())
        meaning = address.spoken.meaning_of(status, message)
        if meaning is Meaning.DEADLINE:
            return self._too_late(address)
        explained = refusal(address, status, message)
        words = ("unknown model", "is not ready")
        is_unknown = meaning is Meaning.NOT_FOUND or any(each in message for each in words)
        if (
            about.model
            and is_unknown
            and isinstance(explained, RequestRejected | ServerUnreachable)
        ):
            named = f"model {about.model!r}"
            named += f" version {about.version}" if about.version else ""
            served = await self._what_is_served()
            return ModelUnavailable(f"{address} does not serve {named}: {message}. {served}")
        return explained

    def _too_late(self, address: Address) -> DeadlineExceeded:
        return DeadlineExceeded(f"{address} did not answer within {self.options.timeout_s:g} s")

    async def _what_is_served(self) -> str:
        try:
            index = await self.ask_once(lambda transport: transport.index())
        except ClientError:
            return "Ask its operator which models it serves"
        names = sorted({model["name"] for model in index if model["state"] == "READY"})
        return f"It serves: {', '.join(names)}" if names else "It serves no model at all"


def _with_key(options: TransportOptions, address: Address) -> TransportOptions:
    """The options, with the key of the server at an address if this user runs it."""
    return replace(options, headers=key_headers(address) | dict(options.headers))


def _pause_s(attempt: int) -> float:
    """How long to wait after an attempt that nobody answered.

    With "full jitter", clients that lost the same server do not come back at the same moment
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    longest = min(_FIRST_BACKOFF_S * 2 ** min(attempt, 10), _LARGEST_BACKOFF_S)
    return random.uniform(0, longest)  # noqa: S311


def _warn_of_secrets(addresses: Sequence[Address], options: TransportOptions) -> None:
    """Warn if a token is sent over a network in plain text."""
    names = [name for name in options.headers if _SECRET.search(name)]
    in_plain_text = [
        address for address in addresses if not address.tls and not address.is_loopback
    ]
    if names and in_plain_text:
        address = in_plain_text[0]
        warnings.warn(
            f"the header {names[0]!r} is sent to {address} in plain text, where others can read "
            f"it: write {address.spoken.scheme(tls=True)}:// before the host",
            RuntimeWarning,
            stacklevel=4,
        )
