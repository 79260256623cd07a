"""AOTInductor packages, for Triton's PyTorch backend on CPUs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.export.errors import BuildError
from seresnext101_triton.export.format import INPUT, OUTPUT, Format

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter

# One package for every x86-64 processor with AVX2 and any number of cores, whatever this machine
# has. The convolutions are oneDNN's, which chooses its instructions when they run.
_PORTABLE = {
    "cpp.march": "x86-64-v3",
    "cpp.simdlen": 256,
    "cpp.vec_isa_ok": True,  # `missing` asks the processor; PyTorch would compile test programs
    "cpp.dynamic_threads": True,
    "compile_threads": 1,  # there is one C++ file to compile, and no worker is left behind
}


class Pt2(Format):
    """A network compiled to machine code, with a dynamic batch axis.

    It is for CPUs only. On an H100, PyTorch 2.11 compiled a package for CUDA, and crashed when it
    loaded the package.
    """

    name = "pt2"
    summary = "compiled by PyTorch (AOTInductor), for CPUs"
    runtime = "pt2"
    platform = "torch_aoti"
    filename = "model.pt2"
    thread_parameter = "INTRA_OP_THREAD_COUNT"
    packages = ("torch",)
    is_quick = False
    devices = ("cpu",)

    def missing(self) -> str | None:
        from seresnext101_triton.server.runtimes.pt2 import has_avx2

        compiler = os.environ.get("CXX", "g++")
        lacks = [] if shutil.which(compiler) else [f"the C++ compiler {compiler}"]
        lacks += [] if has_avx2() else ["a processor with AVX2"]
        return " and ".join(lacks) or None

    def identity(self) -> dict[str, Any]:
        """How it is compiled."""
        return _PORTABLE

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Compile the network. That takes minutes for the full one.

        The compiler's caches are kept in a temporary folder, and removed.

        Raises:
            ReleaseError: The release that will serve cannot batch such packages.
            BuildError: PyTorch could not compile the network.
        """
        import torch
        from torch._inductor import aoti_compile_and_package
        from torch._inductor.exc import InductorError
        from torch._inductor.utils import fresh_cache

        material.release.check_pt2()
        path = str(folder / self.filename)
        scratch = tempfile.TemporaryDirectory(prefix="inductor-")
        try:
            with scratch, fresh_cache(dir=scratch.name), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own code
                program, metadata = _traced(material)
                options = {"aot_inductor.metadata": metadata, **_PORTABLE}
                aoti_compile_and_package(program, package_path=path, inductor_configs=options)
        except (InductorError, RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BuildError(f"PyTorch could not compile the network: {lines[0]}") from error

    def configure(self, config: pb.ModelConfig, artifacts: Sequence[str]) -> None:
        """Name the backend too, as Triton's documents do."""
        config.backend = "pytorch"


def _traced(material: Material) -> tuple[Any, dict[str, str]]:
    """The network as `torch.export.ExportedProgram`, and what the package says of itself."""
    import torch

    from seresnext101_triton.server.runtimes.pt2 import MAX_BATCH_ENTRY, TENSORS_ENTRY

    network = material.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, axis = material.example, None
    if material.max_batch == 1:
        images = images[:1]
    else:
        axis = torch.export.Dim("batch", min=1, max=material.max_batch)
    with torch.no_grad():
        output = network(images)
        program = torch.export.export(network, (images,), dynamic_shapes=({0: axis},))
    tensors = {
        name: {
            "dims": list(tensor.shape[1:]),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        for name, tensor in ((INPUT, images), (OUTPUT, output))
    }
    return program, {
        TENSORS_ENTRY: json.dumps(tensors),
        MAX_BATCH_ENTRY: str(material.max_batch),
    }
