"""One server of a fleet."""

from __future__ import annotations

import threading
from collections.abc import Callable

from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.fleet.rotation import Canary, canary_of
from seresnext101_triton.server.keeping import KeptServer
from seresnext101_triton.server.launcher import Server

_AGAIN_S = 0.5  # between attempts to go back to the version of before a canary


class Replica(KeptServer):
    """One server of a fleet, which goes back to its version after a canary.

    Attributes:
        name: Its number, which begins at 0.
        cpus: The logical processors on which it runs.
        has_started: Whether it has been up once.
        canary: The version for whose sake it gets another share of the requests than the others.
    """

    def __init__(
        self, name: str, server: Server, cpus: frozenset[int], say: Callable[[str], None]
    ) -> None:
        super().__init__(server, say)
        self.name, self.cpus, self.has_started = name, cpus, False
        self.canary: Canary | None = None
        self._say = say
        self._ending = threading.Event()
        self._return: threading.Thread | None = None

    @property
    def is_going_back(self) -> bool:
        """Whether the version of a canary is being replaced by that of before."""
        return self._return is not None

    def heed_canary(self) -> None:
        """See whether a share of the requests is asked for, and go back when it no longer is."""
        if self._return is not None:
            if not self._return.is_alive():
                self.canary = self._return = None
        elif wanted := canary_of(self.launch):
            self.canary = wanted
        elif self.canary is not None:
            self._return = threading.Thread(target=self._go_back, args=(self.canary,), daemon=True)
            self._return.start()

    def stop(self) -> None:
        """End the server. This can be called at any time."""
        self._ending.set()
        super().stop()

    def _go_back(self, canary: Canary) -> None:
        """Load the versions of before, as soon as the server does it."""
        server, told = self.server, ""
        folder = server.repository / canary.model
        while not self._ending.is_set():
            try:
                # Triton takes no notice of a config that is older than the one that it has, as that
                # of the folder is.
                with server.control.exclusively():
                    server.view.pin(folder, canary.before)
                server.control.go_back(canary.model, [canary.version])
                with server.control.exclusively():
                    server.view.show(folder)
                return
            except (ServerError, OSError, ValueError) as error:  # it may have died
                if str(error) != told:
                    told = str(error)
                    self._say(f"model {canary.model}: {error}; it is tried again")
                self._ending.wait(_AGAIN_S)
