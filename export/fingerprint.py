"""A digest of this project's own code.

It is a part of the keys that must change when the code makes something else.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def source_digest(*modules: str) -> str:
    """A digest of what modules do, in hexadecimal.

    Comments, docstrings and layout do not change it; any other change of the code does. It differs
    between versions of Python, whose syntax trees differ.

    Args:
        modules: Their full names; a package stands for all modules in it.

    Raises:
        ModuleNotFoundError: There is no such module, or it has no source file.
    """
    digest = hashlib.sha256()
    for name in sorted(modules):
        for path in _files(name):
            digest.update(f"{name} {path.name} {_behaviour(path.read_bytes())}\n".encode())
    return digest.hexdigest()


def _files(module: str) -> list[Path]:
    """The source files of a module or a package, in order. None of them is run."""
    spec = find_spec(module)
    if spec is None or not spec.has_location or spec.origin is None:
        raise ModuleNotFoundError(f"{module} has no source file")
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)]
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def _behaviour(source: bytes) -> str:
    """The syntax tree of a module as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
