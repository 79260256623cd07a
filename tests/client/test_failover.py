"""Which of several servers is asked, and when again, with scripted servers and no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tritonclient.utils import InferenceServerException

from seresnext101_triton.client import failover
from seresnext101_triton.client.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    NotTriton,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.client.failover import About, Servers
from seresnext101_triton.client.transport import TransportOptions

REFUSED = InferenceServerException("no", status="StatusCode.INVALID_ARGUMENT")
UNKNOWN = InferenceServerException("unknown model 'm'", status="StatusCode.NOT_FOUND")
LATE = InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED")
AWAY = ConnectionRefusedError("away")
FOREIGN = NotTriton("another program")


class Scripted:
    """A transport whose answers are written down beforehand; after them, it answers its name."""

    def __init__(self, name: str) -> None:
        self.name, self.understood = name, False
        self.script: list[Exception] = []
        self.models = [{"name": "n", "state": "READY"}, {"name": "old", "state": "UNAVAILABLE"}]
        self.asked = 0

    async def answer(self) -> str:
        self.asked += 1
        if self.script:
            raise self.script.pop(0)
        return self.name

    async def index(self) -> list[dict[str, str]]:
        return self.models

    async def close(self) -> None: ...


@pytest.fixture
def servers(monkeypatch):
    """Makes servers with two retries, whose pauses are noted and not waited for."""
    monkeypatch.setattr(failover, "hint", lambda address: "")
    monkeypatch.setattr(failover, "connect", lambda address, *_, **__: Scripted(str(address)))

    def make(count: int = 2, retries: int = 2) -> tuple[Servers, list[Scripted], list[float]]:
        urls = [f"host{number}:1" for number in range(count)]
        made = Servers(urls, TransportOptions(retries=retries, timeout_s=7), blocking=True)
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        monkeypatch.setattr(made, "sleep", sleep)
        return made, [transport for _, transport in made._servers], pauses  # type: ignore[misc]

    return make


def ask(servers: Servers, about: About = About()) -> str:
    return asyncio.run(servers.ask(lambda transport: transport.answer(), about))  # type: ignore[attr-defined]


def test_the_server_that_answered_last_is_asked_first(servers):
    made, (first, second), pauses = servers()
    assert [ask(made), ask(made)] == ["host0:1", "host0:1"]
    first.script = [AWAY]
    assert [ask(made), ask(made)] == ["host1:1", "host1:1"]
    assert (first.asked, second.asked, pauses) == (3, 2, [])
    assert first.understood and second.understood


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_request_that_nobody_answered_is_sent_again_as_often_as_was_asked_for(servers, retries):
    made, transports, pauses = servers(retries=retries)
    for transport in transports:
        transport.script = [AWAY] * (retries + 1)
    with pytest.raises(ServerUnreachable, match="no Triton server answers at host1:1"):
        ask(made)
    assert [transport.asked for transport in transports] == [retries + 1] * 2
    assert len(pauses) == retries
    for transport in transports:
        transport.script = [AWAY] * retries
    assert ask(made) == "host0:1"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (REFUSED, RequestRejected, "host0:1 refused the request: no"),
        (LATE, DeadlineExceeded, "host0:1 did not answer within 7 s"),
        (TimeoutError(), DeadlineExceeded, "host0:1 did not answer within 7 s"),
    ],
)
def test_what_was_refused_or_came_too_late_is_not_sent_again(servers, fault, error, message):
    made, (first, second), pauses = servers()
    first.script = [fault]
    with pytest.raises(error, match=f"^{message}"):
        ask(made)
    assert (first.asked, second.asked, pauses) == (1, 0, [])
    # A server whose time was used up may hang: the next request begins with another one.
    assert ask(made) == ("host0:1" if error is RequestRejected else "host1:1")


def test_after_the_last_server_comes_the_first(servers):
    made, (first, second), _ = servers()
    first.script, second.script = [LATE], [LATE]
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            ask(made)
    assert ask(made) == "host0:1"


def test_another_program_is_passed_over_and_not_asked_again(servers):
    made, (first, second), pauses = servers()
    first.script = [FOREIGN]
    assert ask(made) == "host1:1"
    first.script, second.script = [FOREIGN], [FOREIGN]
    with pytest.raises(NotTriton, match="another program"):
        ask(made)
    assert (first.asked, second.asked, pauses) == (2, 2, [])


@pytest.mark.parametrize(
    ("models", "served"),
    [
        ([], "It serves no model at all"),
        ([{"name": "b", "state": "READY"}, {"name": "a", "state": "READY"}], "It serves: a, b"),
    ],
)
def test_a_model_that_never_answered_is_told_with_those_that_are_served(servers, models, served):
    made, (first, second), pauses = servers()
    first.script = [UNKNOWN]
    first.models = models
    with pytest.raises(
        ModelUnavailable,
        match=f"^host0:1 does not serve model 'm' version 2: unknown model 'm'. {served}$",
    ):
        ask(made, About("m", "2"))
    assert (first.asked, second.asked, pauses) == (1, 0, [])


def test_a_model_that_answered_before_may_come_back(servers):
    made, (first, second), pauses = servers()
    assert ask(made, About("m")) == "host0:1"
    first.script = [UNKNOWN, UNKNOWN]
    second.script = [UNKNOWN]
    assert ask(made, About("m")) == "host1:1"
    assert (first.asked, second.asked, len(pauses)) == (3, 2, 1)
    first.script, second.script = [UNKNOWN] * 3, [UNKNOWN] * 3
    with pytest.raises(ModelUnavailable):
        ask(made, About("m"))


@pytest.mark.parametrize(
    ("fault", "kind"), [(AWAY, ServerUnreachable), (FOREIGN, NotTriton), (REFUSED, RequestRejected)]
)
def test_only_an_address_that_never_answered_gets_a_hint(servers, monkeypatch, fault, kind):
    asked: list[str] = []
    monkeypatch.setattr(failover, "hint", lambda at: asked.append(str(at)) or "Write https://")
    made, (first, second), _ = servers(retries=0)

    def fails() -> ClientError:
        first.script, second.script = [fault], [fault]
        with pytest.raises(ClientError) as caught:
            ask(made)
        assert type(caught.value) is kind
        return caught.value

    hinted = kind is not RequestRejected
    assert str(fails()).endswith(". Write https://") == hinted
    assert asked == ["host0:1"] * hinted
    first.understood = True
    fails()
    assert asked == ["host0:1", "host1:1"] * hinted
    second.understood = True
    assert "https" not in str(fails()) and len(asked) == 2 * hinted


def test_launches_are_asked_for_at_every_address(servers, monkeypatch):
    found: Callable[[object], str] = lambda at: "launch" if str(at) == "host1:1" else ""  # noqa: E731
    monkeypatch.setattr(failover, "launch_at", found)
    made, _, _ = servers()
    assert made.launches() == ["launch"]
    assert made.url == "host0:1,host1:1"
