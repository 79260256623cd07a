"""The whole thing, full size, as the README's first command runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import Classifier
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export.config import from_text
from seresnext101_triton.export.formats import DEFAULT_FORMATS, FORMATS
from seresnext101_triton.server import runtimes
from seresnext101_triton.server.launcher import Server
from tests.conftest import FREE_PORTS, checkout_copy

PROJECT = Path(__file__).parents[1]
MODELS = ("seresnext101_torchscript", "seresnext101_onnx")
# No network outside this machine, so that the demo does the same on every machine and no test
# downloads NVIDIA's file.
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as git would give it, with this environment linked into it."""
    return checkout_copy(tmp_path_factory.mktemp("checkout") / "project")


def run(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = (
        ours | OFFLINE | {"XDG_CACHE_HOME": str(checkout.parent / "cache"), "COLUMNS": "80"}
    )
    return subprocess.run(
        command,
        shell=True,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def demo(checkout: Path) -> subprocess.CompletedProcess[str]:
    result = run(checkout, "make demo")
    assert result.returncode == 0, result.stderr
    return result


def manifest(checkout: Path, model: str) -> dict:
    return json.loads((checkout / "model_repository" / model / "1" / "manifest.json").read_text())


def test_it_prints_the_top_5_of_every_photograph_by_both_models(demo):
    for model in MODELS:
        table = demo.stdout.partition(f"{model} · version 1")[2].partition("version")[0]
        for photograph in sample_photographs():
            assert photograph.name in table
        assert table.count("%") >= 5 * len(sample_photographs())


def test_it_says_in_an_unmissable_way_that_the_weights_are_untrained(demo):
    assert "cannot fetch https://api.ngc.nvidia.com" in demo.stderr
    assert "the demo goes on with UNTRAINED ones" in demo.stderr
    assert "UNTRAINED WEIGHTS" in demo.stderr.splitlines()[-2]
    assert "UNTRAINED WEIGHTS" in demo.stdout.splitlines()[-1]


@pytest.mark.parametrize("model", MODELS)
def test_the_full_network_is_proven(demo, checkout, model):
    facts = manifest(checkout, model)
    assert facts["architecture"]["depths"] == [3, 4, 23, 3]
    assert facts["parity"]["batches"] == [1, 2, 8]
    assert facts["parity"]["relative_error"] <= 1e-5
    assert (facts["parity"]["top1"], facts["parity"]["top5"]) == (1, 1)
    assert 180e6 < facts["artifacts"][0]["bytes"] < 183e6


def test_the_export_stays_under_3_gigabytes(demo):
    (peak,) = re.findall(r"peak memory ([\d.]+) GB", demo.stderr)
    assert float(peak) < 3


def test_nothing_is_exported_twice(demo, checkout):
    before = {model: manifest(checkout, model) for model in MODELS}
    again = run(checkout, "make export WEIGHTS=seeded")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("there already:") == 2
    assert "exporting" not in again.stderr
    assert {model: manifest(checkout, model) for model in MODELS} == before


def test_full_size_answers_are_the_artifacts_own_bit_for_bit(demo, checkout):
    repository = checkout / "model_repository"
    with Server(repository, ports=FREE_PORTS) as server:
        for format in (FORMATS[name] for name in DEFAULT_FORMATS):
            artifact = repository / f"seresnext101_{format.name}" / "1" / format.filename
            runtime = runtimes.load(format.runtime, artifact, {})
            with Classifier(server.url, f"seresnext101_{format.name}") as classifier:
                photographs = np.stack([classifier.prepare(path) for path in sample_photographs()])
                for size in (1, 2, 4):
                    np.testing.assert_array_equal(
                        classifier.infer(photographs[:size]), runtime.run(photographs[:size])
                    )


def test_the_working_tree_says_that_the_weights_are_untrained(demo, checkout):
    config = from_text(
        (checkout / "model_repository" / "seresnext101_onnx" / "config.pbtxt").read_text()
    )
    assert config.parameters["weights"].string_value == "seeded"


def test_every_target_of_the_makefile_is_listed(checkout):
    targets = set(
        re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)[
            0
        ].split()
    )
    result = run(checkout, "make")
    assert result.returncode == 0
    assert {line.split()[0] for line in result.stdout.splitlines()} == targets
