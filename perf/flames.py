"""Where the processor time of a served model goes, over all processes: a flame graph.

Linux's `perf` takes the stack of every thread that computes, many times a second. The kernels that
a runtime compiles when it loads a network have no names, and nothing can be seen below them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path, PurePath

import numpy as np

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.perf.errors import PerfError, ToolMissing
from seresnext101_triton.perf.preprocessing import jpeg
from seresnext101_triton.perf.serving import serving

_SIZE = 500, 375  # pixels, of the files
_IN_FLIGHT = 8  # requests with one tensor each
_HERTZ = 99
_STACK_BYTES = 16384  # of each stack that `perf` copies
_SAMPLE = re.compile(r"\S.*\s(\d+)/\d+\s*")
_FRAME = re.compile(r"\s+[0-9a-f]+ (.+) \((.*)\)")
_LONGEST = 80  # letters of a name
_COMPILED = "kernels compiled by the runtime"
# The drawing, in pixels. Narrower frames are left out.
_WIDTH, _ROW, _LETTER, _NARROWEST = 1200, 16, 6.6, 3.0


@dataclass(frozen=True)
class Frame:
    """A function on a stack.

    Attributes:
        name: Its name, or that of its library if it has none.
        library: The name of the file with its code.
    """

    name: str
    library: str


Stack = tuple[Frame, ...]


@dataclass(frozen=True)
class Samples:
    """What was seen of some processes.

    Attributes:
        stacks: How often each stack was seen, from the outermost frame, which is the process.
    """

    stacks: Mapping[Stack, int]

    @property
    def total(self) -> int:
        """How many samples there are."""
        return sum(self.stacks.values())

    def shares(self) -> list[tuple[str, str, float]]:
        """The processes with the libraries in which they computed, and the share of each."""
        counts: Counter[tuple[str, str]] = Counter()
        for stack, count in self.stacks.items():
            counts[stack[0].name, stack[-1].library] += count
        return [(*key, count / self.total) for key, count in counts.most_common()]


def sample_served(repository: Path, model: str, load: str, seconds: float) -> Samples:
    """Take samples of a server, of the processes of a model and of a client under a load.

    Args:
        repository: The model repository. A server on it is started on this machine.
        model: The name of a model in it.
        load: `tensors` sends eight requests with one prepared image each at a time; `files` lets
            the client's stream open and prepare JPEG files.
        seconds: The duration.

    Raises:
        ToolMissing: Linux's `perf` is missing.
        PerfError: It is not allowed, or has seen nothing.
        ServerError: The repository cannot be served.
    """
    with serving(repository, [model]) as server, Classifier(server.url, model) as classifier:
        first, *others = server.processes()
        roles = {first.pid: "tritonserver"}
        roles |= {each.pid: "the model's processes" for each in others}
        stop = threading.Event()
        send = {"tensors": _send_tensors, "files": _send_files}[load]
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send, classifier, stop)
            try:
                return take(roles, "the client", seconds)
            finally:
                stop.set()
                sending.result()


def _send_tensors(classifier: Classifier, stop: threading.Event) -> None:
    tensors = [np.stack([classifier.prepare(path)]) for path in sample_photographs()]

    def send(number: int) -> None:
        while not stop.is_set():
            classifier.classify_batch(tensors[number % len(tensors)])

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(send, range(_IN_FLIGHT)))


def _send_files(classifier: Classifier, stop: threading.Event) -> None:
    files = [jpeg(load_image(path), _SIZE) for path in sample_photographs()]
    with closing(classifier.stream(cycle(files), ordered=False)) as answers:
        while not stop.is_set():
            next(answers)


def take(roles: Mapping[int, str], own: str, seconds: float) -> Samples:
    """Take samples of processes and of this one.

    Args:
        roles: What to call each process, by its process id.
        own: What to call this process.
        seconds: The duration.

    Raises:
        ToolMissing: Linux's `perf` is missing.
        PerfError: It is not allowed, or has seen nothing.
    """
    if not shutil.which("perf"):
        raise ToolMissing("Linux's perf is not installed: apt install linux-perf")
    roles = {**roles, os.getpid(): own}
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        options = ["--event", "cpu-clock", "--freq", str(_HERTZ)]
        options += ["--call-graph", f"dwarf,{_STACK_BYTES}", "--pid", ",".join(map(str, roles))]
        # Otherwise `perf` leaves copies of all libraries in the home folder.
        options += ["--no-buildid-cache", "--output", data]
        _run("record", "--quiet", *options, "--", "sleep", str(seconds))
        fields = "comm,pid,tid,ip,sym,dso"
        # Otherwise it searches for inlined functions for minutes, and they are not drawn.
        text = _run("script", "--no-inline", "--input", data, "--fields", fields)
    found = Counter(stacks(text.splitlines(), roles))
    if not found:
        raise PerfError("nothing computed while perf looked: choose a larger number of `seconds`")
    return Samples(found)


def _run(*arguments: str) -> str:
    result = subprocess.run(["perf", *arguments], capture_output=True, text=True, errors="replace")
    if result.returncode:
        why = " ".join(result.stderr.split())[:300]
        raise PerfError(f"perf {arguments[0]} failed: {why}. See man perf_event_paranoid")
    return result.stdout


def stacks(lines: Iterable[str], roles: Mapping[int, str]) -> Iterator[Stack]:
    """The stacks in the output of `perf script`, from the outermost frame.

    Args:
        lines: The lines. Each sample has one with its process, and one for each frame.
        roles: What to call each process, by its process id.
    """
    role = ""
    frames: list[Frame] = []
    for line in lines:
        if sample := _SAMPLE.fullmatch(line):
            role, frames = roles.get(int(sample[1]), ""), []
        elif found := _FRAME.fullmatch(line):
            if found[2] != "inlined":
                frames.append(_frame(found[1], found[2]))
        elif not line.strip() and role and frames:
            yield (Frame(role, role), *_without_repetition(reversed(frames)))
            role = ""


def _frame(name: str, library: str) -> Frame:
    library = PurePath(library).name
    if library.startswith(("perf-", "[JIT]")):
        return Frame(_COMPILED, _COMPILED)
    if library.startswith("["):
        library = "Linux"
    # A name of C++ may have hundreds of arguments of templates.
    return Frame(library if name == "[unknown]" else name[:_LONGEST], library)


def _without_repetition(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, with functions without a name that call one another as one."""
    before = None
    for frame in frames:
        if frame != before:
            yield frame
        before = frame


