"""The mutants of one file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper
from mutmut.mutation.mutators import mutation_operators, operator_string

_MUTMUT = [
    (kind, operator) for kind, operator in mutation_operators if operator is not operator_string
]

# The types of nodes that are matched with patterns, which takes long.
_MAY_SAY_NOTHING = (
    *(cst.Annotation, cst.Import, cst.ImportFrom, cst.Expr, cst.Decorator, cst.Arg, cst.If),
    cst.Assert,
)


@dataclass(frozen=True)
class Mutant:
    """A file with one small bug.

    Attributes:
        file: From the top of the project.
        line: Where the bug is, counted from 1.
        last: The last line of what was changed.
        before: The lines that were changed, stripped and joined.
        after: What they are now.
        code: The whole file.
        constant: Whether the change is outside of all functions, where any test may depend on it.
    """

    file: str
    line: int
    last: int
    before: str
    after: str
    constant: bool
    code: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  =>  {self.after}"


class Source:
    """A file, and where it can be mutated.

    Args:
        file: From the top of the project.
        text: What the file holds.
    """

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        # A copy in which no node is in two places.
        self._module = MetadataWrapper(cst.parse_module(text)).module
        visitor = _Visitor()
        self._module.visit(visitor)
        self._places = visitor.found

    def __len__(self) -> int:
        return len(self._places)

    def mutant(self, index: int) -> Mutant | None:
        """The mutant of an index, which takes a moment to make.

        Returns:
            None where the text stays the same or does not compile.
        """
        original, mutated, inside = self._places[index]
        code = _replaced(self._module, original, mutated).code
        return (
            _mutant(self._file, self._text, code, not inside)
            if code != self._text and _compiles(code)
            else None
        )


class _Visitor(cst.CSTVisitor):  # type: ignore[misc]  # libcst is not there where mypy runs
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, bool]] = []
        self._functions = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if _says_nothing_of_behaviour(node):
            return False
        self._functions += isinstance(node, cst.FunctionDef | cst.Lambda)
        self.found += [(node, changed, self._functions > 0) for changed in _changed(node)]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if not _says_nothing_of_behaviour(original_node):
            self._functions -= isinstance(original_node, cst.FunctionDef | cst.Lambda)


def _says_nothing_of_behaviour(node: cst.CSTNode) -> bool:
    """Whether a change of this node does not change behaviour.

    Such nodes are annotations, docstrings, imports, `@dataclass(frozen=True)`, the encoding of a
    text file, and checks for a type checker.
    """
    return isinstance(node, _MAY_SAY_NOTHING) and m.matches(
        node,
        m.Annotation()
        | m.Import()
        | m.ImportFrom()
        | m.Expr(m.SimpleString() | m.ConcatenatedString())
        | m.Decorator(m.Call(m.Name("dataclass")))
        | m.Arg(keyword=m.Name("encoding"))
        | m.If(test=m.Name("TYPE_CHECKING"))
        | m.Assert(),
    )


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in _MUTMUT:
        if isinstance(node, kind):
            yield from (changed for changed in operator(node) if not _only_encoding(node, changed))
    yield from _texts(node)
    yield from _removed_calls(node)
    yield from _negated(node)


def _only_encoding(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    """Whether the change takes only the `encoding` of a call away."""
    if not (isinstance(node, cst.Call) and isinstance(changed, cst.Call)):
        return False
    kept = {id(arg) for arg in changed.args}
    return any(
        arg.keyword is not None and arg.keyword.value == "encoding"
        for arg in node.args
        if id(arg) not in kept
    )


def _texts(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """Another value for a name, a key or an option.

    A text with a space is a message for people, and its wording is not behaviour.
    """
    if isinstance(node, cst.SimpleString) and node.quote in "\"'" and " " not in node.raw_value:
        yield node.with_changes(value=f"{node.prefix}{node.quote}XX{node.raw_value}XX{node.quote}")


def _removed_calls(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, cst.Expr) and m.matches(node.value, m.Call() | m.Await(m.Call())):
        yield cst.Pass()


def _negated(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    if isinstance(node, cst.If | cst.While) and not m.matches(
        node.test, m.UnaryOperation(m.Not()) | m.Name("True")
    ):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))


def _replaced(module: cst.Module, original: cst.CSTNode, mutated: cst.CSTNode) -> cst.Module:
    changed = module.deep_replace(original, mutated)
    assert isinstance(changed, cst.Module)
    return changed


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _mutant(file: str, text: str, code: str, constant: bool) -> Mutant:
    old, new = text.splitlines(), code.splitlines()
    changes = [
        change
        for change in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]
    first, last = changes[0][1], max(change[2] for change in changes)
    before, after = (
        " ".join(line.strip() for line in lines)
        for lines in (old[first:last], new[changes[0][3] : changes[-1][4]])
    )
    return Mutant(file, first + 1, max(last, first + 1), before, after, constant, code)
