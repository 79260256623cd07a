"""A version that is loaded must answer as its artifact did when it was published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seresnext101_triton.client import Prediction, TransportOptions
from seresnext101_triton.client.errors import (
    AnswerError,
    ContractError,
    DeadlineExceeded,
    RequestRejected,
    ServerUnreachable,
)
from seresnext101_triton.export.pipeline import Outcome
from seresnext101_triton.server import spot_check as module
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.reference import PHOTOGRAPH, Reference, read_reference, reference_of
from seresnext101_triton.server.spot_check import spot_check
from tests.conftest import FREE_PORTS
from tests.launches import LAUNCH

REFERENCE = Reference("astronaut.jpg", (7, 2), (0.6, 0.1), 0.05)


@pytest.fixture(scope="module")
def pixels(pixel_models: list[Outcome]) -> Iterator[Server]:
    with Server(pixel_models[0].folder.parent.parent, ports=FREE_PORTS) as running:
        yield running


@pytest.mark.parametrize("kind", ["server", "pixels"])
def test_each_model_answers_as_in_the_gate(kind, request):
    """Probabilities and logits, with and without labels; values and pixels."""
    server = request.getfixturevalue(kind)
    for model in server.models:
        folder = server.repository / model.name / model.version
        reference = read_reference(folder)
        assert reference is not None and reference.allowed == 0.05
        spot_check(server.launch, model.name, int(model.version))


def test_the_same_weights_at_other_classes_are_refused(server, tmp_path):
    """The manifest says that the two most likely classes were each other's."""
    model = server.models[0]
    shutil.copytree(server.repository, tmp_path / "models")
    path = tmp_path / "models" / model.name / "1" / "manifest.json"
    facts = json.loads(path.read_text())
    facts["parity"]["reference"]["classes"][:2] = facts["parity"]["reference"]["classes"][1::-1]
    path.write_text(json.dumps(facts))
    launch = replace(server.launch, repository=str(tmp_path / "models"))
    with pytest.raises(LoadError, match=r"answers otherwise .* for astronaut.jpg, class \d+"):
        spot_check(launch, model.name, 1)


@pytest.mark.parametrize(
    ("answer", "distance"),
    [
        ({7: 0.6, 2: 0.1, 0: 0.3}, 0),
        ({7: 0.6, 2: 0.1, 5: 0.1, 6: 0.2}, 0),  # the other classes count as one
        ({7: 0.5, 2: 0.2, 0: 0.3}, 0.1),
        ({7: 0.5, 2: 0.1, 0: 0.4}, 0.1),
        ({0: 1.0}, 0.7),
        ({2: 1.0}, 0.9),
    ],
)
def test_the_distance_of_two_answers(answer, distance):
    assert REFERENCE.distance(answer) == pytest.approx(distance, abs=1e-12)


def test_a_reference_is_the_five_most_likely_classes():
    found = reference_of(np.array([0.1, 0.3, 0.05, 0.25, 0.2, 0.1]), 0.5)
    assert found.classes == (1, 3, 4, 0, 5)
    assert found.probabilities == (0.3, 0.25, 0.2, 0.1, 0.1)
    assert reference_of(np.array([0.4, 0.6]), 0.5).classes == (1, 0)


@pytest.mark.parametrize(
    ("parity", "found"),
    [
        ({}, None),
        ({"reference": None}, None),
        ({"reference": {**vars(REFERENCE), "photograph": "other.jpg"}}, None),
        ({"reference": vars(REFERENCE)}, REFERENCE),
    ],
)
def test_what_a_manifest_says(tmp_path, parity, found):
    assert read_reference(tmp_path) is None
    (tmp_path / "manifest.json").write_text(json.dumps({"parity": parity}))
    assert read_reference(tmp_path) == found


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"parity": []}',
        json.dumps({"parity": {"reference": {**vars(REFERENCE), "probabilities": [1.0]}}}),
        json.dumps({"parity": {"reference": {**vars(REFERENCE), "allowed": "much"}}}),
    ],
)
def test_a_damaged_manifest_is_told(tmp_path, text):
    path = Path(tmp_path, "manifest.json")
    path.write_text(text)
    with pytest.raises(LoadError, match="export the version anew"):
        read_reference(tmp_path)


# What is asked, with a client that answers as it is told


