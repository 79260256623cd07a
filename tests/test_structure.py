"""Which module imports which: the packages in one direction, and no module itself in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "client": {"client"},
    "server": {"client", "server"},
    "export": {"client", "server", "export"},
    "perf": {"client", "server", "export", "perf"},
}
# Cycles that are still to be removed, each as the set of its modules.
KNOWN_CYCLES: set[frozenset[str]] = set()


def modules() -> dict[str, Path]:
    """Every module of the four packages, by its dotted name."""
    found = {}
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def _ours(name: str) -> str:
    """The name of a module without the package that holds all four."""
    return name.removeprefix("seresnext101_triton").removeprefix(".")


def imported(name: str) -> Iterator[str]:
    """The modules of ours that a module imports: at its top, in functions, under TYPE_CHECKING."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := _ours(alias.name)) in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                if node.level
                else ""
            )
            source = _ours(".".join(filter(None, (base, node.module))))
            for alias in node.names:
                if (module := f"{source}.{alias.name}".removeprefix(".")) in MODULES:
                    yield module
                elif source in MODULES:
                    yield source


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that import one another (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1 or name in graph[name]:
                found.add(frozenset(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


GRAPH = {name: set(imported(name)) for name in MODULES}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_in_one_direction(package):
    for name, others in GRAPH.items():
        if name.partition(".")[0] == package:
            forbidden = {
                other for other in others if other.partition(".")[0] not in MAY_IMPORT[package]
            }
            assert not forbidden, f"{name} imports {', '.join(sorted(forbidden))}"


def test_no_modules_import_one_another():
    found = cycles(GRAPH)
    unknown = [" <-> ".join(sorted(cycle)) for cycle in found - KNOWN_CYCLES]
    assert not unknown, f"new cycles: {unknown}"
    gone = [" <-> ".join(sorted(cycle)) for cycle in KNOWN_CYCLES - found]
    assert not gone, f"these cycles are gone, remove them from KNOWN_CYCLES: {gone}"


def test_the_files_that_are_tested_first_are_there():
    assert [name for name in LONG if not (ROOT / name).is_file()] == []


def test_a_cycle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": set()}
    assert cycles(graph) == {frozenset("bc"), frozenset("d")}
