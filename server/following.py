"""Follows the repository: what is published, promoted or rolled back is loaded and served.

`Follower.check` looks once and returns at once; a model is loaded in a thread. The version that was
served before answers until the new one is loaded and warmed up. If the new one cannot be served,
or does not classify a photograph, the old one stays.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from seresnext101_triton.server import acceptance
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.fleet.rotation import aside, rolling
from seresnext101_triton.server.integrity import differences
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.models import servable, versions_to_serve
from seresnext101_triton.server.soak import failed_share, soak
from seresnext101_triton.server.spot_check import spot_check
from seresnext101_triton.server.versions import CONFIG_FILENAME, taken_numbers

# What differs after a change of a model: its folder, its config, or its versions.
Signature = tuple[int, int, int, tuple[int, ...]]


class Follower:
    """Keeps a server at what its repository says.

    Args:
        server: The server. It is not started yet, so that no change goes unseen.
        say: A function that is called with each line that a person should see.
    """

    def __init__(self, server: Server, say: Callable[[str], None]) -> None:
        self._server, self._say = server, say
        self._seen = {folder.name: signature(folder) for folder in self._folders()}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_loading(self) -> bool:
        """Whether a model is being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Look once. If a model has changed, begin to load it, unless another one is loading."""
        if self.is_loading:
            return
        for folder in self._folders():
            found = signature(folder)
            if found is not None and found != self._seen.get(folder.name):
                self._seen[folder.name] = found
                self._thread = threading.Thread(target=self._follow, args=(folder,), daemon=True)
                self._thread.start()
                return

    def close(self) -> None:
        """Say nothing more: the server ends, and a model that is loading will not be served."""
        self._is_closed = True

    def _tell(self, line: str) -> None:
        if not self._is_closed:
            self._say(line)

    def _folders(self) -> list[Path]:
        return servable(self._server.repository, self._server.only)

    def _follow(self, folder: Path) -> None:
        launch, model = self._server.launch, folder.name
        try:
            with rolling([launch]):
                before = self._server.control.ready_versions(model)
                if refusal := self._refusal(folder):
                    self._keep(folder, before, refusal)
                    return
                if before == versions_to_serve(folder) and self._server.view.has_read(folder):
                    return  # a promotion has had the server load it before it was published
                failed = failed_share(launch, model) if self._server.soak_s else 0.0
                with aside(launch):
                    now = self._load(folder, before)
                if now != before:
                    self._soak(folder, before, now, failed)
                elif now:
                    acceptance.accept(launch, folder, now)
        except (ServerError, OSError) as error:  # the server has died, which the supervisor sees
            self._seen.pop(model, None)
            self._tell(f"model {model}: {error}; it is looked at again")

    def _load(self, folder: Path, before: list[int]) -> list[int]:
        """Load what the version policy names, and return the versions that answer now."""
        try:
            acceptance.load(self._server.launch, folder, versions_to_serve(folder))
        except ServerError as error:
            self._keep(folder, before, self._server.plain(str(error)))
            return before
        now = self._server.control.ready_versions(folder.name)
        if now and now != before:
            try:
                spot_check(self._server.launch, folder.name, now[-1])
            except LoadError as error:
                self._keep(folder, before, str(error), unload=set(now) - set(before))
                return before
        return now

    def _soak(self, folder: Path, before: list[int], now: list[int], failed: float) -> None:
        """Let callers use the versions, and say which version answers then."""
        try:
            if now:
                soak(self._server.launch, folder.name, now[-1], self._server.soak_s, failed)
        except LoadError as error:
            self._keep(folder, before, str(error), unload=set(now) - set(before))
        else:
            acceptance.accept(self._server.launch, folder, now)
            self._tell(f"model {folder.name}: {_named(now)} served now (before: {_named(before)})")

    def _keep(
        self, folder: Path, before: list[int], why: str, unload: Collection[int] = ()
    ) -> None:
        """Stay with the versions that answer, also if the server or a model is started again.

        Args:
            folder: The folder of the model.
            before: The versions.
            why: Why others are not served.
            unload: Versions that are loaded and must not answer any more.
        """
        with self._server.control.exclusively():
            if before:
                self._server.view.pin(folder, before)
            else:
                self._server.view.hide(folder.name)
        if unload and before:
            self._server.control.go_back(folder.name, unload)
        elif unload:
            self._server.control.unload(folder.name)
        if before:
            self._tell(f"model {folder.name}: {_named(before)} still served, because {why}")
        else:
            self._tell(f"model {folder.name}: not served, because {why}")

    @staticmethod
    def _refusal(folder: Path) -> str:
        """Why the versions that the policy names must not be loaded; empty if they may be."""
        wanted = versions_to_serve(folder)
        if not wanted:
            return f"its {CONFIG_FILENAME} cannot be read, or names no version that is there"
        for version in wanted:
            if found := differences(folder / str(version)):
                return f"version {version} is not as it was published: {'; '.join(found)}"
        return ""


def signature(folder: Path) -> Signature | None:
    """What is compared to see that a model has changed. None while it cannot be read."""
    try:
        config = os.stat(folder / CONFIG_FILENAME)
    except FileNotFoundError:
        config = None
    except OSError:
        return None
    try:
        place = folder.stat().st_ino
        written = (config.st_ino, config.st_mtime_ns) if config else (0, 0)
        return place, *written, tuple(taken_numbers(folder))
    except OSError:
        return None


def _named(versions: list[int]) -> str:
    if not versions:
        return "none"
    what = "version" if len(versions) == 1 else "versions"
    return f"{what} {', '.join(map(str, versions))}"
