"""The mutation tester itself: what it changes, what it calls noticed, and what it reports."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = '''\
"""A module."""

import os

LIMIT = 3


def within(number: int) -> bool:
    """Whether a number is small."""
    if number > LIMIT:
        print("it is too large")
        return False
    return True


def doubled(number: int) -> int:
    """Twice a number."""
    return 2 * number
'''
TESTS = """\
import subprocess
import sys

from module import within


def test_a_small_number():
    assert within(2)


def test_a_large_number():
    assert not within(9)


def test_a_program_elsewhere():
    program = [sys.executable, "-c", "import module; print(module.doubled(4))"]
    assert subprocess.check_output(program, cwd="/") == b"8\\n"
"""


@pytest.fixture(scope="module", autouse=True)
def operators() -> Iterator[None]:
    """mutmut, which `make test` installs beside the other packages and not among them."""
    folder = next(Path(sys.prefix).glob("mutmut==*"), None)
    assert folder, "mutmut is not installed: run `make test`"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def changes(text: str) -> set[tuple[int, str, str]]:
    from tests.mutants.mutations import Source

    source = Source("module.py", text)
    made = [mutant for index in range(len(source)) if (mutant := source.mutant(index))]
    assert all(mutant.code != text for mutant in made)
    return {(mutant.line, mutant.before, mutant.after) for mutant in made}


def test_what_is_changed():
    found = changes(MODULE)
    assert {
        (5, "LIMIT = 3", "LIMIT = 4"),
        (10, "if number > LIMIT:", "if number >= LIMIT:"),
        (10, "if number > LIMIT:", "if not (number > LIMIT):"),
        (11, 'print("it is too large")', "pass"),
        (12, "return False", "return True"),
        (13, "return True", "return False"),
        (18, "return 2 * number", "return 2 / number"),
    } <= found
    # Docstrings, imports, annotations, and the wording of messages are not behaviour.
    assert {line for line, _, _ in found} == {5, 10, 11, 12, 13, 18}
    assert not any("XX" in after for _, _, after in found)


def test_names_and_keys_are_changed():
    assert changes('def f(x):\n    return x["key"]\n') >= {
        (2, 'return x["key"]', 'return x["XXkeyXX"]')
    }


def test_a_mutant_is_noticed_if_a_test_fails_with_it(tmp_path, monkeypatch):
    from tests.mutants.mutations import Source
    from tests.mutants.reach import Reach
    from tests.mutants.running import Copy

    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    (project / "tests/__init__.py").touch()
    tool = shutil.ignore_patterns("__pycache__", "test_*")
    shutil.copytree(Path(__file__).parent, project / "tests/mutants", ignore=tool)
    (project / "module.py").write_text(MODULE)
    (project / "tests/test_module.py").write_text(TESTS)
    (project / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    subprocess.run(["git", "init", "--quiet", project], check=True)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # They take half a second each time.
    source = Source("module.py", MODULE)
    outcomes, unnoticed = {}, {}
    expected = {
        "LIMIT = 4": "SURVIVED",
        "return True": "killed by tests/test_module.py::test_a_large_number",
        "return 2 / number": "killed by tests/test_module.py::test_a_program_elsewhere",
    }
    with Copy(project, tmp_path / "copy", preload=(), typed="module.py") as copy:
        files, tests = ["module.py"], "tests/test_module.py"
        assert not copy.record(files, tests).exists()
        reach = copy.reach(files, [tests])
        written = copy.record(files, tests).stat().st_mtime_ns
        assert copy.reach(files, ["tests"]).failed == []
        assert copy.record(files, tests).stat().st_mtime_ns == written  # It is not run again.
        assert reach.failed == []
        assert reach.stages("module.py", 12, 12, False) == [[f"{tests}::test_a_large_number"]]
        assert reach.stages("module.py", 18, 18, False) == [[f"{tests}::test_a_program_elsewhere"]]
        assert len(*reach.stages("module.py", 5, 5, True)) == 3
        for index in range(len(source)):
            mutant = source.mutant(index)
            if mutant and mutant.after in expected:
                outcomes[mutant.after] = copy.outcome(mutant, reach)
                assert (copy.folder / "module.py").read_text() == MODULE
                unnoticed[mutant.after] = copy.outcome(mutant, Reach([]))
    assert outcomes == expected
    assert {after for after, outcome in unnoticed.items() if outcome != "SURVIVED"} == {
        "return 2 / number"  # It is no int, which mypy says.
    }
    assert unnoticed["return 2 / number"] == "killed by mypy"
    assert (project / "module.py").read_text() == MODULE
    assert not (tmp_path / "copy").exists()
    assert Copy(project, tmp_path / "copy").record(files, tests).exists()
    (project / "tests/test_module.py").write_text(TESTS + "\n")
    assert not Copy(project, tmp_path / "copy").record(files, tests).exists()


def test_the_tests_of_a_constant_begin_with_those_that_reach_its_file():
    from tests.mutants.reach import Reach

    content = {
        "seconds": {"quick": 0.0, "slow": 4.0},
        "lines": {"quick": {"b.py": [1]}, "slow": {"a.py": [3], "b.py": list(range(99))}},
        "fixtures": {"quick": [], "slow": []},
        "failed": [],
    }
    assert Reach([content]).stages("a.py", 1, 1, True) == [["slow", "quick"]]
    assert Reach([content]).stages("b.py", 1, 1, False) == [["quick", "slow"]]


@pytest.mark.parametrize(("unnoticed", "code"), [(1, 0), (2, 1)])
def test_the_report_lists_the_survivors_and_the_scores(capsys, unnoticed, code):
    from tests.mutants.__main__ import _report
    from tests.mutants.mutations import Mutant

    mutants = [Mutant("a.py", line, line, "x", f"y{line}", False, "") for line in range(1, 11)]
    outcomes = [*["SURVIVED"] * unnoticed, "killed by mypy", *["killed by test_a"] * 10]
    found = {("package", "a.py"): list(zip(mutants, outcomes, strict=False))}
    assert _report(found, least=0.9) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:unnoticed] == [f"survived: a.py:{n}: x  =>  y{n}" for n in (1, 2)[:unnoticed]]
    assert lines[-1].split() == [
        *("package", str(10 - unnoticed), "of", "10", "killed", f"{10 - unnoticed}0.0%,"),
        *("1", "of", "them", "by", "mypy"),
    ]


def test_every_subject_has_its_modules_and_its_tests():
    """A module that was moved would otherwise be left out without a word."""
    from tests.mutants.subjects import SUBJECTS, chosen

    for subject in SUBJECTS:
        assert all(list(ROOT.glob(pattern)) for pattern in subject.sources), subject
        assert all((ROOT / test).exists() for test in subject.tests)
    (only,) = chosen(ROOT, ["perf/tune.py"])
    assert only[1] == ["perf/tune.py"]
    assert {subject.package for subject, _ in chosen(ROOT, ["server/", "client"])} == {
        "client",
        "server",
    }


def test_every_excused_mutant_still_exists():
    """Its lines are in the file, so that the list does not outlive the code."""
    listed = tomllib.loads((Path(__file__).with_name("equivalent.toml")).read_text())["equivalent"]
    for entry in listed:
        lines = (ROOT / entry["file"]).read_text().splitlines()
        assert entry["before"] in " ".join(line.strip() for line in lines), entry
        assert entry["reason"] and entry["after"] != entry["before"]
