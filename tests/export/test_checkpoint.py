"""Checkpoints: every layout loads to the same network, any other file raises one clear error."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.export.errors import CheckpointError, OptionError
from seresnext101_triton.export.weights import resolve
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.export.weights.wording import compact
from tests.conftest import PREPROCESSING, QUIET, TINY

TWELVE = replace(TINY, classes=12)


@pytest.fixture(scope="module")
def network():
    return seeded_network(TWELVE, 3)


@pytest.fixture(scope="module")
def photographs():
    return torch.stack(
        [torch.from_numpy(PREPROCESSING(load_image(path))) for path in sample_photographs()]
    )


def old_names(state):
    """The layout of the file that NVIDIA publishes."""
    return {
        f"layer{int(key.split('.')[1]) + 1}.{key.split('.', 2)[2]}"
        if key.startswith("layers.")
        else key: value
        for key, value in state.items()
    }


def linear_gates(state):
    return {
        key: value.flatten(1) if ".squeeze." in key and value.ndim == 4 else value
        for key, value in state.items()
    }


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


LAYOUTS = {
    "bare": lambda state: state,
    "nvidia": lambda state: {
        "epoch": 90,
        "best_prec1": np.float64(81.0),
        "state_dict": prefixed(linear_gates(old_names(state)), "module."),
    },
    "old names": old_names,
    "linear gates": linear_gates,
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "ema": lambda state: {"ema": prefixed(state, "module.")},
    "nested": lambda state: {"model": {"state_dict": state}},
    "compiled": lambda state: prefixed(state, "module._orig_mod."),
    "double": lambda state: {
        key: value.double() if value.is_floating_point() else value for key, value in state.items()
    },
    "no counters": lambda state: {
        key: value for key, value in state.items() if "num_batches" not in key
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_layout_gives_the_same_logits(layout, zipped, network, photographs, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(LAYOUTS[layout](network.state_dict()), path, _use_new_zipfile_serialization=zipped)
    loaded, provenance = resolve(str(path)).load(TINY, QUIET)
    assert loaded.architecture == TWELVE  # the class count is the file's
    assert (provenance.kind, provenance.location, provenance.trained) == ("file", str(path), True)
    with torch.no_grad():
        torch.testing.assert_close(loaded(photographs), network(photographs), rtol=1e-6, atol=1e-6)


def test_safetensors(network, photographs, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file(linear_gates(old_names(network.state_dict())), path)
    loaded, _ = resolve(str(path)).load(TINY, QUIET)
    with torch.no_grad():
        assert torch.equal(loaded(photographs), network(photographs))


def test_half_precision_weights_are_widened(network, tmp_path):
    path = tmp_path / "half.pt"
    torch.save(
        {
            key: value.half() if value.is_floating_point() else value
            for key, value in network.state_dict().items()
        },
        path,
    )
    loaded, _ = resolve(str(path)).load(TINY, QUIET)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def failure(path) -> str:
    with pytest.raises(CheckpointError) as error:
        resolve(str(path)).load(TINY, QUIET)
    return str(error.value)


def saved(tmp_path, content, name="file.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def test_another_network_lists_all_that_is_wrong(network, tmp_path):
    state = dict(network.state_dict())
    del state["layers.2.0.bn1.weight"], state["layers.2.1.bn1.weight"], state["conv1.weight"]
    state |= {"head.weight": torch.zeros(3), "layers.0.0.conv1.weight": torch.zeros(32, 16, 3, 3)}
    message = failure(saved(tmp_path, state))
    assert (
        "does not fit this network, of 142 tensors: 3 missing, 1 unexpected, 1 mis-shaped"
        in message
    )
    assert "missing     conv1.weight" in message
    assert "missing     layers.2.{0-1}.bn1.weight" in message
    assert "unexpected  head.weight" in message
    assert (
        "mis-shaped  layers.0.0.conv1.weight is [32, 16, 3, 3], expected [32, 16, 1, 1]" in message
    )
    assert "way out" not in message  # which is for tensors of a wrong type


def test_the_full_networks_checkpoint_does_not_fit_the_small_one(tmp_path):
    from torch import nn

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

    message = failure(saved(tmp_path, Other().state_dict()))
    assert "missing, 1 mis-shaped" in message
    assert "fc.weight is [2, 4], expected [2, 128]" in message


def test_values_that_are_not_finite(network, tmp_path):
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["layers.1.0.conv2.weight"][0] = float("nan")
    assert "not finite  layers.1.0.conv2.weight" in failure(saved(tmp_path, state))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file(network, tmp_path, share, suffix):
    path = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    part = tmp_path / f"part{suffix}"
    part.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    message = failure(part)
    assert str(part) in message
    assert "damaged, truncated" in message
    assert "\n" not in message


class Evil:
    """Unpickled, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "save",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
    ids=["torch", "pickle"],
)
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, save):
    mark, path = tmp_path / "executed", tmp_path / "evil.pth"
    save({"state_dict": Evil(mark)}, path)
    message = failure(path)
    assert "is refused: it is a pickle that would run code" in message
    assert "weights_only" not in message
    assert not mark.exists()


def test_a_pickled_module_is_refused(network, tmp_path):
    assert "is refused" in failure(saved(tmp_path, torch.nn.Linear(2, 2)))


def test_a_torchscript_archive_is_called_so(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    assert "is a TorchScript archive, not a checkpoint" in failure(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds an empty dict, not a state dict"),
        ({"epoch": 3, "weights": {}}, "these entries are no tensors: epoch, weights"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
    ],
)
def test_a_file_without_a_state_dict(tmp_path, content, message):
    assert message in failure(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["notes.pth", "notes.safetensors"])
def test_a_text_file(tmp_path, name):
    path = tmp_path / name
    path.write_text("hello, world\n" * 50)
    assert "damaged, truncated or no" in failure(path)


def test_an_empty_file_a_folder_and_nothing_at_all(tmp_path):
    (tmp_path / "empty.pth").touch()
    assert "is empty (0 bytes)" in failure(tmp_path / "empty.pth")
    assert "is a folder" in failure(tmp_path)
    assert "does not exist. `weights` takes ngc, hub, seeded, a URL or the path" in failure(
        tmp_path / "nowhere.pth"
    )


def test_a_seed_that_is_no_number():
    with pytest.raises(OptionError, match="a seed is a whole number"):
        resolve("seeded:many")


def test_compact_leaves_nothing_out():
    keys = [
        f"layers.{stage}.{block}.bn1.{part}"
        for stage, depth in enumerate((3, 4))
        for block in range(depth)
        for part in ("bias", "weight")
    ]
    assert compact(keys) == ["layers.0.{0-2}.bn1.{bias,weight}", "layers.1.{0-3}.bn1.{bias,weight}"]
    assert compact(["a.0.b", "a.2.b", "a.3.b", "c"]) == ["a.{0,2-3}.b", "c"]
    assert compact([]) == []