def draw(samples: Samples, title: str) -> str:
    """The samples as SVG: the width of a frame is its share, and what it called is below it."""
    rows: list[str] = []
    deepest = _draw(list(samples.stacks.items()), _WIDTH / samples.total, 0, 0.0, rows)
    box = f'viewBox="0 0 {_WIDTH} {_ROW * (deepest + 1)}" font-family="monospace" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<text x="4" y="12">{escape(title)}'
    return "\n".join([head + "</text>", *rows, "</svg>\n"])


def _draw(
    stacks: Sequence[tuple[Stack, int]], scale: float, depth: int, left: float, rows: list[str]
) -> int:
    """Draw what the frames at a depth called, and return the number of the lowest row.

    Args:
        stacks: Stacks that are alike up to this depth, and how often each was seen.
        scale: Pixels of one sample.
        depth: How many of their frames are drawn already.
        left: Where they begin, in pixels.
        rows: Gets the elements of the drawing.
    """
    called: defaultdict[Frame, list[tuple[Stack, int]]] = defaultdict(list)
    for stack, count in stacks:
        if len(stack) > depth:
            called[stack[depth]].append((stack, count))
    lowest = depth
    for frame, below in sorted(called.items(), key=lambda item: item[0].name):
        share = sum(count for _, count in below)
        width = share * scale
        if width >= _NARROWEST:
            rows.append(_row(frame, left, width, depth + 1))
            lowest = max(lowest, _draw(below, scale, depth + 1, left, rows))
        left += width
    return lowest


def _row(frame: Frame, left: float, width: float, row: int) -> str:
    hue = hashlib.sha256(frame.library.encode()).digest()[0] * 360 // 256
    label = frame.name[: int(width / _LETTER)] if width > 4 * _LETTER else ""
    place = f'x="{left:.1f}" y="{row * _ROW}" width="{width:.1f}" height="{_ROW - 1}"'
    title = f"{frame.name} ({frame.library}): {width / _WIDTH:.1%}"
    return (
        f'<g><title>{escape(title)}</title><rect {place} fill="hsl({hue} 60% 80%)"/>'
        f'<text x="{left + 2:.1f}" y="{row * _ROW + 12}">{escape(label)}</text></g>'
    )
