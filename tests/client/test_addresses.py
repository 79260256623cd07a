"""Addresses, headers and the other options of a connection.

Each is sent to the server as the user gave it, or refused before any request is sent.
"""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from seresnext101_triton.client import Classifier, Tls, TransportOptions
from seresnext101_triton.client.address import Address, parse, parse_all
from seresnext101_triton.client.classifier import URL_VARIABLE, default_url
from seresnext101_triton.client.cli import main
from seresnext101_triton.client.connection import Connection
from seresnext101_triton.client.errors import ClientError, ServerUnreachable, UsageError
from seresnext101_triton.client.failover import _pause_s
from seresnext101_triton.client.transport import LONGEST_TIMEOUT_S, check_header


@contextmanager
def counted() -> Iterator[tuple[int, list[tuple[socket.socket, object]]]]:
    """A port, and what has connected to it."""
    came: list[tuple[socket.socket, object]] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    came.append(listener.accept())
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1], came
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for taken, _ in came:
        taken.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:9", Address("grpc", "host", 9)),
        ("host", Address("grpc", "host", 8001)),
        ("Host:9/", Address("grpc", "host", 9)),
        (" host:65535 ", Address("grpc", "host", 65535)),
        ("triton_1:1", Address("grpc", "triton_1", 1)),
        ("grpc://host", Address("grpc", "host", 8001)),
        ("GRPC://host:9/", Address("grpc", "host", 9)),
        ("grpcs://host", Address("grpc", "host", 443, tls=True)),
        ("http://host", Address("http", "host", 80)),
        ("HTTP://HOST:8000", Address("http", "host", 8000)),
        ("https://host", Address("http", "host", 443, tls=True)),
        ("HttpS://host:8443/a/b.c/", Address("http", "host", 8443, tls=True, prefix="/a/b.c")),
        ("[::1]", Address("grpc", "::1", 8001)),
        ("[::1]:9", Address("grpc", "::1", 9)),
        ("https://[2001:DB8::1]/x", Address("http", "2001:db8::1", 443, tls=True, prefix="/x")),
        ("[fe80::1%eth0]:9", Address("grpc", "fe80::1%eth0", 9)),
        ("bücher.example:9", Address("grpc", "xn--bcher-kva.example", 9)),
        ("host.example.:9", Address("grpc", "host.example.", 9)),
    ],
)
def test_addresses(text, address):
    assert parse(text) == address


def test_what_was_asked_for_by_name_fills_what_the_scheme_leaves_open():
    assert parse("host", "http") == Address("http", "host", 8000)
    assert parse("host/p", "http", tls=True) == Address("http", "host", 8000, tls=True, prefix="/p")
    assert parse("host", tls=True) == Address("grpc", "host", 8001, tls=True)
    assert parse("https://host", "http", tls=True) == Address("http", "host", 443, tls=True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "https://host",
            {"protocol": "grpc"},
            "is an address for HTTP, but the protocol asked for is grpc",
        ),
        (
            "grpcs://host",
            {"protocol": "http"},
            "is an address for gRPC, but the protocol asked for is http",
        ),
        (
            "http://host",
            {"tls": True},
            "means plain text, but TLS was asked for: write https://host",
        ),
        (
            "GRPC://host",
            {"tls": True},
            "means plain text, but TLS was asked for: write grpcs://host",
        ),
        ("ftp://host", {}, "has the scheme 'ftp', which this client does not speak"),
        ("grcp://host", {}, "has the scheme 'grcp'"),
        ("://host", {}, "has the scheme ''"),
        ("unix:///run/triton", {}, "has the scheme 'unix'"),
        ("unix:/run/triton", {}, "the port must be a number"),
        ("host:0", {}, "the port must be a number from 1 to 65535, not '0'"),
        ("host:65536", {}, "not '65536'"),
        ("host:-1", {}, "not '-1'"),
        ("host:x", {}, "not 'x'"),
        ("host:", {}, "not ''"),
        ("host:８０", {}, "the port must be"),
        ("http://host:99999999999999999999", {}, "the port must be"),
        ("[::1]:x", {}, "the port must be"),
        ("::1", {}, "write an IPv6 address in brackets"),
        ("fe80::1%eth0", {}, "write an IPv6 address in brackets"),
        ("[::1", {}, "is not the name of a host"),
        (".example", {}, "is not the name of a host"),
        ("bü..example", {}, "is not the name of a host"),
        ("host..:9", {}, "is not the name of a host"),
        ("[]:1", {}, "is not an IPv6 address"),
        ("[host]:1", {}, "'host' is not an IPv6 address"),
        ("[::1%a b]:1", {}, "a blank"),
        (":8001", {}, "names no host: write HOST:PORT, for this machine localhost:8001"),
        ("8001", {}, "names no host: write HOST:PORT, for this machine localhost:8001"),
        ("https://", {}, "names no host"),
        ("http:///v2", {}, "names no host"),
        ("a b:1", {}, "a blank or a control character"),
        ("host:1\n2", {}, "a blank or a control character"),
        ("ho\x00st", {}, "a blank or a control character"),
        ("\x1b[31mhost", {}, "a blank or a control character"),
        ("caf\udce9:1", {}, "a blank or a control character"),
        ("a..b:1", {}, "is not the name of a host"),
        ("-a:1", {}, "is not the name of a host"),
        ("a/b:1", {}, "has a path, which gRPC cannot follow"),
        ("a\\b:1", {}, "is not the name of a host"),
        (f"{'a' * 64}:1", {}, "is not the name of a host"),
        ("exa℀.com", {}, "is not the name of a host"),
        ("grpc://host/v2", {}, "has a path, which gRPC cannot follow"),
        ("http://host/a//b", {}, "is not the path of a URL"),
        ("http://host/../b", {}, "is not the path of a URL"),
        ("http://host/ä", {}, "is not the path of a URL"),
        ("http://host?x=1", {}, "leave out everything from '?x=1' on"),
        ("http://host/#top", {}, "leave out everything from '#top' on"),
        ("", {}, "names no host"),
    ],
)
def test_what_is_no_address(text, options, message):
    with pytest.raises(UsageError) as caught:
        parse(text, **options)
    assert message in str(caught.value)
    assert str(caught.value).isprintable() and caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "user:hunter2@host",
        "https://user:hunter2@host/x",
        "user:hunter2 @host",
        "https://u:hunter2/@host",
        "ftp://:hunter2@h?x",
    ],
)
def test_a_password_is_refused_and_not_repeated(text):
    with pytest.raises(UsageError, match="takes no user and no password") as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)


