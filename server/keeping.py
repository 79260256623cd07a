"""A server together with what keeps it running and what follows its repository."""

from __future__ import annotations

from collections.abc import Callable

from seresnext101_triton.client import timings
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server.following import Follower
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.logs import load_times
from seresnext101_triton.server.supervision import Supervisor


class KeptServer:
    """A server that is kept running. All methods return at once, except `drain` and `stop`.

    Args:
        server: The server, not yet started. It ends if the thread ends that calls `start` and
            `look`.
        say: A function that is called with each line for a person.
    """

    def __init__(self, server: Server, say: Callable[[str], None]) -> None:
        self.server = server
        self._supervisor = Supervisor(server, say)
        self._follower = Follower(server, say) if server.follow else None

    @property
    def launch(self) -> Launch:
        """What other processes know of the server. It is known after `start`."""
        return self.server.launch

    @property
    def models(self) -> list[ModelState]:
        """The models that it serves. They are known as soon as it is up."""
        return self.server.models

    @property
    def is_recovering(self) -> bool:
        """Whether the server, or one of its models, is being started again."""
        return self._supervisor.is_recovering

    @property
    def is_following(self) -> bool:
        """Whether a model is being loaded that has changed in the repository."""
        return self._follower is not None and self._follower.is_loading

    def start(self) -> None:
        """Start the server. It raises what `Server.start` does."""
        self.server.start()

    def is_up(self) -> bool:
        """Whether the server has been started completely. It raises what `Server.is_up` does."""
        if not self.server.is_up():
            return False
        self._supervisor.get_to_know()
        assert self.server.process is not None
        for model, seconds in load_times(self.server.process.log()).items():
            timings.add(f"loading {model}", seconds)
        return True

    def look(self, *, follow: bool = True) -> None:
        """Start again what has died, and load what has changed in the repository.

        Args:
            follow: Whether a model that has changed may be loaded now.

        Raises:
            ServerError: The server has died too often, or no model can be served any more.
        """
        self._supervisor.check()
        if self._follower and follow and not self._supervisor.is_recovering:
            self._follower.check()

    def is_live(self) -> bool:
        """Whether the server answers."""
        return self.server.control.is_live()

    def check_deadline(self, deadline: float) -> None:
        """Raise `ServerError` if the monotonic clock is beyond a time, in seconds."""
        self.server.check_deadline(deadline)

    def drain(self) -> None:
        """Take no more requests, and wait until those in flight are answered."""
        self.server.drain()

    def stop(self) -> None:
        """End the server. This can be called at any time."""
        if self._follower:
            self._follower.close()
        self.server.stop()
