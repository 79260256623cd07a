"""Runs `bulk` on a Ray cluster: the images are opened and sent by actors on all its nodes."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from seresnext101_triton import as_typed
from seresnext101_triton.client.bulk import BulkOptions
from seresnext101_triton.client.decoding import Prediction
from seresnext101_triton.client.errors import ClientError, ImageError, RequestRejected
from seresnext101_triton.client.images import ImageSource
from seresnext101_triton.client.memory import keep_freed_memory
from seresnext101_triton.client.pipeline import Answer
from seresnext101_triton.client.process import interrupt_on_signals
from seresnext101_triton.client.ray import ClassifyImages
from seresnext101_triton.client.sources import Unreadable, is_url
from seresnext101_triton.client.text import escaped, reason, unescaped

if TYPE_CHECKING:
    import pyarrow

    from seresnext101_triton.client.classifier import Classifier

_BLOCK = 128  # images of one task; a task that was lost is repeated as a whole
_OWN = "local"  # Ray's word for a cluster that ends with this process
# How often the head of a cluster is looked at, and how long it may be away: less than Ray's 60 s.
_HEAD_LOOK_S, _HEAD_AWAY_S = 5.0, 40.0
_HEAD_SIGNAL = signal.SIGUSR1  # wakes up the main thread, whatever it waits for
_OBJECTS = 200_000_000  # bytes of shared memory for names and answers, in a cluster of our own
# A cluster of our own tells Ray's makers nothing, collects no metrics, and has actors of the
# priority of this process; Ray gives them the niceness 15 otherwise. On a loaded machine, it needs
# more than Ray's 30 s to start.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_raylet_start_wait_time_s": "120",
}


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect this process to a Ray cluster, or to one of its own on this machine.

    It is for commands: it changes the environment, the signal handlers and the logging.

    Args:
        address: Address of the cluster as Ray takes it. None means `$RAY_ADDRESS`, or else a
            cluster of its own, which ends with the context and leaves no file.

    Raises:
        ClientError: Ray is not installed, or the cluster cannot be used. It is raised anywhere in
            the context if the head of the cluster does not answer any more.
    """
    address = address or os.environ.get("RAY_ADDRESS") or _OWN
    _check_reachable(address)
    os.environ.update(_ENVIRONMENT)
    if address == _OWN:  # without a key in the environment, Ray writes one into the home folder
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClientError(
            as_typed(
                f"`engine` ray needs Ray, which cannot be used here ({error}): pip install '.[ray]'"
            )
        ) from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with ExitStack() as stack:
        stack.enter_context(_only_our_messages())
        own: dict[str, Any] = {}
        if address == _OWN:
            own = {
                "num_cpus": len(os.sched_getaffinity(0)),
                "object_store_memory": _OBJECTS,
                "include_dashboard": False,
                "_temp_dir": stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
                ),
            }
        head = _Head()
        try:
            try:
                ray.init(address, log_to_driver=False, **own)
            except Exception as error:  # noqa: BLE001  (Ray raises also Exception itself)
                raise ClientError(f"Ray cannot be used at {address}: {reason(error)}") from None
            interrupt_on_signals()  # Ray has put its own handlers in their place
            if not ray.cluster_resources().get("CPU"):
                raise ClientError("the Ray cluster has no CPU: start its nodes with one at least")
            if address != _OWN:
                head.watch(ray.get_runtime_context().gcs_address)
            yield
        finally:
            head.close()
            if not head.is_gone:  # Ray would wait for it, and then end this process without a word
                ray.shutdown()


class _Head:
    """The head of a cluster. Ray ends a process without a message if its head is gone for 60 s.

    Attributes:
        is_gone: Whether it has not answered for some time.
    """

    def __init__(self) -> None:
        self.is_gone = False
        self._closed = threading.Event()

    def watch(self, address: str) -> None:
        """Raise `ClientError` in the main thread when the head is gone.

        Args:
            address: Its host and port.
        """

        def tell(*_: object) -> None:
            raise ClientError(
                f"the head of the Ray cluster at {address} does not answer any more: start the "
                "cluster, and run the same command again, which goes on where it was"
            )

        signal.signal(_HEAD_SIGNAL, tell)
        threading.Thread(target=self._look, args=(address,), daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _look(self, address: str) -> None:
        answered = time.monotonic()
        while not self._closed.wait(_HEAD_LOOK_S):
            try:
                _connect(address)
                answered = time.monotonic()
            except OSError:
                if time.monotonic() - answered > _HEAD_AWAY_S:
                    self.is_gone = True
                    signal.pthread_kill(threading.main_thread().ident or 0, _HEAD_SIGNAL)
                    return


def _check_reachable(address: str) -> None:
    """Connect to a cluster that is named by `HOST:PORT`. Ray itself would try for minutes.

    Raises:
        ClientError: Nothing answers there.
    """
    if not address.rpartition(":")[2].isdecimal():
        return  # a word such as `auto`
    try:
        _connect(address.rpartition("://")[2])
    except (OSError, OverflowError) as error:
        raise ClientError(f"Ray cannot be used at {address}: {reason(error)}") from None


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _HEAD_LOOK_S).close()