_PIECES = st.sampled_from(
    [
        "http",
        "https",
        "grpc",
        "://",
        "/",
        ":",
        "[",
        "]",
        "::1",
        "host",
        "8001",
        ".",
        "%",
        "@",
        "?",
        "#",
        " ",
        "\n",
        ",",
    ]
)


@given(
    st.text() | st.lists(_PIECES | st.text(max_size=3), max_size=8).map("".join),
    st.sampled_from([None, "grpc", "http"]),
    st.booleans(),
)
@example("http://[::1]:8000/x", None, False)
def test_any_text_is_an_address_or_refused(text, protocol, tls):
    try:
        address = parse(text, protocol, tls)
    except UsageError as error:
        assert str(error).isprintable()
        return
    assert 1 <= address.port <= 65535 and address.protocol in ("grpc", "http")
    assert protocol in (None, address.protocol) and address.tls >= tls
    assert address.host and address.host.isascii() and not set(address.host) & set(" /?#@[]\\")
    assert address.tls or not text.strip().lower().startswith(("https:", "grpcs:"))
    assert parse(str(address), address.protocol) == address


@pytest.mark.parametrize("urls", ["a:1,b:2", "a:1, b:2 ,", ["a:1", "b:2"], "grpc://a:1,b:2"])
def test_several_servers(urls):
    assert parse_all(urls) == (Address("grpc", "a", 1), Address("grpc", "b", 2))


@pytest.mark.parametrize(
    "urls", ["http://a:1,b:2", "https://a,http://b", "grpc://a,grpcs://b", ["a", "https://b"]]
)
def test_several_servers_are_spoken_to_in_one_way(urls):
    with pytest.raises(
        UsageError,
        match="all servers must be spoken to in one way, but .* write the same scheme before each",
    ):
        parse_all(urls)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]")),
        *(
            (host, False)
            for host in (
                "example.org",
                "10.0.0.1",
                "127.0.0.1.example.org",
                "localhost.example.org",
                "[::2]",
            )
        ),
    ],
)
def test_what_is_this_machine(host, here):
    assert parse(f"{host}:1").is_loopback is here


