"""How requests share a run."""

from __future__ import annotations

import numpy as np
import pytest

from server.backends.batching import run_together
from server.backends.selection import artifact_filename


class Recorder:
    """Doubles its input, remembers its batches, and fails for rows that hold a NaN."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        if np.isnan(batch).any():
            raise ValueError("not a number")
        return batch * 2


def equal(answer: np.ndarray | Exception, expected: np.ndarray) -> None:
    assert isinstance(answer, np.ndarray)
    np.testing.assert_array_equal(answer, expected)


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    ("device", "capability", "filename"),
    [
        ("cuda:0", (9, 0), "model_sm90.plan"),
        ("cuda:1", (8, 9), "model_sm89.plan"),
        ("cuda:0", (7, 5), "model.plan"),
        ("cpu", None, "model.plan"),
    ],
)
def test_the_artifact_for_a_gpu_is_chosen_by_its_compute_capability(monkeypatch, device, capability, filename):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda asked: capability)
    config = {"cc_model_filenames": {"8.9": "model_sm89.plan", "9.0": "model_sm90.plan"}, "default_model_filename": ""}
    assert artifact_filename(config, "model.plan", device) == filename


def test_a_config_may_name_its_artifact():
    assert artifact_filename({"default_model_filename": "other.onnx"}, "model.onnx", "cpu") == "other.onnx"


def test_one_run_for_all_and_each_gets_its_rows():
    run = Recorder()
    answers = run_together(run, [rows(1), rows(2, 3, 4), rows(5, 6)])
    assert run.batches == [6]
    for answer, expected in zip(answers, (rows(2), rows(4, 6, 8), rows(10, 12)), strict=True):
        equal(answer, expected)


def test_a_single_request_is_not_copied():
    seen = []
    batch = rows(1, 2)
    run_together(lambda array: seen.append(array) or array, [batch])
    assert seen[0] is batch


def test_only_the_offender_gets_the_error():
    run = Recorder()
    first, second, third = run_together(run, [rows(1), rows(np.nan), rows(3, 4)])
    equal(first, rows(2))
    assert isinstance(second, ValueError)
    equal(third, rows(6, 8))


def test_requests_that_cannot_be_concatenated_are_run_alone():
    batches = [np.ones((1, 2)), np.ones((1, 3))]
    for answer, batch in zip(run_together(lambda batch: batch, batches), batches, strict=True):
        equal(answer, batch)
