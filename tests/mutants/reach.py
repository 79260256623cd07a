"""The lines that each test reaches and the time it takes, from one run of the unchanged project."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import coverage
import pytest

_FIXTURE = "fixture:"


class Watch:
    """A plugin for pytest that records outcomes, times, and the lines of each test and fixture.

    Args:
        folder: The copy of the project in which pytest runs.
        files: The files that are mutated.
    """

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._coverage = coverage.Coverage(
            data_file=None, include=[str(folder / file) for file in files], config_file=False
        )
        self._folder = folder
        self._fixtures: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._failed: set[str] = set()
        self._context = ""

    def start(self) -> None:
        """Note what is reached from here on."""
        self._coverage.start()

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
            self._switch(before)
            self._seconds[before] -= time.monotonic() - started

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def save(self, path: Path) -> None:
        """Write JSON: `seconds` and `lines` by test, and the `failed` or skipped tests."""
        self._coverage.stop()
        data = self._coverage.get_data()
        reached: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
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
                    "seconds": self._seconds,
                    "lines": lines,
                    "failed": sorted(self._failed),
                    "fixtures": self._fixtures,
                }
            )
        )

    def _switch(self, context: str) -> None:
        self._context = context
        self._coverage.switch_context(context)


class Reach:
    """What `Watch.save` wrote, to be asked."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.failed: list[str] = content["failed"]
        self._seconds: dict[str, float] = content["seconds"]
        # A test that is run alone also runs its shared fixtures, whose time is not in the record.
        self._order = sorted(
            (test for test in content["lines"] if test not in self.failed),
            key=lambda test: (
                bool({"server", "foreign_server", "exported"} & set(content["fixtures"][test])),
                self._seconds[test],
            ),
        )
        self._lines: dict[str, dict[str, list[int]]] = content["lines"]

    def tests(self, file: str, first: int, last: int, constant: bool) -> list[str]:
        """The tests that reach some lines, the fastest first.

        Where no test reaches them in pytest's own process, all tests.
        """
        if constant:
            return self._order
        wanted = set(range(first, last + 1))
        return [
            test for test in self._order if wanted & set(self._lines[test].get(file, ()))
        ] or self._order

    def seconds(self, tests: Sequence[str]) -> float:
        """How long some tests took together."""
        return sum(self._seconds[test] for test in tests)
