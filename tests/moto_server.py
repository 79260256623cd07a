"""Runs moto, a server that speaks S3, until its standard input ends. It prints its port.

It runs with a PYTHONPATH that `make test` has installed it into.
"""

from __future__ import annotations

import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):  # type: ignore[misc]
    """Answers without a log."""

    def log(self, *_: object, **__: object) -> None:
        """Write nothing."""


application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
