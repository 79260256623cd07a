"""AOTInductor packages: compiled, proven, published, served, and refused where they cannot run."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from seresnext101_triton.client.contract import OutputKind
from seresnext101_triton.export import config, manifest
from seresnext101_triton.export.errors import BuildError, MissingHardware, OptionError
from seresnext101_triton.export.formats.pt2 import Pt2
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.precision import FP32
from seresnext101_triton.export.served import ServedNetwork
from seresnext101_triton.export.serving import Serving
from seresnext101_triton.export.weights.seeded import seeded_network
from seresnext101_triton.server import TRITON_RELEASE, runtimes
from seresnext101_triton.server.errors import ArtifactError, ReleaseError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.releases import RELEASES, release
from seresnext101_triton.server.runtimes import pt2
from tests.conftest import FREE_PORTS, QUIET, TINY, tiny_request


@pytest.fixture(scope="module")
def package(compiled: Path) -> Path:
    return compiled / "tiny_pt2" / "1" / "model.pt2"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, 64, 64), dtype=np.float32)


def test_what_is_published(compiled):
    facts = manifest.load(compiled / "tiny_pt2" / "1")
    assert facts.parity["batches"] == [1, 2, 8] and facts.parity["relative_error"] < 1e-5
    own = config.from_text((compiled / "tiny_pt2" / "config.pbtxt").read_text())
    assert (own.platform, own.backend) == ("torch_aoti", "pytorch")
    embedded = config.from_text((compiled / "tiny_pt2" / "configs" / "embedded.pbtxt").read_text())
    assert (embedded.platform, embedded.default_model_filename) == ("", "model.pt2")
    embedded.platform, embedded.default_model_filename = own.platform, ""
    assert embedded == own
    assert not list(Path(tempfile.gettempdir()).glob("inductor-*"))


def test_it_is_served_bit_for_bit(compiled, package):
    import tritonclient.grpc as grpc

    runtime = runtimes.load("pt2", package, {})
    with Server(compiled, ports=FREE_PORTS) as server:
        client = grpc.InferenceServerClient(server.url)
        for count in (1, 3, 4):
            batch = images(count)
            tensor = grpc.InferInput("INPUT__0", batch.shape, "FP32")
            tensor.set_data_from_numpy(batch)
            answer = client.infer("tiny_pt2", [tensor]).as_numpy("OUTPUT__0")
            assert np.array_equal(answer, runtime.run(batch))
        client.close()


@pytest.mark.parametrize("name", [name for name in RELEASES if name < "26.06"][-2:])
def test_releases_that_cannot_batch_it(root, name):
    with pytest.raises(ReleaseError, match=f"{name} cannot batch .* name release 26.06 or a later"):
        export(tiny_request(root, formats=("pt2",), target=name), QUIET)
    assert not root.exists()
    release("26.06").check_pt2()


def test_it_is_for_cpus_only(root, package):
    with pytest.raises(OptionError, match="pt2 is served on CPUs only"):
        tiny_request(root, formats=("pt2",), serving=Serving(device="gpu"))
    with pytest.raises(ArtifactError, match="served on CPUs only, and not on cuda:0"):
        runtimes.load("pt2", package, {}, "cuda:0")


def test_a_machine_without_a_compiler_or_without_avx2(root, package, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(pt2, "_CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse4_2 avx avx512f\n")
    lacks = r"lacks the C\+\+ compiler no-such-compiler and a processor with AVX2"
    with pytest.raises(MissingHardware, match=lacks):
        export(tiny_request(root, formats=("pt2",)), QUIET)
    assert not root.exists()
    with pytest.raises(ArtifactError, match="compiled for AVX2, which this processor lacks"):
        runtimes.load("pt2", package, {})
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 bmi1\n")
    runtimes.load("pt2", package, {})


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (images(9), "batches of 1 to 8, not 9"),
        (images(2)[:0], "batches of 1 to 8, not 0"),
        (images(2)[:, :, :32], r"images of \[3, 64, 64\], not float32 of \[3, 32, 64\]"),
        (images(2).astype(np.float64), r"takes float32 images .* not float64"),
    ],
)
def test_batches_that_the_machine_code_must_not_see(package, batch, says):
    with pytest.raises(ArtifactError, match=says):
        runtimes.load("pt2", package, {}).run(batch)


def test_any_layout_of_a_batch_is_answered_alike(package):
    runtime, batch = runtimes.load("pt2", package, {}), images(2)
    turned = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    turned.setflags(write=False)
    assert np.array_equal(runtime.run(turned), runtime.run(batch))


def test_files_that_are_no_package(package, tmp_path):
    whole, file = package.read_bytes(), tmp_path / "model.pt2"
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be loaded as AOTInductor package"):
            runtimes.load("pt2", file, {})
    with pytest.raises(ArtifactError, match="cannot be loaded as AOTInductor package"):
        runtimes.load("pt2", tmp_path / "missing.pt2", {})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"cpu"', b'"xpu"', "was compiled for xpu"),
        (b'"max_batch"', b'"mix_batch"', "does not say the shapes of its tensors"),
    ],
)
def test_packages_that_somebody_else_made(package, tmp_path, old, new, says):
    changed, file = 0, tmp_path / "model.pt2"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(file, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            changed += content.count(old) if entry.filename.endswith("metadata.json") else 0
            if entry.filename.endswith("metadata.json"):
                content = content.replace(old, new)
            target.writestr(entry, content)
    assert changed
    with pytest.raises(ArtifactError, match=says):
        runtimes.load("pt2", file, {})


def test_a_compiler_that_fails(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "false"))
    network = ServedNetwork(seeded_network(TINY, 0), OutputKind.LOGITS).folded()
    material = Material(network, FP32, 64, 1, release(TRITON_RELEASE))
    with pytest.raises(BuildError, match="PyTorch could not compile the network: "):
        Pt2().export(material, tmp_path, QUIET)
    assert list(tmp_path.iterdir()) == []
    assert not list(Path(tempfile.gettempdir()).glob("inductor-*"))


def test_torchscript_does_not_round_to_tf32_on_a_gpu(exported):
    """A traced convolution keeps whether it may, whatever the GPU's own default is."""
    artifact = next(each.artifact for each in exported if each.model == "tiny_torchscript")
    module = torch.jit.load(str(artifact))  # the nodes live as long as it, and as its graph
    graph = module.inlined_graph
    nodes = graph.findAllNodes("aten::_convolution")
    assert nodes and not any(list(node.inputs())[-1].toIValue() for node in nodes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"