@dataclass
class Told:
    """In the place of the class `Classifier`.

    Attributes:
        made: The error of making one.
        answers: What it answers, one after the other, and the last one again.
        asked: What it was asked: how it was made, and the number of classes each time.
        is_closed: Whether its connection was closed.
    """

    made: Exception | None = None
    answers: Sequence[Exception | list[Prediction]] = ()
    asked: list[Any] = field(default_factory=list)
    is_closed: bool = False
    model: Any = field(default_factory=lambda: SimpleNamespace(classes=3))

    def __call__(self, *arguments: object, **options: object) -> Told:
        self.asked.append((*arguments, options))
        if self.made:
            raise self.made
        return self

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_closed = True

    def classify(self, photograph: Path, top: int) -> list[Prediction]:
        assert photograph == PHOTOGRAPH
        number = len(self.asked) - 1
        self.asked.append(top)
        answer = self.answers[min(number, len(self.answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Overload(RequestRejected):
    is_overload = True


GOOD = [Prediction(7, "a", 0.6), Prediction(0, "b", 0.3), Prediction(2, "c", 0.1)]
DOWN = ServerUnreachable("it does not answer")


@pytest.fixture
def asked(tmp_path, monkeypatch) -> Callable[..., Told]:
    """A function that checks version 4 of model `m` with a client that is told its answers."""
    launch = replace(LAUNCH, repository=str(tmp_path), http=5)

    def check(*answers: Exception | list[Prediction], made: Exception | None = None) -> Told:
        told = Told(made, answers)
        monkeypatch.setattr(module, "Classifier", told)
        monkeypatch.setattr(module, "_PAUSE_S", 0.0)
        try:
            spot_check(launch, "m", 4)
        finally:
            assert told.is_closed == (made is None)
        return told

    return check


def refer(folder: Path, allowed: float) -> None:
    (folder / "m" / "4").mkdir(parents=True)
    reference = vars(replace(REFERENCE, allowed=allowed))
    manifest = {"parity": {"reference": reference}}
    (folder / "m" / "4" / "manifest.json").write_text(json.dumps(manifest))


def test_the_version_is_asked_over_http(asked, tmp_path):
    told = asked(GOOD)
    options = {"version": "4", "transport_options": TransportOptions(timeout_s=30.0)}
    assert told.asked == [("http://127.0.0.1:5", "m", options), 1]
    refer(tmp_path, 0.1)
    assert asked(GOOD).asked[1:] == [3]  # all classes are compared


@pytest.mark.parametrize(("allowed", "is_right"), [(0.4, True), (0.29, False)])
def test_an_answer_may_differ_as_much_as_is_allowed(asked, tmp_path, allowed, is_right):
    refer(tmp_path, allowed)
    answer = [Prediction(2, "a", 0.4), Prediction(7, "b", 0.3), Prediction(0, "c", 0.3)]
    if is_right:
        asked(answer)
        return
    with pytest.raises(LoadError) as refused:
        asked(answer)
    assert str(refused.value).startswith(
        "version 4 of model 'm' at 127.0.0.1:1 answers otherwise than its artifact did when it was "
        "published: for astronaut.jpg, class 2 has probability 0.40, and it was class 7 with 0.60 "
        "(distance 0.30, and 0.29 is allowed)"
    )
    with pytest.raises(LoadError):
        asked([Prediction(7, "a", float("nan")), Prediction(2, "b", 0.1)])


def test_a_failure_that_passes_is_none(asked):
    assert asked(*[DOWN] * 4, GOOD).asked[1:] == [1] * 5


def test_a_failure_that_does_not_pass_is_told(asked):
    message = r"^version 4 of model 'm' was loaded at .*:1 and does not answer as it should: it doe"
    with pytest.raises(LoadError, match=message):
        asked(*[DOWN] * 5, GOOD)
    with pytest.raises(LoadError, match=message):
        asked(made=DOWN)
    with pytest.raises(LoadError):
        asked(RequestRejected("no"))


@pytest.mark.parametrize("kind", [AnswerError, ContractError, DeadlineExceeded])
def test_a_wrong_answer_is_not_asked_for_again(asked, kind):
    with pytest.raises(LoadError):
        asked(kind("it is odd"), GOOD)


def test_what_says_nothing_against_a_version(asked):
    """A model that does not say how images are prepared, and an overloaded server."""
    asked(made=ContractError("it does not say"))
    assert asked(Overload("later")).asked[1:] == [1] * 5
