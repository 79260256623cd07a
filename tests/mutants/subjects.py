"""What is mutated, and the tests that are run for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Subject:
    """A package with its tests.

    Attributes:
        package: The name of its row in the table of scores.
        sources: Files and folders, as glob patterns from the top of the project.
        tests: Files and folders.
    """

    package: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self, root: Path) -> list[str]:
        """The files that are mutated, below the top of the project."""
        return sorted(
            {str(path.relative_to(root)) for pattern in self.sources for path in root.glob(pattern)}
        )


_OPTIONS = "tests/test_options.py"

SUBJECTS = (
    Subject(
        "client",
        ("client/**/*.py",),
        ("tests/client", "tests/server/test_image_input.py", _OPTIONS),
    ),
    Subject(
        "server",
        ("server/**/*.py",),
        (
            *("tests/server", "tests/export/tensorrt", "tests/export/test_live_versions.py"),
            *("tests/export/test_object_store.py", _OPTIONS),
        ),
    ),
    Subject(
        "export",
        (
            *("export/*.py", "export/commands/*.py", "export/formats/*.py", "export/labels/*.py"),
            *("export/onnx/*.py", "export/quantization/*.py", "export/weights/*.py"),
        ),
        ("tests/export", _OPTIONS),
    ),
    Subject(
        "perf",
        (
            *("perf/load.py", "perf/sweep.py", "perf/turns.py", "perf/comparison.py"),
            *("perf/tune.py", "perf/results.py", "perf/records.py", "perf/settings.py"),
        ),
        (
            *("tests/perf/test_load.py", "tests/perf/test_sweep.py", "tests/perf/test_compare.py"),
            *("tests/perf/test_peers.py", "tests/perf/test_tune.py", "tests/perf/test_results.py"),
            _OPTIONS,
        ),
    ),
)


def chosen(root: Path, only: Sequence[str]) -> Iterator[tuple[Subject, list[str]]]:
    """The subjects with the files to mutate.

    Args:
        root: The top of the project.
        only: Files, folders or packages, from the top of the project; nothing takes all.

    Yields:
        A subject and its files, where there are any.
    """
    wanted = tuple(name.rstrip("/") for name in only)
    for subject in SUBJECTS:
        files = [
            file
            for file in subject.files(root)
            if not wanted or any(file == name or file.startswith(f"{name}/") for name in wanted)
        ]
        if files:
            yield subject, files
