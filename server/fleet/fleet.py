"""Several servers of one repository on this machine, behind one gateway."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.launches import Launch
from seresnext101_triton.client.output import say as say_on_stderr
from seresnext101_triton.client.served import ModelState
from seresnext101_triton.server.access import restricted_without
from seresnext101_triton.server.cores import shares
from seresnext101_triton.server.errors import ServerError
from seresnext101_triton.server.fleet.envoy import Envoy, admin_socket, find_envoy
from seresnext101_triton.server.fleet.gateway import Endpoint, Gateway
from seresnext101_triton.server.fleet.metrics import MetricsPage
from seresnext101_triton.server.fleet.replica import Replica
from seresnext101_triton.server.fleet.rotation import judge_of
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.ports import LOCALHOST, Ports, bare_address
from seresnext101_triton.server.registry import WORKSPACE_PREFIX, Registration, sweep
from seresnext101_triton.server.tracing import Tracing
from seresnext101_triton.server.workspace import unusable

_DRAIN_S = 10.0


class Fleet:
    """Servers on free ports of this machine, each on its share of the cores, behind an Envoy.

    All methods return at once, except `drain` and `stop`. The thread that calls `start` and `look`
    must live as long as the fleet.

    Args:
        repository: The model repository.
        replicas: The number of servers, at least 1.
        ports: The ports of the gateway: Envoy's for gRPC and HTTP, and one for the metrics of all
            servers.
        address: The interface of these ports.
        say: A function that is called with each line for a person.
        verbose: As for `Server`.
        only: As for `Server`.
        follow: Whether the servers load what changes in the repository, one server at a time.
        soak_s: As for `Server`.
        allow: As for `Server`.
        response_cache_mib: As for `Server`. Each server has a cache of this size.
        trace: As for `Server`.
        note: As for `Server`.

    Attributes:
        launch: What other processes know of the gateway. It is known after `start`.
        models: The models that the servers serve. They are known as soon as the fleet is up.

    Raises:
        InstallationError: There is no Envoy.
        UsageError: `address` is not the address of an interface.
    """

    launch: Launch

    def __init__(  # noqa: PLR0913  (one argument for each independent option)
        self,
        repository: Path,
        replicas: int,
        *,
        ports: Ports | None = None,
        address: str = LOCALHOST,
        say: Callable[[str], None] = say_on_stderr,
        verbose: bool = False,
        only: Sequence[str] = (),
        follow: bool = False,
        soak_s: float = 0.0,
        allow: Sequence[str] = (),
        response_cache_mib: int = 0,
        trace: Tracing | None = None,
        note: Callable[[str], None] = say_on_stderr,
    ) -> None:
        find_envoy()
        self._address = bare_address(address)
        if not Endpoint(self._address).is_address:
            raise UsageError("`address` must be the address of an interface, for example 0.0.0.0")
        self._repository, self._ports = repository, ports or Ports()
        self._restricted = restricted_without(allow)
        self._say, self._note, self._verbose = say, note, verbose
        self._key = secrets.token_hex(16)
        self.models: list[ModelState] = []
        self._replicas: list[Replica] = []
        for number, cpus in enumerate(shares(replicas)):
            server = Server(
                repository,
                ports=Ports(0, 0, 0),
                verbose=verbose,
                only=only,
                follow=follow,
                soak_s=soak_s,
                allow=allow,
                response_cache_mib=response_cache_mib,
                trace=trace,
                key=self._key,
                cpus=cpus,
                note=_prefixed(number, note),
            )
            self._replicas.append(Replica(str(number), server, cpus, _prefixed(number, say)))
        self._count = replicas
        self._out: set[str] = set()  # the names of the servers that get no requests now
        self._registration: Registration | None = None
        self._folder: Path | None = None
        self._page: MetricsPage | None = None
        self._envoy: Envoy | None = None

    @property
    def is_recovering(self) -> bool:
        """Whether a server, a model or the gateway is being started again."""
        gateway = self._envoy is not None and self._envoy.is_recovering
        return gateway or any(each.is_recovering for each in self._replicas)

    def start(self) -> None:
        """Start the servers.

        Raises:
            ServerError: As for `Server.start`.
        """
        sweep()
        self._ports = self._ports.resolve(self._address)
        self._registration = Registration()
        self._folder = _private_folder(self._registration.name)
        admin_socket(self._folder)
        self._page = MetricsPage(self._address, self._ports.metrics)
        self.launch = Launch(
            pid=os.getpid(),
            repository=str(self._repository.resolve()),
            address=self._address,
            **vars(self._ports),
            key=self._key,
            restricted=self._restricted,
            workspace=str(self._folder),
            shared_memory="",
            replicas=self._count,
            file=self._registration.file,
        )
        self._publish()
        for each in self._replicas:
            each.start()

    def is_up(self) -> bool:
        """Whether all servers are ready and the gateway takes requests.

        Raises:
            ServerError: As for `Server.is_up`.
            PortInUse: Another process took a port of the gateway meanwhile.
        """
        for each in self._replicas:
            if each.has_started:
                each.look()
            elif each.is_up():
                each.has_started = True
        if not all(each.has_started and not each.is_recovering for each in self._replicas):
            return False
        if self._envoy is None:
            self._start_envoy()
        assert self._envoy is not None
        if not self._envoy.is_up():
            return False
        self.models = self._replicas[0].models
        for each in self._replicas:
            self._say(
                f"  replica {each.name}: {each.launch.url}, process {each.server.pid} on "
                f"processors {', '.join(map(str, sorted(each.cpus)))}"
            )
        self._publish(state="ready")
        return True

    def check_deadline(self, deadline: float) -> None:
        """Raise `ServerError` if the monotonic clock is beyond a time, in seconds."""
        for each in self._replicas:
            each.check_deadline(deadline)

    def look(self) -> None:
        """Start again what has died, and load what has changed, on one server after the other.

        Raises:
            ServerError: The gateway, or every server, has died too often.
        """
        assert self._envoy is not None
        for each in list(self._replicas):
            others = [other for other in self._replicas if other is not each]
            try:
                each.look(follow=not any(o.is_following or o.is_recovering for o in others))
            except ServerError as error:
                if not others:
                    raise
                self._give_up(each, error)
        self._envoy.look()
        self._rotate()
        self._publish_restarts()

    def is_live(self) -> bool:
        """Whether the gateway and a server answer."""
        assert self._envoy is not None
        return self._envoy.is_up() and any(each.is_live() for each in self._replicas)

    def drain(self) -> None:
        """Take no more requests, and wait until those in flight are answered."""
        self._publish(state="stopping")
        if self._envoy is not None:
            self._envoy.drain(_DRAIN_S)
        self._on_all(lambda each: each.drain())

    def stop(self) -> None:
        """End the gateway and the servers. This can be called at any time."""
        if self._envoy is not None:
            self._envoy.stop()
            self._envoy = None
        self._on_all(lambda each: each.stop())
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._registration is not None:
            self._registration.remove()
            self._registration = None

    def _start_envoy(self) -> None:
        """Start the gateway. The ports of the servers are known for good only when they are up."""
        assert self._registration is not None and self._folder is not None and self._page
        gateway = Gateway(
            self._endpoints(),
            self._address,
            self._ports.grpc,
            self._ports.http,
            admin_socket=admin_socket(self._folder),
            shares_ports=False,
            rotation=self._folder,
        )
        self._page.show({each.name: each.server.ports.metrics for each in self._replicas})
        self._envoy = Envoy(
            self._folder,
            gateway,
            lock=self._registration.lock,
            say=self._say,
            note=self._note,
            verbose=self._verbose,
        )
        self._envoy.start()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """The servers as the gateway is to see them."""
        canary = next((each.canary for each in self._replicas if each.canary), None)
        others = sum(
            not (each.canary or each.is_recovering or each.name in self._out)
            for each in self._replicas
        )
        found = []
        for each in self._replicas:
            # The canary's share of all requests is its percentage, however many others there are.
            weight, extra = 100 - canary.percent if canary else 1, ""
            ports, is_aside = each.server.ports, each.name in self._out
            if each.canary:
                weight = each.canary.percent * max(1, others)
                if not (is_aside or each.is_recovering):
                    extra = f"{quote(each.canary.model, '')}/{each.canary.version}"
            found.append(Endpoint(LOCALHOST, ports.grpc, ports.http, is_aside, weight, extra))
        return tuple(found)

    def _rotate(self) -> None:
        """Send no requests to servers on which a version is judged, as long as one is left."""
        assert self._envoy is not None
        judges = {each.name: judge_of(each.launch) for each in self._replicas}
        for each in self._replicas:  # after the judges: who asks for both ends the canary first
            each.heed_canary()
            if each.canary and each.is_going_back:
                judges[each.name] = judges[each.name] or f"the end of {each.canary.name}"
        out = {name for name in self._out if judges.get(name)}
        for one in self._replicas:
            others = (each for each in self._replicas if each is not one and each.name not in out)
            if judges[one.name] and not all(each.is_recovering for each in others):
                out.add(one.name)
        self._out = out
        self._envoy.send_to(self._endpoints())
        for each in self._replicas:
            now = {
                "aside": judges[each.name],
                "canary": each.canary.name if each.canary else "",
            }
            news = {
                name: value for name, value in now.items() if getattr(each.launch, name) != value
            }
            if news and self._envoy.follows():
                each.server.publish(**news)

    def _give_up(self, replica: Replica, error: ServerError) -> None:
        self._say(f"replica {replica.name}: {error}; it is given up, and the others go on")
        self._replicas.remove(replica)
        replica.stop()

    def _publish(self, **changes: object) -> None:
        """Write changed facts of the launch for other processes."""
        assert self._registration is not None
        self.launch = replace(self.launch, **changes)  # type: ignore[arg-type]
        self._registration.write(self.launch)

    def _publish_restarts(self) -> None:
        """Write how often something was started again, if it has changed."""
        assert self._envoy is not None
        models: dict[str, int] = {}
        for each in self._replicas:
            for model, count in each.launch.model_restarts.items():
                models[model] = models.get(model, 0) + count
        found = {
            "gateway_restarts": self._envoy.restarts,
            "server_restarts": sum(each.launch.server_restarts for each in self._replicas),
            "model_restarts": models,
        }
        if found != {name: getattr(self.launch, name) for name in found}:
            self._publish(**found)

    def _on_all(self, act: Callable[[Replica], None]) -> None:
        """Do something with all servers at the same time."""
        if self._replicas:
            with ThreadPoolExecutor(len(self._replicas)) as pool:
                list(pool.map(act, self._replicas))


def _prefixed(number: int, say: Callable[[str], None]) -> Callable[[str], None]:
    """A function that says which server a line is about."""
    return lambda line: say(f"replica {number}: {line}")


def _private_folder(name: str) -> Path:
    """A folder for a launch, which only this user can read. A later launch finds it by its name.

    Raises:
        WorkspaceError: The temporary folder cannot be written.
    """
    parent = Path(tempfile.gettempdir()).absolute()
    folder = parent / f"{WORKSPACE_PREFIX}{name}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise unusable(parent, error) from None
    return folder
