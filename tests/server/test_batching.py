"""How requests share a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seresnext101_triton.server.backends.batching import BatchError, check_shape, run_together
from seresnext101_triton.server.backends.selection import artifact_filename


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
def test_the_artifact_for_a_gpu_is_chosen_by_its_compute_capability(
    monkeypatch, device, capability, filename
):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda asked: capability)
    config = {
        "cc_model_filenames": {"8.9": "model_sm89.plan", "9.0": "model_sm90.plan"},
        "default_model_filename": "",
    }
    assert artifact_filename(config, "model.plan", device) == filename


def test_a_config_may_name_its_artifact():
    assert (
        artifact_filename({"default_model_filename": "other.onnx"}, "model.onnx", "cpu")
        == "other.onnx"
    )


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
    assert run.batches == [4, 1, 1, 2]


def test_requests_that_cannot_be_concatenated_are_run_alone():
    batches = [np.ones((1, 2)), np.ones((1, 3))]
    for answer, batch in zip(run_together(lambda batch: batch, batches), batches, strict=True):
        equal(answer, batch)


def test_a_request_that_was_refused_already_keeps_its_error_and_its_place():
    run = Recorder()
    refused = BatchError("no image")
    first, second, third = run_together(run, [rows(1), refused, rows(3)])
    equal(first, rows(2))
    assert second is refused
    equal(third, rows(6))
    assert run.batches == [2]


def test_nothing_to_run_is_not_run():
    run = Recorder()
    refused = BatchError("no image")
    assert run_together(run, [refused, refused]) == [refused, refused]
    assert run_together(run, []) == []
    assert run.batches == []


@pytest.mark.parametrize("batches", [[rows(1, 2)], [rows(1), rows(2)]])
def test_an_answer_without_a_row_for_every_image_goes_to_nobody(batches):
    """Its rows would be others' rows."""
    for answer in run_together(lambda batch: np.concatenate([batch, batch]), batches):
        assert isinstance(answer, BatchError)
        assert "with" in str(answer) and "rows" in str(answer)


def test_a_model_without_a_batch_axis_may_answer_in_any_shape():
    for answer in run_together(
        lambda batch: batch.ravel(), [np.ones((2, 3)), np.ones((2, 3))], batched=False
    ):
        equal(answer, np.ones(6))


@given(
    st.lists(
        st.one_of(
            st.lists(
                st.integers(-1000, 1000).map(float) | st.just(float("nan")), min_size=1, max_size=4
            ).map(lambda values: rows(*values)),
            st.integers(2, 3).map(lambda width: np.ones((1, width), np.float32)),
            st.just(BatchError("refused")),
        ),
        max_size=6,
    )
)
def test_whatever_comes_together_each_gets_what_it_would_get_alone(batches):
    run = Recorder()
    answers = run_together(run, batches)
    assert len(answers) == len(batches)
    for batch, answer in zip(batches, answers, strict=True):
        if isinstance(batch, Exception):
            assert answer is batch
        elif np.isnan(batch).any():
            assert isinstance(answer, ValueError)
        else:
            equal(answer, batch * 2)


@pytest.mark.parametrize(
    ("shape", "largest", "message"),
    [
        ([0, 3, 8, 8], 4, r"holds no image: its input has the shape \[0, 3, 8, 8\]"),
        ([0, 3, 8, 8], 0, "holds no image"),
        ([2, 3, 0, 8], 4, "holds no image"),
        ([-1, 3, 8, 8], 0, "holds no image"),
        ([], 4, "holds no image"),
        ([5, 3, 8, 8], 4, "holds 5 images, and this model takes at most 4"),
        ([2**32 + 1, 3, 8, 8], 4, "holds 4294967297 images"),
        ([2**62, 3, 8, 8], 4, "at most 4"),
    ],
)
def test_shapes_that_no_runtime_may_see(shape, largest, message):
    with pytest.raises(BatchError, match=message):
        check_shape(shape, largest)


@pytest.mark.parametrize(
    ("shape", "largest"), [([1, 3, 8, 8], 4), ([4, 3, 8, 8], 4), ([9, 3, 8, 8], 0), ([1], 1)]
)
def test_shapes_that_are_batches(shape, largest):
    check_shape(shape, largest)
