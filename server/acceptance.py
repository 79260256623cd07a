"""Has a server load versions that nobody has judged yet, and accepts them or takes them back.

A server that dies in between is started again with the versions that were accepted last
(`Server.start_again`). Nobody may change what it sees while it starts, so that all of this is done
under the lock of the server, and only if it answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seresnext101_triton.client.launches import Launch, is_running
from seresnext101_triton.server.control import LOAD_TIMEOUT_S, Control
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.view import View
from seresnext101_triton.server.workspace import unusable

_POLL_S = 0.1


def load(
    launch: Launch,
    folder: Path,
    versions: Sequence[int],
    parameters: Mapping[str, str] | None = None,
) -> None:
    """Have a server load versions of a model. If it cannot, it answers as before.

    Args:
        launch: The server.
        folder: The folder of the model.
        versions: The versions, oldest first.
        parameters: As for `View.pin`.

    Raises:
        LoadError: The server cannot load them.
        WorkspaceError: The temporary folder of the server is full.
        ServerError: The server does not answer.
    """
    control, view = Control(launch), View.of(launch)
    with control.exclusively(), _explained(launch):
        control.index()
        try:
            view.pin(folder, versions, parameters=parameters)
            control.load(folder.name, is_exclusive=True)
        except BaseException:
            view.restore(folder)
            raise


def accept(launch: Launch, folder: Path, versions: Sequence[int]) -> None:
    """Keep versions that a server has loaded, also when it is started again.

    Raises:
        LoadError: The server has not exactly these versions any more.
        ServerError: The server does not answer.
    """
    control = Control(launch)
    with control.exclusively(), _explained(launch):
        if (now := control.ready_versions(folder.name)) != sorted(versions):
            raise LoadError(
                f"the server at {launch.url} does not answer with version {max(versions)} of "
                f"{folder.name} any more, but with {now[-1] if now else 'none'}: a process of it "
                "has died, or somebody else changed it"
            )
        View.of(launch).accept(folder.name, versions)


def take_back(launch: Launch, folder: Path, before: Sequence[int]) -> None:
    """Have a server answer with the versions of before again.

    If it is being started again, this waits until it answers. A server that has ended is left.

    Raises:
        LoadError: The server cannot load them.
        ServerError: The server does not answer for too long.
    """
    control, view = Control(launch), View.of(launch)
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while is_running(launch.file):
        with control.exclusively(), _explained(launch):
            view.accept(folder.name, before)
            view.restore(folder)
        try:
            unwanted = set(control.ready_versions(folder.name)) - set(before)
            control.go_back(folder.name, unwanted)
            return
        except LoadError:
            raise
        except ServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


@contextmanager
def _explained(launch: Launch) -> Iterator[None]:
    """Turn an error of the view into one that names its cause."""
    try:
        yield
    except OSError as error:
        raise unusable(Path(launch.workspace).parent, error) from None
    except ValueError as error:
        raise LoadError(str(error)) from None
