"""Starts a tritonserver for a model repository, waits until it is ready, and ends it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from seresnext101_triton.client import timings
from seresnext101_triton.client.explain import DEAD_STUB
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.output import say
from seresnext101_triton.client.served import READY, ModelState
from seresnext101_triton.client.transport import Tls
from seresnext101_triton.server import installation
from seresnext101_triton.server.access import restricted_without, tls_arguments
from seresnext101_triton.server.arguments import cache_arguments, launch_arguments
from seresnext101_triton.server.backends import REPOSITORY_VARIABLE
from seresnext101_triton.server.control import LOAD_TIMEOUT_S, Control
from seresnext101_triton.server.errors import LoadError, ServerError
from seresnext101_triton.server.models import (
    ServedFolder,
    check_artifacts,
    chosen_models,
    intact_models,
    model_and_version,
)
from seresnext101_triton.server.needs import LeaveOut, without_bytes, without_gpu
from seresnext101_triton.server.ports import (
    LOCALHOST,
    Ports,
    bare_address,
    listens,
    occupied,
)
from seresnext101_triton.server.process import EXIT_TIMEOUT_S, ServerProcess, ending
from seresnext101_triton.server.registry import Registration, sweep
from seresnext101_triton.server.stubs import LoadWatch
from seresnext101_triton.server.tracing import Tracing
from seresnext101_triton.server.view import View
from seresnext101_triton.server.workspace import Workspace, unusable

_POLL_S = 0.1
_DRAIN_S = 10.0
# A server without models has nothing to do, but it waits for connections that clients keep open.
_IDLE_EXIT_S = 3.0
_LOST_PORT = re.compile(r"Socket '.*:(\d+)' already in use")
_TRIES = 3  # to start: a free port may be taken meanwhile, and the server may crash


class Server:
    """A running tritonserver.

    Use it as a context manager. The exit ends the server and all processes that it started.

    Callers need the key of the launch to load models, to share memory, and to change the log and
    the trace. The clients of this toolkit find the key if the same user runs them.

    Args:
        repository: The model repository. Folders without a version are left out, because with them
            Triton would never be ready.
        ports: The ports to listen on.
        address: The interface to listen on. The default is this machine only, because the embedded
            server's core lacks later security fixes.
        verbose: Whether to print the server's whole log to standard error, not only its errors.
        only: Names of the models to serve. If it is empty, all models are served. `MODEL@N` is
            version N of a model, with its own config, under this name.
        follow: Whether a `Follower` will load other versions meanwhile. Damaged versions are then
            left out where another can be served.
        soak_s: How long callers use a version, in seconds, before the `Follower` keeps it.
        allow: Protocols of `seresnext101_triton.server.access.RESTRICTED` that are open to callers
            without the key.
        tls: The certificate and the key of the gRPC endpoint, and the authorities of the clients
            for mutual TLS. HTTP and metrics, for which Triton has no TLS, are then opened to this
            machine only.
        response_cache_mib: Size of the response cache, in MiB; 0 means that there is none. Models
            use it if they were exported with `response_cache`.
        trace: Which requests are traced, and where the traces go. None traces nothing.
        key: The key of the launch. If it is empty, a new one is made.
        cpus: The logical processors on which it runs. If it is empty, all that this process has.
        note: A function that is called with each line that a user should see.

    Attributes:
        ports: The ports on which the server listens. They are known after `start`.
        models: The models that it serves. They are known after `wait_until_ready`.
        launch: What other processes know of it. It is known after `start`.
        process: Its process. It is known after `start`.
    """

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        repository: Path,
        *,
        ports: Ports | None = None,
        address: str = LOCALHOST,
        verbose: bool = False,
        only: Sequence[str] = (),
        follow: bool = False,
        soak_s: float = 0.0,
        allow: Sequence[str] = (),
        tls: Tls | None = None,
        response_cache_mib: int = 0,
        trace: Tracing | None = None,
        key: str = "",
        cpus: Collection[int] = (),
        note: Callable[[str], None] = say,
    ) -> None:
        self.repository = repository
        self.address = bare_address(address)
        self.ports = self._asked = ports or Ports()
        self.models: list[ModelState] = []
        self.process: ServerProcess | None = None
        self.only, self.follow, self.soak_s = only, follow, soak_s
        self._tls, self._verbose, self._note = tls, verbose, note
        self._restricted = restricted_without(allow)
        self._cache = cache_arguments(response_cache_mib)
        self._trace = trace.arguments() if trace else []
        self._tries = _TRIES
        self._exit_timeout_s = EXIT_TIMEOUT_S + 5.0
        self._key, self._cpus = key or secrets.token_hex(16), cpus
        self._load_watch = LoadWatch()
        self._registration: Registration | None = None
        self._workspace: Workspace | None = None

    @property
    def url(self) -> str:
        """The gRPC endpoint for clients on this machine: `host:port`, or `grpcs://host:port`."""
        return self.launch.url

    @property
    def pid(self) -> int:
        """The process id of the server. It is known after `start`."""
        assert self.process is not None
        return self.process.pid

    @property
    def control(self) -> Control:
        """Loads and unloads models. It is known after `start`."""
        return Control(self.launch)

    @property
    def view(self) -> View:
        """What changes the models that the server sees. It is known after `start`."""
        assert self._workspace is not None
        return self._workspace.view

    def plain(self, reason: str) -> str:
        """A reason of Triton in one line, without the place in a backend's code."""
        # What follows " At: /" is that place.
        text = " ".join(reason.replace("\\n", " ").split()).partition(" At: /")[0]
        return text.replace(str(self.launch.models_folder), str(self.repository))

    def __enter__(self) -> Server:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Prepare all that a server needs, and start its process.

        Raises:
            IntegrityError: A file of a model is not the one that was published.
            ServerError: There is no model, no tritonserver, a port is in use, or this machine has
                no room for the files of a server.
        """
        sweep()
        models = chosen_models(self.repository, self.only, self._note)
        models = self._without(models, without_gpu)
        self.ports = self._asked.resolve(self.address)
        with timings.part("checking the artifacts"):
            if self.follow:
                models = intact_models(models, self._note)
            check_artifacts(models, self._note)
        self._registration = Registration()
        self._workspace = Workspace(self._registration.name)
        try:
            with timings.part("finding tritonserver"):
                self._triton = installation.find(self._workspace.folder)
        except (OSError, shutil.Error) as error:
            raise unusable(self._workspace.folder.parent, error) from None
        if not self._triton.passes_bytes:
            models = self._without(models, without_bytes)
        self._workspace.show(models)
        self.launch = Launch(
            pid=os.getpid(),
            repository=str(self.repository.resolve()),
            address=self.address,
            **vars(self.ports),
            key=self._key,
            restricted=self._restricted,
            workspace=str(self._workspace.folder),
            shared_memory=self._workspace.shared_memory,
            tls=self._tls is not None,
            file=self._registration.file,
        )
        self.start_process()

    def start_process(self) -> None:
        """Start the server's process, for the first time or again."""
        assert self._registration is not None and self._workspace is not None
        self.publish(**vars(self.ports))
        self._load_watch = LoadWatch()
        self.process = ServerProcess(
            [str(self._triton.executable), *self._triton.arguments, *self._arguments()],
            os.environ
            | self._triton.environment
            | {REPOSITORY_VARIABLE: str(self._workspace.models)},
            # The stub (the process in which Triton runs a Python backend) puts its working
            # directory first on sys.path. The backends import `seresnext101_triton` from there.
            Path(__file__).parents[2],
            lock=self._registration.lock,
            secret=self._key,
            cpus=self._cpus,
            note=self._note,
            verbose=self._verbose,
        )

    def start_again(self) -> bool:
        """Start the server's process again, with the versions that were accepted.

        False if another process has it load a version just now, which will fail in a moment.

        Raises:
            WorkspaceError: The temporary folder is full.
        """
        try:
            with self.control.exclusively(waits=False):
                for name in self.view.names():
                    self.restore(name)
                self.start_process()
        except BlockingIOError:
            return False
        return True

    def restore(self, model: str) -> None:
        """Have the server see the versions of a model that were accepted, and not what is judged.

        Raises:
            WorkspaceError: The temporary folder is full.
        """
        if model_and_version(model)[1] is not None:
            return  # nobody changes an entry MODEL@N
        try:
            self.view.restore(self.repository / model)
        except OSError as error:
            raise unusable(Path(self.launch.workspace).parent, error) from None
        except ValueError as error:
            raise LoadError(str(error)) from None

    def wait_until_ready(self, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Return as soon as every model has been loaded and warmed up.

        Raises:
            LoadError: A model could not be loaded. The message has the server's reason.
            PortInUse: Another process took a port before the server did.
            ServerError: The server ended, or took longer than `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_up():
            self.check_deadline(deadline)
            time.sleep(_POLL_S)

    def check_deadline(self, deadline: float) -> None:
        """Raise `ServerError` if the monotonic clock is beyond a time, in seconds."""
        if time.monotonic() > deadline:
            raise ServerError(f"tritonserver was not ready in time:\n{self.log_tail()}")

    def is_up(self) -> bool:
        """Whether the server has been started completely, asked once.

        Only the process that `start_process` started counts, and not another server that listens
        on the same ports.

        Raises:
            ServerError: As for `wait_until_ready`.
        """
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            self._ended_early(code)
            return False
        # The server opens its ports as soon as every model is loaded or has failed.
        if not all(listens(self.process.pid, port) for port in vars(self.ports).values()):
            if stub := self._load_watch.hangs_for(self.process.pid):
                self._lost_a_stub(stub.death_in_load)
            return False
        if not self.control.is_live():
            return False
        self.models = self.control.index()
        if reason := next(
            (each.reason for each in self.models if DEAD_STUB.search(each.reason)), ""
        ):
            self._lost_a_stub(f"a model was not loaded: {self.plain(reason)}")
            return False
        self._check_models()
        self._accept_models()
        self.process.shows_errors = True
        self._tries = 1  # from now on, who watches the server decides about further attempts
        self._asked = self.ports  # after a restart, clients find the server where it was
        self.publish(state="ready")
        return True

    def publish(self, **changes: object) -> None:
        """Write changed facts of the launch for other processes."""
        assert self._registration is not None
        self.launch = replace(self.launch, **changes)  # type: ignore[arg-type]
        self._registration.write(self.launch)

    def exit_code(self) -> int | None:
        """The exit code of the server's process; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def kill(self) -> None:
        """Kill the server's process, which hangs, and its stubs."""
        assert self.process is not None
        self.process.kill()

    def clear(self) -> None:
        """Remove what a process has left behind that ended by itself, before it is started again.

        These are its stubs and their shared memory.
        """
        assert self.process is not None and self._workspace is not None
        self.process.end()
        self._workspace.clear_shared_memory()
        sweep()

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Take no more requests, and wait until those in flight are answered.

        The server says that it is not ready from the beginning on.
        """
        self.publish(state="stopping")
        self._exit_timeout_s = _IDLE_EXIT_S
        names = sorted({model.name for model in self.models})
        with suppress(ServerError):
            for name in names:
                self.control.unload(name)
            self.control.wait_until_unloaded(names, timeout_s)

    def stop(self) -> None:
        """End the server after it has answered the requests in flight.

        This can be called at any time.
        """
        if self.process is not None:
            self.process.end(self._exit_timeout_s)
        if self._workspace is not None:
            self._workspace.remove()
            self._workspace = None
        if self._registration is not None:
            self._registration.remove()
            self._registration = None

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.process.log()[-lines:]) if self.process else ""

    def _without(self, models: list[ServedFolder], leave_out: LeaveOut) -> list[ServedFolder]:
        named = [model_and_version(name)[0] for name in self.only]
        kept = leave_out([model.folder for model in models], named, self._note)
        return [model for model in models if model.folder in kept]

    def _ended_early(self, code: int) -> None:
        """Start again with other ports if a free port was taken by another process meanwhile.

        Raises:
            PortInUse: A port was lost that was asked for.
            ServerError: The server ended for another reason.
        """
        assert self.process is not None
        self.process.settle_log()
        lost = _LOST_PORT.search("\n".join(self.process.log()))
        again = self._may_try_again()
        if lost:
            name = next(name for name, port in vars(self.ports).items() if port == int(lost[1]))
            if getattr(self._asked, name) or not again:
                raise occupied(self.address, name, int(lost[1]))
        elif code >= 0 or not again:
            raise ServerError(
                f"tritonserver ended with {ending(code)} before it was ready:\n{self.log_tail()}"
            )
        else:
            self._note(f"tritonserver ended with {ending(code)} at its start; it is tried again")
        self._start_over()

    def _lost_a_stub(self, death: str) -> None:
        """Start again, because a stub has died while its model was loaded.

        Raises:
            ServerError: This has happened too often.
        """
        self.kill()
        if not self._may_try_again():
            raise ServerError(f"{death}:\n{self.log_tail()}")
        self._note(f"{death}; it is started again")
        self._start_over()

    def _may_try_again(self) -> bool:
        """Whether the server may be started once more. Each call counts."""
        self._tries -= 1
        return self._tries > 0

    def _start_over(self) -> None:
        self.clear()
        self.ports = self._asked.resolve(self.address)
        self.start_process()

    def _check_models(self) -> None:
        """Raise `LoadError` if a model is not ready."""
        assert self.process is not None
        failed = [model for model in self.models if model.state != READY]
        if failed:
            lines = [
                f"model {model.name!r} cannot be loaded: "
                + self.plain(model.reason or self.process.complaint(model.name))
                for model in failed
            ]
            if len(failed) < len(self.models):
                lines.append("serve the others with `only=NAME`")
            raise LoadError("\n".join(lines))
        if not self.control.is_ready():
            lines = ["tritonserver does not call itself ready:", *self.process.severe()]
            raise LoadError("\n".join(lines))

    def _accept_models(self) -> None:
        """Note what the server serves at its first start."""
        for name in {model.name for model in self.models}:
            versions = [int(each.version) for each in self.models if each.name == name]
            if model_and_version(name)[1] is None and not self.view.accepted(name):
                self.view.accept(name, versions)

    def _arguments(self) -> list[str]:
        # To ask a backend to complete a config takes a process for each model, and a second.
        may_get_models = self.follow or "model-repository" not in self._restricted
        is_complete = not may_get_models and self.view.is_complete()
        return [
            *(["--disable-auto-complete-config"] if is_complete else []),
            *launch_arguments(self.launch),
            *tls_arguments(self._tls),
            *self._cache,
            *self._trace,
        ]
