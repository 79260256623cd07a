"""The lines that each test reaches and the time it takes, from one run of the unchanged project."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import coverage
import pytest

_FIXTURE = "fixture:"
_CONTEXT = "MUTANTS_CONTEXT"  # the environment variable with the name of the test that runs
_FIRST_S = 5.0  # The first tests of a mutant take this long, and most mutants fail one of them.
_ALL_S = 30.0  # A mutant that no test of this time notices has survived.
_OVERHEAD_S = 0.1  # what a test takes besides its own time


class Watch:
    """A plugin for pytest that records outcomes, times, and the lines of each test and fixture.

    Lines that are run by programs which a test starts count too, also in Triton's stub.

    Args:
        folder: The copy of the project in which pytest runs.
        files: The files that are mutated.
        data: A folder for the lines that programs run; it is made.
    """

    def __init__(self, folder: Path, files: Sequence[str], data: Path) -> None:
        self._include = [str(folder / file) for file in files]
        self._coverage = coverage.Coverage(data_file=None, include=self._include, config_file=False)
        self._folder = folder
        self._data = data
        self._fixtures: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._context = ""

    def start(self) -> None:
        """Note what is reached from here on."""
        self._data.mkdir()
        settings = self._data / "coveragerc"
        settings.write_text(
            "[run]\nparallel = true\nsigterm = true\npatch = _exit\n"
            f"data_file = {self._data / 'lines'}\ncontext = ${{{_CONTEXT}}}\n"
            "include =\n    " + "\n    ".join(self._include)
        )
        os.environ["COVERAGE_PROCESS_START"] = str(settings)  # read by every Python that starts
        # An environment of a test's own may have no coverage, as that of the page.
        sites = self._data / "sites"
        sites.mkdir()
        (sites / "coverage").symlink_to(Path(coverage.__file__).parent)
        (sites / "sitecustomize.py").write_text("import coverage\ncoverage.process_startup()\n")
        os.environ["PYTHONPATH"] = f"{sites}:{os.environ.get('PYTHONPATH', '')}"
        self._coverage.start()
        self._switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        self._switch(item.nodeid)
        result = yield
        self._switch("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Add the lines of a shared fixture to every test that uses it, not only to the first."""
        if fixturedef.scope == "function":
            return (yield)
        before, started = self._context, time.monotonic()
        self._switch(_FIXTURE + fixturedef.argname)
        try:
            return (yield)
        finally:
            taken = time.monotonic() - started
            self._seconds[self._context] += taken
            self._seconds[before] -= taken
            self._switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def save(self, path: Path) -> None:
        """Write JSON: `seconds`, `fixtures` and `lines` by test, and `failed` or skipped tests."""
        self._coverage.stop()
        reached: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for data in (self._coverage.get_data(), *map(_opened, self._data.glob("lines.*"))):
            for file in data.measured_files():
                name = str(Path(file).relative_to(self._folder))
                for line, contexts in data.contexts_by_lineno(file).items():
                    for context in contexts:
                        reached[context][name].add(line)
        lines: dict[str, dict[str, list[int]]] = {}
        for test, fixtures in self._fixtures.items():
            found: dict[str, set[int]] = defaultdict(set)
            for context in (test, *(_FIXTURE + name for name in fixtures)):
                for file, numbers in reached.get(context, {}).items():
                    found[file] |= numbers
            lines[test] = {file: sorted(numbers) for file, numbers in found.items()}
        path.write_text(
            json.dumps(
                {
                    "seconds": {name: max(0.0, taken) for name, taken in self._seconds.items()},
                    "lines": lines,
                    "failed": sorted(self._failed),
                    "fixtures": self._fixtures,
                }
            )
        )

    def _switch(self, context: str) -> None:
        self._context = context
        os.environ[_CONTEXT] = context
        self._coverage.switch_context(context)


def _opened(path: Path) -> coverage.CoverageData:
    data = coverage.CoverageData(str(path))
    data.read()
    return data


def of_file(content: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The part of what `Watch.save` wrote that is about the tests of one file.

    Args:
        content: What was read from the JSON.
        file: From the top of the project.
    """

    def here(name: str) -> bool:
        return name.startswith((f"{file}::", _FIXTURE))

    return {
        "failed": [*filter(here, content["failed"])],
        **{
            key: {name: value for name, value in content[key].items() if here(name)}
            for key in ("seconds", "lines", "fixtures")
        },
    }


class Reach:
    """What `Watch.save` wrote, to be asked.

    Args:
        contents: By file of tests, as `of_file` gives them.
    """

    def __init__(self, contents: Sequence[Mapping[str, Any]]) -> None:
        self.failed: list[str] = [test for content in contents for test in content["failed"]]
        self._seconds = _merged(content["seconds"] for content in contents)
        self._fixtures = _merged(content["fixtures"] for content in contents)
        self._lines: dict[str, dict[str, list[int]]] = {
            test: lines
            for test, lines in _merged(content["lines"] for content in contents).items()
            if test not in self.failed
        }

    def stages(self, file: str, first: int, last: int, constant: bool) -> list[list[str]]:
        """The tests for a mutant, to be run one stage after another until one fails.

        They are the tests that reach the lines. For a constant, and for lines that no test reaches,
        they are all, and those that reach the file come first. Of these, those come first that take
        little time and reach little beside the file.
        """
        wanted = set(range(first, last + 1))
        reaching = [
            test for test, lines in self._lines.items() if wanted & set(lines.get(file, ()))
        ]
        tests = sorted(
            self._lines if constant or not reaching else reaching,
            key=lambda test: (
                file not in self._lines[test],
                self.seconds([test]) / self._share(test, file),
            ),
        )
        quick = self._within(tests, _FIRST_S)
        known = set(quick)
        rest = self._within([test for test in tests if test not in known], _ALL_S)
        return [stage for stage in (quick, rest) if stage]

    def seconds(self, tests: Sequence[str]) -> float:
        """How long some tests take together, with the fixtures that they share."""
        shared = {name for test in tests for name in self._shared(test)}
        return sum(self._seconds[name] for name in (*tests, *shared)) + _OVERHEAD_S * len(tests)

    def _share(self, test: str, file: str) -> float:
        """How much of what a test reaches is in a file, above 0."""
        lines = self._lines[test]
        return (len(lines.get(file, ())) + 0.1) / (sum(map(len, lines.values())) + 1)

    def _within(self, tests: Sequence[str], limit_s: float) -> list[str]:
        """As many tests as a time allows, and one at least."""
        taken: list[str] = []
        shared: set[str] = set()
        left_s = limit_s
        for test in tests:
            new = set(self._shared(test)) - shared
            seconds = self._seconds[test] + _OVERHEAD_S + sum(map(self._seconds.__getitem__, new))
            if seconds <= left_s or not taken:
                taken.append(test)
                shared |= new
                left_s -= seconds
        return taken

    def _shared(self, test: str) -> list[str]:
        names = (_FIXTURE + name for name in self._fixtures[test])
        return [name for name in names if name in self._seconds]


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return dict(chain.from_iterable(part.items() for part in parts))
