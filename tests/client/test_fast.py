"""`--fast`: how near the exact pixels it is, and where an answer says that it was used."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from seresnext101_triton.client.cli import main
from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ClientError, UsageError
from seresnext101_triton.client.images import ImageOptions, load_image, sample_photographs
from seresnext101_triton.client.server_decoding import check_options
from tests.client.test_preprocessing import SIZES, picture

CAT = str(sample_photographs()[1])


def pixels(contract: Preprocessing, image: Image.Image, *, is_fast: bool) -> np.ndarray:
    return contract.prepared(image, is_fast=is_fast).astype(int)


@pytest.mark.parametrize(
    "size", [*SIZES, (20_000, 1), (5000, 4000)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_no_value_differs_by_more_than_one_level(size):
    contract = Preprocessing(layout="NHWC")
    generator = np.random.default_rng(0)
    black_and_white = 255 * generator.integers(0, 2, (size[1], size[0], 3), dtype=np.uint8)
    for image in (picture(size, "RGB"), Image.fromarray(black_and_white)):
        fast, exact = (pixels(contract, image, is_fast=is_fast) for is_fast in (True, False))
        assert fast.shape == exact.shape
        assert np.abs(fast - exact).max() <= 1


def test_a_filter_that_would_differ_by_more_is_refused():
    model = SimpleNamespace(
        name="other", image_input="", preprocessing=Preprocessing(interpolation="bicubic")
    )
    check_options(model, ImageOptions())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="`fast` cannot be chosen for other, .* bicubic filter"):
        check_options(model, ImageOptions(fast=True))  # type: ignore[arg-type]


def test_a_photograph_is_the_same_in_most_values():
    contract = Preprocessing(layout="NHWC")
    image = load_image(CAT)
    fast, exact = (pixels(contract, image, is_fast=is_fast) for is_fast in (True, False))
    assert 0 < np.mean(fast != exact) < 0.3


def test_threads_do_not_mix_their_images():
    contract = Preprocessing(layout="NHWC")
    images = [picture((300 + 40 * seed, 500), "RGB", seed) for seed in range(8)]
    wanted = [pixels(contract, image, is_fast=True) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda image: pixels(contract, image, is_fast=True), images * 20)
        for index, one in enumerate(found):
            np.testing.assert_array_equal(one, wanted[index % len(images)])


def test_without_its_package_it_is_refused_and_everything_else_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(ClientError, match="`fast` needs cykooz-resizer"):
        ImageOptions(fast=True)
    assert main(["classify", CAT, "--fast", "--url", "localhost:1"]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --fast needs cykooz-resizer") and "pip install" in line
    assert load_image(CAT, ImageOptions()).size


def test_every_answer_says_that_it_is_inexact(server, tmp_path, capsys):
    address = ["--url", server.url, "--model", "tiny_onnx"]
    assert main(["classify", CAT, "--json", *address]) == 0
    (exact,) = json.loads(capsys.readouterr().out)
    assert main(["classify", CAT, "--json", "--fast", "--draft", *address]) == 0
    (fast,) = json.loads(capsys.readouterr().out)
    assert (exact["inexact"], fast["inexact"]) == ([], ["draft", "fast"])
    first, second = (found["images"][0]["predictions"][0] for found in (exact, fast))
    assert first["index"] == second["index"]
    assert first["probability"] != second["probability"]

    assert main(["classify", CAT, "--fast", *address]) == 0
    assert "inexact: fast" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.parquet"])
def test_every_record_of_a_bulk_run_says_that_it_is_inexact(server, tmp_path, name):
    arguments = ["bulk", CAT, "--url", server.url, "--model", "tiny_onnx", "--output"]
    for flags, inexact in ((["--fast"], ["fast"]), ([], None)):
        output = tmp_path / f"{len(flags)}_{name}"
        assert main([*arguments, str(output), *flags]) == 0
        assert [one.get("inexact") for one in records(output)] == [inexact]


def records(output: Path) -> list[dict]:
    if output.is_dir():
        from pyarrow import parquet

        return parquet.read_table(output).to_pylist()
    return [json.loads(line) for line in output.read_text().splitlines()]