@contextmanager
def _only_our_messages() -> Iterator[None]:
    """Keep Ray's messages off the screen: Python's standard error stays, all else goes nowhere.

    Ray writes to standard output in Python, and to standard error in C++.
    """
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        with (
            open(screen, "w", 1, errors="backslashreplace", closefd=False) as stderr,
            open(nowhere, "w", closefd=False) as stdout,
            redirect_stdout(stdout),
            redirect_stderr(stderr if sys.stderr is sys.__stderr__ else sys.stderr),
        ):
            os.dup2(nowhere, 2)
            yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


class RayEngine:
    """Answers images as `Classifier.stream` does, by actors on the nodes of a Ray cluster.

    Ray repeats what a process or a node that died had not handed over yet.

    Args:
        classifier: A classifier with the same arguments.
        patience_s: How long an actor waits for a server that is away, in seconds.
        workers: How many actors, each with one CPU. None means one for each CPU of the cluster.
        arguments: The arguments of `Classifier`.

    Attributes:
        model: What the server says about the model.
    """

    def __init__(
        self,
        classifier: Classifier,
        patience_s: float,
        workers: int | None = None,
        **arguments: Any,
    ) -> None:
        self._classifier, self.model = classifier, classifier.model
        self._patience_s, self._workers = patience_s, workers
        model = {"model": classifier.model.name, "version": classifier.model.version}
        self._arguments = arguments | model | {"server_side": "no"}

    @property
    def inexact(self) -> list[str]:
        """The options because of which the inputs are not exact."""
        return self._classifier.inexact

    def wait_until_ready(self, timeout_s: float) -> None:
        """See `Classifier.wait_until_ready`."""
        self._classifier.wait_until_ready(timeout_s)

    def stream(
        self,
        images: Iterable[str],
        *,
        top: int,
        batch: int | None,
        in_flight: int | None,
        ordered: bool,  # noqa: ARG002  (a cluster answers in no order)
    ) -> Iterator[Answer]:
        """See `Classifier.stream`. All names are in memory before the first image is sent.

        Raises:
            ClientError: An actor raised it, or Ray cannot go on.
        """
        import ray

        names = []
        for image in images:
            if isinstance(image, Unreadable):
                yield Answer(image, error=image.error)
            else:
                names.append(image)
        if not names:
            return
        options = BulkOptions(self._patience_s, top, batch, in_flight)
        workers = self._workers or int(ray.cluster_resources()["CPU"])
        blocks = list(_blocks(names, min(_BLOCK, -(-len(names) // workers))))
        dataset = ray.data.from_arrow(blocks).map_batches(
            _ClassifyNames,
            fn_constructor_kwargs=self._arguments | {"options": options},
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            num_cpus=1,
        )
        try:
            for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
                for row in table.to_pylist():
                    yield _answer(names[row["number"]], row)
        except Exception as error:  # noqa: BLE001  (Ray's, with that of an actor in it)
            raise _cause(error) from None


class _ClassifyNames(ClassifyImages):
    """Takes names that `_blocks` has written."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        keep_freed_memory()

    def images(self, table: pyarrow.Table) -> list[ImageSource]:
        return [unescaped(name) for name in table["image"].to_pylist()]


def _blocks(names: list[str], size: int) -> Iterator[pyarrow.Table]:
    """The numbers and the names of images. The working folder of an actor may be another one."""
    import pyarrow

    for first in range(0, len(names), size):
        block = names[first : first + size]
        absolute = [escaped(name if is_url(name) else os.path.abspath(name)) for name in block]  # noqa: PTH100
        yield pyarrow.table({"number": range(first, first + len(block)), "image": absolute})


def _answer(image: str, row: Mapping[str, Any]) -> Answer:
    if row["error"] is None:
        return Answer(image, [Prediction(**one) for one in row["predictions"]])
    kind = RequestRejected if row["refused"] else ImageError
    return Answer(image, error=kind(unescaped(row["error"])))


def _cause(error: BaseException) -> ClientError:
    """The error of ours that ended a run of Ray, or one that says what Ray says."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ClientError):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return ClientError(f"Ray cannot go on: {type(error).__name__}: {reason(error)}")
