"""What the options of `python -m client` become, without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

import trustme

from seresnext101_triton.client import cli, commands
from seresnext101_triton.client.images import ImageOptions
from seresnext101_triton.client.options import image_options_of, transport_options_of
from seresnext101_triton.client.transport import Tls, TransportOptions


def parsed(*arguments: str) -> argparse.Namespace:
    return cli._parser().parse_args(arguments)


def test_without_options_the_library_decides():
    plain = parsed("classify", "cat.jpg")
    assert transport_options_of(plain) == TransportOptions()
    assert image_options_of(plain) == ImageOptions()


def test_every_option_of_the_connection_reaches_it(tmp_path):
    authority, own = trustme.CA(), trustme.CA().issue_cert("me")
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "me.pem", "me.key"))
    authority.cert_pem.write_to_path(str(ca))
    own.cert_chain_pems[0].write_to_path(str(certificate))
    own.private_key_pem.write_to_path(str(key))
    told = parsed(
        *("models", "--protocol", "http", "--timeout", "1.5", "--retries", "7"),
        *("--header", "X-Team: a:b ", "--header", "x-b:", "--compression", "gzip"),
        *("--shared-memory", "--tls-ca", str(ca)),
        *("--tls-cert", str(certificate), "--tls-key", str(key)),
    )
    headers = {"x-team": "a:b", "x-b": ""}
    tls = Tls(ca, certificate, key)
    wanted = TransportOptions("http", 1.5, 7, headers, tls, "gzip", shared_memory=True)
    assert transport_options_of(told) == wanted
    assert transport_options_of(parsed("models", "--tls")).tls == Tls()
    assert transport_options_of(parsed("models", "--tls-ca", str(ca))).tls == Tls(ca)


def test_every_option_of_the_images_reaches_them():
    told = parsed("bulk", "x", "--output", "o", "--no-orientation", "--draft", "--max-pixels", "9")
    assert image_options_of(told) == ImageOptions(orient=False, draft="model", max_pixels=9)


def test_the_options_of_the_page_reach_it(monkeypatch, capsys):
    from seresnext101_triton.client.page import service
    from seresnext101_triton.client.page.asking import Target

    served = []

    def serve(target, place, ready):
        served.append((target, place))
        ready("http://here")

    monkeypatch.setattr(service, "serve", serve)
    monkeypatch.setenv("TRITON_URL", "elsewhere:1")
    assert cli.main(["web"]) == 0
    assert "http://here" in capsys.readouterr().err
    told = ["--model", "a", "--model", "b", "--model", "a", "--address", "::1", "--port", "1"]
    limits = ["--max-upload", "2", "--max-pixels", "3"]
    assert cli.main(["web", "--url", "there:2", "--retries", "4", *told, *limits]) == 0
    mib = 1 << 20
    assert served == [
        (
            Target("elsewhere:1", TransportOptions(), ImageOptions(max_bytes=32 * mib), ()),
            service.Place("127.0.0.1", 7860, 32 * mib),
        ),
        (
            Target(
                "there:2",
                TransportOptions(retries=4),
                ImageOptions(max_bytes=2 * mib, max_pixels=3),
                ("a", "b"),
            ),
            service.Place("::1", 1, 2 * mib),
        ),
    ]


def test_standard_input_is_not_for_bulk(capsys, tmp_path):
    line = ["bulk", "a.jpg", "-", "--output", str(tmp_path / "o.jsonl"), "--url", "x:1"]
    assert cli.main(line) == 2
    assert "error: standard input can be read once" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_says_what_it_did():
    from seresnext101_triton.client.bulk import Tally
    from seresnext101_triton.client.sources import LeftOut

    out = Path("o.jsonl")
    assert commands._summary(Tally(answered=3), LeftOut(), out) == "o.jsonl: 3 images"
    left_out = LeftOut()
    left_out.files[".txt"] += 2
    tally = Tally(before=4, answered=3, unreadable=2, refused=1)
    assert commands._summary(tally, left_out, out) == (
        "o.jsonl: 7 images, 4 of them from earlier runs, 2 unreadable, as their records say, "
        "1 refused by the server and left for the next run; left out: 2 files not named like a "
        "picture (2 .txt)"
    )
