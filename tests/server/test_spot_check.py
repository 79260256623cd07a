"""A version that is loaded must answer as its artifact did when it was published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.export.pipeline import Outcome
from seresnext101_triton.server.errors import LoadError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.reference import Reference, read_reference, reference_of
from seresnext101_triton.server.spot_check import spot_check
from tests.conftest import FREE_PORTS

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