def test_the_environment_decides_the_protocol(monkeypatch):
    assert default_url() == "localhost:8001" and default_url("http") == "localhost:8000"
    monkeypatch.setenv(URL_VARIABLE, "  ")
    assert default_url("http") == "localhost:8000"
    with counted() as (port, came):
        monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{port}")
        with pytest.raises(
            UsageError, match="is an address for HTTP, but the protocol asked for is grpc"
        ):
            Classifier(transport_options=TransportOptions("grpc"))
        assert not came


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--url", url] for url in ("https://{}", "grpcs://{}")),
        *(["--timeout", value] for value in ("nan", "inf", "-inf", "0", "-1", "x", "1e300", "")),
        *(["--retries", value] for value in ("-1", "x", "1.5", "nan")),
        *(["--max-pixels", value] for value in ("0", "-1", "x")),
        *(["--batch", value] for value in ("0", "-1", "x")),
        *(["--in-flight", value] for value in ("0", "-1", "x")),
        ["--protocol", "GRPC"],
        *(
            ["--header", value]
            for value in (
                "x",
                ":x",
                "a b:c",
                "a:b\nc",
                "a:b\r\nc: d",
                "a:b\0",
                "a:☃",
                "ä:b",
                "a:b\udce9",
            )
        ),
        *(
            ["--header", value]
            for value in (
                "Content-Length: 5",
                "transfer-encoding: chunked",
                "grpc-timeout: 1S",
                "x-bin: y",
            )
        ),
        ["--header", "a:b", "--header", "A:c"],
        *(["--tls-ca", value] for value in ("/nowhere.pem", "/", "{}")),
        ["--tls-cert", "/nowhere.pem"],
        ["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"],
    ],
    ids=repr,
)
def test_wrong_usage_is_code_2_and_nothing_is_sent(arguments, capsys, tmp_path):
    (tmp_path / "not.pem").write_text("no certificate")
    with counted() as (port, came):
        filled = [
            text.replace("{}", f"127.0.0.1:{port}" if "//" in text else str(tmp_path / "not.pem"))
            for text in arguments
        ]
        if "--url" in arguments:
            filled += ["--protocol", "http" if "grpcs" in filled[1] else "grpc"]
        url = [] if "--url" in arguments else ["--url", f"127.0.0.1:{port}"]
        try:
            code = main(["classify", "cat.jpg", "--model", "m", *url, *filled])
        except SystemExit as end:  # argparse's own refusals
            code = int(end.code or 0)
        assert code == 2
        error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(error) == 1 and "Traceback" not in error[0]
        assert not came


def test_waiting_times_are_numbers_of_seconds(capsys):
    for line in (
        ["health", "--wait", "nan"],
        ["health", "--wait", "-1"],
        ["bulk", "x", "--output", "o.jsonl", "--patience", "inf"],
    ):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert end.value.code == 2
    with Connection("127.0.0.1:1") as connection:
        for seconds in (float("nan"), float("inf"), -1.0):
            with pytest.raises(UsageError, match="the time to wait must be a number of seconds"):
                connection.wait_until_ready(timeout_s=seconds)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransportOptions(timeout_s=float("nan")),
        lambda: TransportOptions(timeout_s=float("inf")),
        lambda: TransportOptions(timeout_s=LONGEST_TIMEOUT_S * 1.1),
        lambda: TransportOptions(retries=-1),
        lambda: TransportOptions(headers={"a": "b\n"}),
        lambda: TransportOptions("grpc", headers={"a": "é"}),
        lambda: Connection("http://host", TransportOptions(headers={"a": "☃"})),
        lambda: Connection("host", TransportOptions(headers={"a": "é"})),
    ],
)
def test_the_library_refuses_the_same(make):
    with pytest.raises(UsageError):
        make()
    assert TransportOptions(timeout_s=LONGEST_TIMEOUT_S, retries=0)


def test_files_of_tls(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "locked", "empty")}
    authority.cert_pem.write_to_path(files["ca"])
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    files["empty"].write_bytes(b"")
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    files["locked"].write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    Tls(files["ca"], files["cert"], files["key"])
    for ca in (files["empty"], files["key"], tmp_path, tmp_path / "none", Path(sys.executable)):
        with pytest.raises(UsageError, match=f"{ca}.* (cannot be used|does not exist)"):
            Tls(ca)
    other = trustme.CA().issue_cert("x").private_key_pem
    other.write_to_path(tmp_path / "other.pem")
    for key_file in (files["cert"], files["empty"], tmp_path / "other.pem"):
        with pytest.raises(UsageError, match="the certificate and its key, cannot be used"):
            Tls(None, files["cert"], key_file)
    with pytest.raises(UsageError, match="the key has a passphrase"):
        Tls(None, files["cert"], files["locked"])


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen = [(name, value) for name, value in self.headers.raw_items()]  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


