"""The state dict that is taken from a checkpoint, the message about it, and its tensors' names."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import cast

import pytest
import safetensors.torch
import torch
from torch import nn

from seresnext101_triton.export.errors import CheckpointError, OptionError
from seresnext101_triton.export.network import SEResNeXt
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.reporting import Reporter
from seresnext101_triton.export.weights import Provenance, resolve
from tests.conftest import QUIET, TINY, tiny_request

THREE = replace(TINY, classes=3)


class Notes(Reporter):
    """Keeps what a person would see."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def note(self, text: str, style: str | None = None) -> None:
        self.lines.append(text)


def make(seed: int) -> SEResNeXt:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SEResNeXt(THREE).eval()


@pytest.fixture(scope="module")
def raw():
    return dict(make(1).state_dict())


@pytest.fixture(scope="module")
def averaged():
    return dict(make(2).state_dict())


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def load(path, **options):
    notes = Notes()
    network, provenance = resolve(str(path), **options).load(TINY, notes)
    return (
        network.state_dict(),
        provenance,
        " ".join(line for line in notes.lines if "reading" not in line),
    )


def saved(path, content):
    torch.save(content, path)
    return path


def is_same(found, expected):
    return torch.equal(found["conv1.weight"], expected["conv1.weight"])


PAIRS = [
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "module_ema",
    "ema",
    "ema_model",
    "swa_state_dict",
    "averaged_model",
]


@pytest.mark.parametrize("name", PAIRS)
def test_raw_and_averaged_weights_side_by_side(raw, averaged, tmp_path, name):
    path = saved(
        tmp_path / "x.pth", {name: prefixed(averaged, "module."), "epoch": 3, "state_dict": raw}
    )
    found, provenance, said = load(path)
    assert is_same(found, raw) and provenance.taken == "state_dict"
    assert (
        said == f"  {path} has state_dict, {name} (averaged): taken state_dict; "
        "`ema` takes the averaged weights"
    )
    found, provenance, said = load(path, ema=True)
    assert is_same(found, averaged) and provenance.taken == f"{name} (averaged)"
    assert said.endswith(f"taken {name} (averaged)")
    assert resolve(str(path)).identity(QUIET) != resolve(str(path), ema=True).identity(QUIET)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_averages_within_one_state_dict(raw, averaged, tmp_path, suffix):
    """A module that keeps the network and its average, as Lightning's do."""
    content = (
        prefixed(averaged, "ema_model.module.")
        | {"ema_model.n_averaged": torch.tensor(5)}
        | prefixed(raw, "model.")
    )
    path = tmp_path / f"x{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(content, path)
    assert is_same(load(path)[0], raw)
    found, provenance, _ = load(path, ema=True)
    assert is_same(found, averaged) and provenance.taken == "ema_model (averaged)"


def test_averaged_weights_only(averaged, tmp_path):
    found, provenance, said = load(saved(tmp_path / "x.pth", {"model_ema": averaged, "epoch": 3}))
    assert is_same(found, averaged) and provenance.taken == "model_ema (averaged)"
    assert "has averaged weights only: taken" in said


def test_an_averaged_model_of_pytorchs(tmp_path):
    network = make(3)
    model = torch.optim.swa_utils.AveragedModel(network)
    for content in (model.state_dict(), {"state_dict": model.state_dict()}):
        path = saved(tmp_path / "x.pth", content)
        for ema in (False, True):
            found, provenance, said = load(path, ema=ema)
            assert is_same(found, network.state_dict())
            assert provenance.taken.endswith("(averaged)") and "averaged weights only" in said


def test_no_averaged_weights(raw, tmp_path):
    with pytest.raises(
        CheckpointError,
        match="has no averaged weights, so `ema` cannot take them. It has state_dict$",
    ):
        load(saved(tmp_path / "x.pth", {"state_dict": raw, "ema_decay": 0.9}), ema=True)
    for source in ("seeded", "hub", "hub:/x"):
        with pytest.raises(OptionError, match="`ema` is for checkpoints"):
            resolve(source, ema=True)


def test_two_raw_state_dicts_are_told(raw, averaged, tmp_path):
    found, provenance, said = load(
        saved(tmp_path / "x.pth", {"model": averaged, "state_dict": raw})
    )
    assert is_same(found, raw) and provenance.taken == "state_dict"
    assert "has state_dict, model: taken state_dict" in said and "`ema`" not in said


def test_nothing_is_said_where_there_is_no_choice(raw, tmp_path):
    assert load(saved(tmp_path / "x.pth", raw))[1:] == (
        Provenance("file", str(tmp_path / "x.pth"), load(tmp_path / "x.pth")[1].sha256),
        "",
    )


def test_what_was_taken_is_in_the_manifest(raw, averaged, tmp_path):
    path = saved(tmp_path / "x.pth", {"state_dict": raw, "state_dict_ema": averaged})
    (outcome,) = export(tiny_request(tmp_path / "models", weights=str(path), ema=True), QUIET)
    facts = json.loads((outcome.folder / "manifest.json").read_text())
    assert facts["weights"]["taken"] == "state_dict_ema (averaged)"
    (other,) = export(tiny_request(tmp_path / "models", weights=str(path)), QUIET)
    assert (other.made, other.version, other.manifest.weights.taken) == (True, 2, "state_dict")


def test_an_older_manifest_says_nothing_of_it():
    facts = asdict(Provenance("file", "/x", "0"))
    del facts["taken"]
    assert Provenance(**facts).taken == ""


WRAPPERS = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.net.module.",
]


@pytest.mark.parametrize("prefix", WRAPPERS)
def test_wrappers_around_the_network(raw, tmp_path, prefix):
    assert is_same(load(saved(tmp_path / "x.pth", {"state_dict": prefixed(raw, prefix)}))[0], raw)


def test_wrappers_that_pytorch_itself_makes(tmp_path):
    network = make(4)
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    assert is_same(
        load(saved(tmp_path / "a.pth", nn.DataParallel(network).state_dict()))[0], expected
    )
    stage = network.get_submodule("layers.2")
    # torch.compile compiles nothing before the first run.
    stage.add_module("0", cast(nn.Module, torch.compile(stage.get_submodule("0"))))
    state = network.state_dict()
    assert any("._orig_mod." in key for key in state)
    assert is_same(load(saved(tmp_path / "b.pth", state))[0], expected)


def test_a_prefix_that_not_all_have_is_not_stripped(raw, tmp_path):
    content = prefixed(raw, "module.") | {"head.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match="unexpected  head.weight\n  unexpected  module."):
        load(saved(tmp_path / "x.pth", content))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("module.conv1.weight", "conv1.weight"),
        ("layer1.0.bn1.bias", "layers.0.0.bn1.bias"),
        ("_orig_mod.fc.bias", "fc.bias"),
    ],
)
def test_two_names_for_one_tensor(raw, tmp_path, one, other):
    with pytest.raises(
        CheckpointError, match=f"has two tensors for one place in the network: {one} and {other}"
    ):
        load(saved(tmp_path / "x.pth", {one: torch.zeros(raw[other].shape)} | raw))
