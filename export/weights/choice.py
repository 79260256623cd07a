"""Which of the state dicts in a checkpoint is taken, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.weights.pickled import Inert
from seresnext101_triton.export.weights.stored import Stored
from seresnext101_triton.export.weights.wording import brief, listed

# Where training scripts put the weights, the first found first.
_RAW = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "params",
    "weights",
)
# Moving averages of them: timm's state_dict_ema, YOLO's ema, Lightning's ema_model and whatever
# else is called so.
_AVERAGED = re.compile(r"(^|[_\-])(ema|swa|avg|averaged?|polyak)([_\-]|\d*$)", re.IGNORECASE)
_COUNT = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_DEPTH = 4
_MOST = 32


@dataclass(frozen=True)
class Choice:
    """One state dict of a checkpoint.

    Attributes:
        path: Where it was in the file, for example `state_dict`; empty where the file is nothing
            else.
        averaged: Whether it is the moving average of the weights.
        tensors: By the names they have there.
        note: What was found and what was taken; empty where there was no choice.
    """

    path: str
    averaged: bool
    tensors: dict[str, Stored]
    note: str = ""

    @property
    def label(self) -> str:
        """For people and for the manifest."""
        return " ".join(filter(None, (self.path, "(averaged)" if self.averaged else "")))


def is_averaged(name: str) -> bool:
    """Whether a name says that what it holds is a moving average."""
    return bool(_AVERAGED.search(name))


def choose(content: Any, name: str, *, ema: bool) -> Choice:
    """The state dict that will be exported.

    Args:
        content: What is in the file.
        name: What to call it in errors.
        ema: Take averaged weights; without it they are taken where there are no others.

    Raises:
        CheckpointError: There is no state dict, or no averaged one.
    """
    found = list(islice(_state_dicts(content, "", False, 0), _MOST))
    usable = [
        choice
        for choice in found
        if any(isinstance(value, Stored) for value in choice.tensors.values())
    ]
    if not usable:
        raise CheckpointError(f"{name} {_why_no_state_dict(content)}")
    averaged = [choice for choice in usable if choice.averaged]
    raw = [choice for choice in usable if not choice.averaged]
    if ema and not averaged:
        held = listed(choice.label or "one state dict" for choice in usable)
        raise CheckpointError(
            f"{name} has no averaged weights, so `ema` cannot take them. It has {held}"
        )
    taken = (averaged if ema else raw or averaged)[0]
    _require_tensors(taken, name)
    return Choice(taken.path, taken.averaged, taken.tensors, _note(taken, usable, name))


def _state_dicts(content: Any, path: str, averaged: bool, depth: int) -> Iterator[Choice]:
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    inner = [key for key in _RAW if isinstance(content.get(key), Mapping)]
    inner += [
        key
        for key, value in content.items()
        if isinstance(key, str) and is_averaged(key) and isinstance(value, Mapping)
    ]
    for key in inner:
        yield from _state_dicts(
            content[key],
            ".".join(filter(None, (path, brief(key)))),
            averaged or is_averaged(key),
            depth + 1,
        )
    if not inner and content:
        yield from _split(content, path, averaged or _COUNT in content)


def _split(content: Mapping[Any, Any], path: str, averaged: bool) -> Iterator[Choice]:
    """Separate weights and averages that are in one state dict.

    The first part of their names tells them, as for modules within a module.
    """
    groups: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        first, dot, _ = key.partition(".") if isinstance(key, str) else ("", "", "")
        groups.setdefault(first if dot and is_averaged(first) else "", {})[key] = value
    for first in sorted(groups):  # what is not averaged comes first
        where = [path, brief(first)] if first else [path]
        yield Choice(".".join(filter(None, where)), averaged or bool(first), groups[first])


def _require_tensors(choice: Choice, name: str) -> None:
    where = f"{name} ({choice.path})" if choice.path else name
    if strange := [key for key in choice.tensors if not isinstance(key, str)]:
        raise CheckpointError(
            f"{where} is no state dict: these keys are no names of tensors: "
            f"{listed(map(repr, strange))}"
        )
    if strange := sorted(
        key for key, value in choice.tensors.items() if not isinstance(value, Stored)
    ):
        raise CheckpointError(
            f"{where} is no state dict: these entries are no tensors: {listed(strange)}"
        )


def _why_no_state_dict(content: Any) -> str:
    if isinstance(content, Stored):
        return "holds a Tensor, not a state dict"
    if isinstance(content, Inert):
        return f"holds a {content.name.rpartition('.')[2]}, not a state dict"
    if not isinstance(content, Mapping):
        return f"holds a {type(content).__name__.lstrip('_').lower()}, not a state dict"
    if not content:
        return "holds an empty dict, not a state dict"
    return (
        f"holds no state dict, neither bare nor under {', '.join(_RAW[:3])} or ema: "
        f"these entries are no tensors: {listed(content)}"
    )


def _note(taken: Choice, usable: list[Choice], name: str) -> str:
    if len(usable) == 1 and not taken.averaged:
        return ""
    found = f"{name} has {listed(choice.label for choice in usable)}"
    if len(usable) == 1:
        return f"{name} has averaged weights only: taken"
    others = (
        "; `ema` takes the averaged weights"
        if not taken.averaged and any(choice.averaged for choice in usable)
        else ""
    )
    return f"{found}: taken {taken.label or 'the others'}{others}"