_NAMES = st.text(st.characters(codec="ascii"), min_size=1, max_size=12) | st.sampled_from(
    ["authorization", "Content-Length", "grpc-x", "x-bin"]
)


@given(_NAMES, st.text(max_size=12) | st.text(st.characters(codec="latin-1"), max_size=12))
def test_a_header_arrives_as_it_is_or_is_refused(echo, name, value):
    try:
        with Connection(
            f"http://127.0.0.1:{echo.server_port}", TransportOptions(headers={name: value})
        ) as connection:
            assert connection.is_live()
    except UsageError as error:
        assert str(error).isprintable()
        return
    if name.lower() not in ("host", "accept-encoding"):
        ours = [arrived for other, arrived in echo.seen if other.lower() == name.lower()]
        assert [text.strip(" \t") for text in ours] == [value.strip(" \t")]


@pytest.fixture(scope="module")
def grpc_echo() -> Iterator[tuple[int, list[object]]]:
    """A server of gRPC that answers every call with nothing, and what metadata came."""
    from concurrent.futures import ThreadPoolExecutor

    seen: list[object] = []

    class Any(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details):
            seen.append([(item.key, item.value) for item in details.invocation_metadata])
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Any()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, seen
    server.stop(None).wait()


@given(_NAMES, st.text(max_size=12) | st.text(st.characters(codec="ascii"), max_size=12))
def test_a_header_of_grpc_arrives_as_it_is_or_is_refused(grpc_echo, name, value):
    port, seen = grpc_echo
    try:
        with Connection(
            f"127.0.0.1:{port}", TransportOptions(headers={name: value}, retries=0)
        ) as connection:
            connection.server()
    except UsageError as error:
        assert str(error).isprintable()
        return
    if name.lower() not in ("host", "user-agent", "content-type"):
        assert (name.lower(), value.strip(" ")) in [
            (key, arrived.strip(" ")) for key, arrived in seen[-1]
        ]


@pytest.mark.parametrize("protocol", [None, "grpc", "http"])
def test_messages_name_a_header_and_never_hold_its_value(protocol):
    for name, value in (
        ("a", "hunter2\n"),
        ("a b", "hunter2"),
        ("te", "hunter2"),
        ("a", "hunter2☃"),
        *([("Grpc-x", "hunter2"), ("x-BIN", "hunter2"), ("b", "hunter2é")] * (protocol == "grpc")),
    ):
        with pytest.raises(UsageError) as caught:
            check_header(name, value, protocol)
        assert repr(name) in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "headers", "warned"),
    [
        ("example.org:1", {"authorization": "x"}, True),
        ("http://example.org", {"X-Api-Key": "x"}, True),
        ("localhost:1,example.org:1", {"authorization": "x"}, True),
        ("https://example.org", {"authorization": "x"}, False),
        ("grpcs://example.org", {"authorization": "x"}, False),
        ("127.0.0.1:1", {"authorization": "x"}, False),
        ("[::1]:1", {"authorization": "x"}, False),
        ("example.org:1", {"x-team": "x"}, False),
    ],
)
def test_a_token_in_plain_text_is_warned_of(url, headers, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Connection(url, TransportOptions(headers=headers)).close()
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == warned and all(
        "in plain text, where others can read it: write " in text for text in texts
    )


def test_pauses_grow_are_random_and_have_a_bound():
    for attempt in (0, 3, 10, 2000, 10**9):
        pauses = [_pause_s(attempt) for _ in range(200)]
        bound = min(0.1 * 2 ** min(attempt, 20), 5)
        assert min(pauses) >= 0 and bound / 2 < max(pauses) <= bound
        assert len(set(pauses)) > 100


def test_nobody_listens_to_a_url_of_another_machine():
    """A name that cannot be resolved is said, and ends in time."""
    for url in ("no.such.host.invalid:8001", "http://no.such.host.invalid:8000"):
        started = time.monotonic()
        with pytest.raises(
            ServerUnreachable,
            match="no Triton server answers at no.such.host.invalid:800.*([Nn]ame|resol)",
        ):
            Connection(url, TransportOptions(retries=0, timeout_s=600)).models()
        assert time.monotonic() - started < 60


def test_every_error_has_an_exit_code():
    from seresnext101_triton.client import errors

    codes = {
        error.__name__: error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, ClientError)
    }
    assert (
        codes["UsageError"] == 2
        and codes["NotTriton"] == codes["DeadlineExceeded"] == codes["ServerUnreachable"] == 69
    )
    assert codes["AccessDenied"] == codes["RequestRejected"] == 1
