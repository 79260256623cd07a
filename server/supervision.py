"""Keeps a server running: loads a model again whose stub has died, and starts a dead server again.

`Supervisor.check` looks once and returns at once. The command line calls it several times a second,
in the thread that started the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from seresnext101_triton.client.served import LOADING, READY
from seresnext101_triton.server.control import LOAD_TIMEOUT_S
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.process import ending
from seresnext101_triton.server.stubs import Stub, StubWatch, is_waited_for

# Triton itself may have ended a stub of which is only known that it is gone. It counts as missing
# if it still is after this time: the kernel's list of processes may lack one just started.
_MISSED_AFTER_S = 0.1


@dataclass(frozen=True)
class Patience:
    """How often something that has died is started again.

    Attributes:
        first_pause_s: The pause before the first attempt, in seconds. Each further pause is twice
            as long.
        longest_pause_s: The longest pause, in seconds.
        attempts: The number of attempts, one soon after the other, after which it is given up.
        stable_s: After this time without a death, in seconds, attempts are counted from 0 again.
            It is short: what dies every few seconds under load still answers in between, and a long
            pause would cost more answers than the death.
    """

    first_pause_s: float = 0.25
    longest_pause_s: float = 30.0
    attempts: int = 10
    stable_s: float = 2.0


class Backoff:
    """Counts the attempts for one thing, and says when the next is due."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.attempts = 0
        self._due = 0.0
        self._up_since: float | None = 0.0

    def died(self) -> bool:
        """Note a death, and plan the next attempt. False if there have been too many."""
        now = time.monotonic()
        if self._up_since is not None and now - self._up_since > self._patience.stable_s:
            self.attempts = 0
        self._up_since = None
        pause = min(self._patience.first_pause_s * 2**self.attempts, self._patience.longest_pause_s)
        self.attempts += 1
        self._due = now + pause
        return self.attempts <= self._patience.attempts

    def is_due(self) -> bool:
        """Whether it is time for the attempt."""
        return time.monotonic() >= self._due

    def recovered(self) -> None:
        """Note that the attempt has succeeded."""
        self._up_since = time.monotonic()


