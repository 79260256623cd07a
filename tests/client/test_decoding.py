"""From the server's words to predictions: numbers that mean nothing never become one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.client.decoding import decode
from seresnext101_triton.client.errors import AnswerError, ClientError, ContractError
from seresnext101_triton.client.ranking import ranked_apart

KINDS = list(OutputKind)


def test_a_label_with_colons_is_whole():
    found = decode(
        [b"0.750000:3:street sign: stop: now", b"0.250000:1", b"0.0:0:"],
        OutputKind.PROBABILITIES,
        3,
    )
    assert [(one.index, one.label, one.probability) for one in found] == [
        (3, "street sign: stop: now", 0.75),
        (1, "class 1", 0.25),
        (0, "", 0.0),
    ]


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (b"caf\xe9", "caf\ufffd"),
        (b"\xef\xbb\xbftench", "tench"),
        (b"tench\r", "tench"),
        (b"\x1b[2J\x07bell\x9b\xc2\x9b", "\\x1b[2J\\x07bell\ufffd\\x9b"),
        ("a\u202eb\u2028c".encode(), "a\\u202eb\\u2028c"),
        ("日本語 👩\u200d🔬\u00a0x".encode(), "日本語 👩\u200d🔬\u00a0x"),
    ],
)
def test_a_label_can_be_shown_anywhere(label, shown):
    assert decode([b"1.0:0:" + label], OutputKind.PROBABILITIES, 1)[0].label == shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [b"nan", b"-nan", b"NaN", b"inf", b"-inf", b"1e999"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_that_is_none_is_an_error(kind, value, place):
    entries = [b"0.5:0", b"0.25:1", b"0.125:2"]
    entries[place] = value + b":" + str(place).encode()
    with pytest.raises(AnswerError, match="for a class: its arithmetic overflows"):
        decode(entries, kind, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "entry",
    [b"", b"0.5", b":", b"0.5:", b"x:1", b"0.5:x", b"0.5:-1", b"0.5:1.0:a", "0.5:1", None, 3],
)
def test_an_entry_of_another_form_is_one_error(kind, entry):
    with pytest.raises(ContractError, match="is not VALUE:INDEX or VALUE:INDEX:LABEL"):
        decode([b"0.5:1", entry], kind, 1)


def test_no_entry_at_all():
    with pytest.raises(ContractError, match="names no class"):
        decode([], OutputKind.PROBABILITIES, 1)


@pytest.mark.parametrize("value", [b"13.2", b"-0.5", b"1.02", b"-0.011"])
def test_what_is_called_a_probability_and_is_none(value):
    with pytest.raises(AnswerError, match="calls it a probability"):
        decode([value + b":0"], OutputKind.PROBABILITIES, 1)


@pytest.mark.parametrize("entries", [[b"1.0005:0", b"-0.0001:1"], [b"1.01:0", b"-0.01:1"]])
def test_rounding_of_half_precision_is_no_error(entries):
    found = decode(entries, OutputKind.PROBABILITIES, 2)
    assert [one.probability for one in found] == [1.0, 0.0]


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=20))
def test_the_softmax_is_numpys_for_any_logits(logits):
    ordered = sorted(logits, reverse=True)
    found = decode(
        [f"{value:f}:{n}".encode() for n, value in enumerate(ordered)], OutputKind.LOGITS, 20
    )
    with np.errstate(under="ignore"):
        exponentials = np.exp(np.array(ordered) - ordered[0])
    np.testing.assert_allclose(
        [one.probability for one in found], exponentials / exponentials.sum(), atol=2e-6
    )


@given(
    st.lists(
        st.binary(max_size=30) | st.from_regex(rb"-?[0-9.einf]+:[0-9]+(:.*)?", fullmatch=True),
        max_size=4,
    ),
    st.sampled_from(KINDS),
)
def test_any_answer_is_predictions_or_one_of_our_errors(entries, kind):
    try:
        found = decode(entries, kind, 5)
    except ClientError as error:
        assert str(error).isprintable()
        return
    assert len(found) == len(entries)
    for one in found:
        assert 0 <= one.probability <= 1 and math.isfinite(one.probability) and one.index >= 0
        assert not set(one.label) & set(map(chr, range(32)))
        one.label.encode()


def test_a_ranking_of_a_batch_is_taken_apart_with_and_without_labels():
    """The row is Triton's: highest value first, and an index that counts on from image to image."""
    bare = np.array([b"0.9:4", b"0.8:0", b"0.5:1", b"0.1:5", b"0.05:3", b"0.0:2"])
    expected = [[b"0.8:0", b"0.5:1", b"0.0:2"], [b"0.9:1", b"0.1:2", b"0.05:0"]]
    assert ranked_apart(bare, 2, 3).tolist() == expected
    # Labels stand only with the first image, and may hold colons.
    labels = {b"0": b":a", b"1": b":b: c", b"2": b":d"}
    labelled = [entry + labels.get(entry.partition(b":")[2], b"") for entry in bare.tolist()]
    assert ranked_apart(np.array(labelled, np.object_), 2, 3).tolist() == [
        [b"0.8:0:a", b"0.5:1:b: c", b"0.0:2:d"],
        [b"0.9:1:b: c", b"0.1:2:d", b"0.05:0:a"],
    ]
    for broken in (bare[:5], np.array([*bare[:5], b"0.9:4"]), np.array([*bare[:5], b"0.0:9"])):
        with pytest.raises(ContractError, match="ranking of 2 images"):
            ranked_apart(broken, 2, 3)
