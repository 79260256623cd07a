"""`perf flames`: stacks as Linux's perf prints them, and the drawing."""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from xml.etree import ElementTree

import pytest

from seresnext101_triton.perf import flames
from seresnext101_triton.perf.errors import PerfError
from seresnext101_triton.perf.flames import Frame, Samples, draw, stacks, take

PRINTED = """\
a program 12/13
\t          656efe [unknown] (/home/somebody/lib/libfast.so)
\t         2637083 [unknown] (/home/somebody/lib/libfast.so)
\t          158ba2 inner<(int)1>::call (inlined)
\t          158ba2 outer (/usr/bin/a program)

a program 12/12
\t    7f22408805b4 [unknown] (/tmp/perf-12.map)

python 99/99
\t              10 other (/usr/bin/python)

python 14/20
\tffffffff81000000 schedule ([kernel.kallsyms])
\t          158ba2 outer (/usr/bin/a program)

"""
ROLES = {12: "the server", 14: "the client"}
SERVER, CLIENT = (Frame(role, role) for role in ROLES.values())
OUTER, FAST = Frame("outer", "a program"), Frame("libfast.so", "libfast.so")
KERNEL = Frame("kernels compiled by the runtime", "kernels compiled by the runtime")
SCHEDULE = Frame("schedule", "Linux")


def test_stacks_begin_with_what_a_process_is_called():
    assert list(stacks(PRINTED.splitlines(), ROLES)) == [
        (SERVER, OUTER, FAST),
        (SERVER, KERNEL),
        (CLIENT, OUTER, SCHEDULE),
    ]


def test_a_share_is_that_of_the_library_that_computes():
    samples = Samples({(SERVER, OUTER, FAST): 1, (SERVER, FAST): 5, (CLIENT, OUTER, SCHEDULE): 2})
    assert samples.shares() == [
        ("the server", "libfast.so", 0.75),
        ("the client", "Linux", 0.25),
    ]


def test_a_frame_is_as_wide_as_its_share_and_below_its_caller():
    samples = Samples(
        {(SERVER, OUTER, FAST): 600, (SERVER, OUTER): 200, (SERVER, KERNEL): 399, (CLIENT,): 1}
    )
    root = ElementTree.fromstring(draw(samples, "a < b"))
    assert root[0].text == "a < b"
    drawn = {}
    for group in root[1:]:
        title, box, _ = group
        drawn[title.text] = tuple(float(box.attrib[key]) for key in ("x", "y", "width"))
    assert drawn == {
        "the server (the server): 99.9%": (1.0, 16.0, 1199.0),
        "kernels compiled by the runtime (kernels compiled by the runtime): 33.2%": (1, 32, 399),
        "outer (a program): 66.7%": (400.0, 32.0, 800.0),
        "libfast.so (libfast.so): 50.0%": (400.0, 48.0, 600.0),
    }
    height = float(root.attrib["viewBox"].split()[-1])
    assert height == 48 + 16


def test_samples_of_this_process(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # where perf itself would keep copies of libraries
    data, stop = bytes(1 << 20), threading.Event()

    def work() -> None:
        while not stop.is_set():
            zlib.crc32(data)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        found = take({}, "this test", 0.5)
    except PerfError as error:
        pytest.skip(str(error))  # no perf here, or it is not allowed
    finally:
        stop.set()
        thread.join()
    libraries = Counter({library: share for _, library, share in found.shares()})
    assert {process for process, *_ in found.shares()} == {"this test"}
    assert any("zlib" in library or "libz" in library for library in libraries)
    assert list(tmp_path.iterdir()) == []


def test_perf_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerfError, match="apt install linux-perf"):
        flames.take({}, "this test", 0.5)