class _Recovery:
    """Loads one model again, in a thread, until it is loaded or given up."""

    def __init__(self, server: Server, model: str, patience: Patience) -> None:
        self.model = model
        self._server = server
        self._backoff = Backoff(patience)
        self._thread: threading.Thread | None = None
        self._error: ServerError | None = None
        self._since = 0.0
        self._wanted = False
        self._reload_began = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the model is to be loaded again."""
        return self._wanted

    def has_started(self, stub: Stub) -> bool:
        """Whether a stub is one of those that this attempt has started."""
        return self._thread is not None and stub.started_s >= self._reload_began

    def begin(self) -> bool:
        """Plan to load the model again. False if it has died too often."""
        self._since = time.monotonic()
        self._wanted = self._backoff.died()
        return self._wanted

    def step(self) -> str:
        """Go on as far as possible without waiting, and return a line if there is news."""
        if not self._wanted:
            return ""
        if self._thread is None:
            if self._backoff.is_due():
                self._error = None
                self._reload_began = time.clock_gettime(time.CLOCK_BOOTTIME)
                self._thread = threading.Thread(target=self._reload, daemon=True)
                self._thread.start()
            return ""
        if self._thread.is_alive():
            return ""
        self._thread = None
        if self._error is None:
            self._wanted = False
            self._backoff.recovered()
            return f"model {self.model}: ready again after {time.monotonic() - self._since:.1f} s"
        if self._backoff.died():
            return f"{self._error}; it is tried again"
        self._wanted = False
        return f"{self._error}; it is given up after {self._backoff.attempts - 1} attempts"

    def _reload(self) -> None:
        try:
            with self._server.control.exclusively():
                self._server.restore(self.model)
            self._server.control.reload(self.model)
        except ServerError as error:
            self._error = error


class Supervisor:
    """Watches a server that is ready.

    Args:
        server: The server. It was started in the thread that calls `check`.
        say: A function that is called with each line that a person should see.
        patience: How often something is started again.
    """

    def __init__(
        self, server: Server, say: Callable[[str], None], patience: Patience = Patience()
    ) -> None:
        self._server, self._say, self._patience = server, say, patience
        self._backoff = Backoff(patience)
        self._watch = StubWatch()
        self._recoveries: dict[str, _Recovery] = {}
        self._unsettled: list[tuple[Stub, float]] = []
        self._is_down = self._is_starting = False
        self._since = self._deadline = 0.0

    @property
    def is_recovering(self) -> bool:
        """Whether the server, or one of its models, is being started again."""
        busy = any(recovery.is_busy for recovery in self._recoveries.values())
        return self._is_down or self._is_starting or busy

    def get_to_know(self) -> None:
        """See which stubs the server has, so that a dead one is known later."""
        self._watch.died(self._server.pid)

    def check(self) -> None:
        """Look once, and do what is to be done.

        Raises:
            ServerError: The server has died too often, or no model can be served any more.
        """
        if self._is_down:
            self._start_again()
        elif self._is_starting:
            self._wait_for_it()
        elif (code := self._server.exit_code()) is not None:
            self._went_down(f"tritonserver ended with {ending(code)}")
        else:
            self._check_stubs()

    def _went_down(self, why: str) -> None:
        if not self._is_starting:
            self._since = time.monotonic()
        self._is_starting = False
        log = self._server.log_tail()
        self._server.clear()
        self._recoveries, self._unsettled, self._watch = {}, [], StubWatch()
        if not self._backoff.died():
            raise ServerError(
                f"{why}, after it was started again {self._patience.attempts} times:\n{log}"
            )
        self._is_down = True
        self._server.publish(state="restarting")
        self._say(f"{why}; it is started again")

    def _start_again(self) -> None:
        if self._backoff.is_due():
            try:
                if not self._server.start_again():
                    return
            except ServerError as error:
                self._went_down(str(error))
                return
            self._deadline = time.monotonic() + LOAD_TIMEOUT_S
            self._is_down, self._is_starting = False, True
            restarts = self._server.launch.server_restarts + 1
            self._server.publish(server_restarts=restarts)

    def _wait_for_it(self) -> None:
        try:
            if not self._server.is_up():
                self._server.check_deadline(self._deadline)
                return
        except ServerError as error:
            self._went_down(str(error).partition("\n")[0].rstrip(":"))
            return
        self._is_starting = False
        self.get_to_know()
        self._backoff.recovered()
        self._say(f"tritonserver: ready again after {time.monotonic() - self._since:.1f} s")

    def _check_stubs(self) -> None:
        now = time.monotonic()
        died = [(stub, now) for stub in self._watch.died(self._server.pid)]
        died, self._unsettled = self._unsettled + died, []
        for stub, since in died:
            if self._stub_died(stub, since):
                return  # the server is started again
        for recovery in self._recoveries.values():
            if line := recovery.step():
                self._say(line)
                self._check_that_some_model_is_left()

    def _stub_died(self, stub: Stub, since: float) -> bool:
        """Do what a dead stub asks for. True if the whole server is started again.

        Args:
            stub: The stub.
            since: When its death was seen, on the monotonic clock.
        """
        recovery = self._recoveries.get(stub.model)
        is_busy = recovery is not None and recovery.is_busy
        if recovery and is_busy and not recovery.has_started(stub):
            return False  # the model is loaded again as a whole
        state = self._state_of(stub)
        if state == LOADING and is_waited_for(stub, since):
            self._server.kill()
            self._went_down(stub.death_in_load)
            return True
        if state == LOADING or is_busy:
            # Triton has ended a stub itself that is gone, or the load fails and says why.
            if stub.exit_status is not None and state in (LOADING, READY):
                self._unsettled.append((stub, since))
        elif state == READY and self._is_missing(stub):
            if stub.exit_status is None and time.monotonic() - since < _MISSED_AFTER_S:
                self._unsettled.append((stub, since))
            else:
                self._load_again(stub)
        return False

    def _load_again(self, stub: Stub) -> None:
        model = stub.model
        recovery = self._recoveries.setdefault(
            model, _Recovery(self._server, model, self._patience)
        )
        counts = dict(self._server.launch.model_restarts)
        counts[model] = counts.get(model, 0) + 1
        self._server.publish(model_restarts=counts)
        self._say(f"{stub.death}; {'it is loaded again' if recovery.begin() else 'it is given up'}")

    def _state_of(self, stub: Stub) -> str:
        """The state of the version of a dead stub. Somebody may have unloaded it."""
        try:
            states = self._server.control.index()
        except ServerError:
            return READY
        if not stub.model:
            return LOADING if any(each.state == LOADING for each in states) else ""
        version = stub.model, stub.version
        return next((each.state for each in states if (each.name, each.version) == version), "")

    def _is_missing(self, stub: Stub) -> bool:
        """Whether the version of a dead stub, which is ready, has too few stubs now.

        If it was loaded anew, Triton has ended the old stubs some time after it had started new
        ones.
        """
        try:
            wanted = self._server.control.instances(stub.model, stub.version)
        except ServerError:
            return True
        return self._watch.alive(stub.model, stub.version) < wanted

    def _check_that_some_model_is_left(self) -> None:
        if self.is_recovering:
            return
        try:
            states = self._server.control.index()
        except ServerError:  # the server has died as well, which the next look sees
            return
        if not any(state.state == READY for state in states):
            raise ServerError("no model can be served any more: read the lines above")
