"""Weights through torch.hub, from a clone of a repository with NVIDIA's entry point."""

from __future__ import annotations

import pytest
import torch

from export.errors import SourceUnavailable
from export.weights import resolve
from export.weights.seeded import seeded_network
from tests.conftest import QUIET, TINY

HUBCONF = """
import torch

class Model(torch.nn.Module):
    def __init__(self, state):
        super().__init__()
        self._state = state

    def state_dict(self):
        return self._state

def nvidia_se_resnext101_32x4d(pretrained=False):
    assert pretrained
    return Model(torch.load({path!r}))
"""


def test_the_entry_points_weights_are_used(tmp_path):
    network = seeded_network(TINY, 2)
    torch.save(
        {key: value.flatten(1) if ".squeeze." in key and value.ndim == 4 else value for key, value in network.state_dict().items()},
        tmp_path / "weights",
    )
    (tmp_path / "hubconf.py").write_text(HUBCONF.format(path=str(tmp_path / "weights")))
    source = resolve(f"hub:{tmp_path}")
    loaded, provenance = source.load(TINY, QUIET)
    gate = "layers.0.0.squeeze.squeeze.weight"
    assert torch.equal(loaded.get_parameter(gate), network.get_parameter(gate))
    assert (provenance.kind, provenance.location, provenance.trained) == ("hub", str(tmp_path), True)
    assert source.identity(QUIET) == provenance.sha256 == resolve(f"hub:{tmp_path}").identity(QUIET)


@pytest.mark.parametrize("hubconf", ["raise ImportError('no module named that')", "pass"])
def test_a_repository_that_fails_is_one_line_with_a_way_out(tmp_path, hubconf):
    (tmp_path / "hubconf.py").write_text(hubconf)
    with pytest.raises(SourceUnavailable, match="torch.hub cannot load nvidia_se_resnext101_32x4d.*--weights ngc") as error:
        resolve(f"hub:{tmp_path}").identity(QUIET)
    assert "\n" not in str(error.value)
