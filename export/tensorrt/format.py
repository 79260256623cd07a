"""TensorRT plans, for Triton's TensorRT backend: built here, in NVIDIA's image, or elsewhere.

A plan runs on the kind of GPU it was built on. One plan is `model.plan`; several are
`model_sm<capability>.plan`, and the config's `cc_model_filenames` tells Triton which GPU loads
which.
"""

from __future__ import annotations

import re
import shutil
from argparse import Namespace, _ActionsContainer
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.export.errors import BuildError, MissingHardware, OptionError
from seresnext101_triton.export.format import Format, Proof
from seresnext101_triton.export.precision import FP16, FP32, Precision
from seresnext101_triton.export.tensorrt import container, local, rtx
from seresnext101_triton.export.tensorrt import plan as plans
from seresnext101_triton.export.tensorrt.options import add_tuning, tuning_of
from seresnext101_triton.export.tensorrt.plan import BuildSpec, Plan, Profile, Tuning
from seresnext101_triton.server import gpu as gpus
from seresnext101_triton.server.digest import sha256

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

    from seresnext101_triton.export.gate import Gate
    from seresnext101_triton.export.material import Material
    from seresnext101_triton.export.reporting import Reporter
    from seresnext101_triton.export.serving import Serving

_FOR_CAPABILITY = re.compile(r"model_sm(\d+)(\d)\.plan")


@dataclass(frozen=True)
class TensorRT(Format):
    """Plans for one or several kinds of GPU.

    Attributes:
        tuning: How a plan is built here.
        brought: Plans that were built and proven on machines with other GPUs, each with its
            sidecar.
        in_image: Build inside NVIDIA's image, in Docker.
    """

    tuning: Tuning = field(default_factory=Tuning)
    brought: tuple[Path, ...] = ()
    in_image: bool = False

    name = "tensorrt"
    summary = "for GPUs, built on the GPU that will serve it"
    runtime = "tensorrt"
    platform = "tensorrt_plan"
    filename = "model.plan"
    packages = ("torch", "onnxscript", "onnx")
    sources = ("seresnext101_triton.export.tensorrt",)
    precisions = (FP32, FP16)
    default_precision = FP16
    cpu_precisions = ()
    devices = ("gpu",)
    from_onnx = True

    def add_arguments(self, parser: _ActionsContainer) -> None:
        """Add the options of a build, and where else plans come from."""
        group = parser.add_argument_group("TensorRT plans")
        add_tuning(group)
        group.add_argument(
            "--plan",
            dest="brought",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="one that another GPU's machine has built and proven",
        )
        group.add_argument(
            "--in-image",
            action="store_true",
            help="build inside the target's NVIDIA image, in Docker",
        )

    def with_arguments(self, arguments: Namespace) -> TensorRT:
        return TensorRT(tuning_of(arguments), tuple(arguments.brought), arguments.in_image)

    def is_for_tensorrt(self, precision: Precision) -> bool:
        return True

    def missing(self) -> str | None:
        """What this machine lacks to build a plan and prove it; None where it need not do so."""
        return None if self.brought or self.in_image else _missing()

    def identity(self) -> dict[str, Any]:
        """What tells one plan from another, besides the ONNX that it is made from."""
        gpu = gpus.find()
        return {
            "tensorrt": import_module("tensorrt").__version__ if find_spec("tensorrt") else "",
            "gpu": gpu and [gpu.name, gpu.compute_capability],
            "brought": [sha256(path) for path in self.brought if path.exists()],
            "tuning": asdict(self.tuning),
            "image": self.in_image,
        }

    def check(self, precision: Precision, serving: Serving) -> None:
        super().check(precision, serving)
        if self.tuning.opt_batch > serving.max_batch:
            raise OptionError(
                f"`opt_batch` {self.tuning.opt_batch} is over the maximum batch, "
                f"{serving.max_batch}"
            )

    def export(self, material: Material, folder: Path, reporter: Reporter) -> None:
        """Build the plan for this machine's GPU where it has one, and add the plans from elsewhere.

        Raises:
            MissingHardware: There is no GPU here, and no plan was brought.
            BuildError: The ONNX is not fit for TensorRT, TensorRT built no plan, or a plan that was
                brought is of something else.
            ReleaseError: The release that will serve cannot load the plan.
        """
        from seresnext101_triton.export.onnx import gate

        gate.check_onnx(material.graph, material.precision, material.release)
        best = self.tuning.opt_batch or material.max_batch
        profile = replace(rtx.profile_of(material), opt=best)
        onnx_sha256 = sha256(material.graph)
        made = {path: _read_brought(path, onnx_sha256, profile) for path in self.brought}
        if self.in_image or not _suffices(made):
            path = folder / self.filename
            made[path] = self._build(material, path, profile, reporter)
        _require_one_for_each_capability(made)
        for path, facts in made.items():
            compatible = facts.tuning.version_compatible
            material.release.check_plan(facts.tensorrt, version_compatible=compatible)
            capability = facts.compute_capability.replace(".", "")
            target = folder / (self.filename if len(made) == 1 else f"model_sm{capability}.plan")
            if path.parent == folder:
                plans.sidecar(path).unlink()
                path.rename(target)
            else:
                shutil.copy2(path, target)
            facts.write(target)

    def prove(
        self, gate: Gate, folder: Path, precision: Precision, serving: Serving, reporter: Reporter
    ) -> Proof:
        """Prove the plan of this machine's GPU, and ask the sidecars for the proof of all others.

        Returns:
            The gate's figures, from here or from where the first plan was built.

        Raises:
            ParityError: The plan does not answer as the network it was made from.
            BuildError: A plan that this machine cannot run was not proven where it was built.
        """
        from seresnext101_triton.server import runtimes

        gpu = gpus.find()
        proven: list[dict[str, Any]] = []
        with reporter.step(f"checking {self.label(precision)} against the network"):
            for path in sorted(folder.glob("*.plan")):
                facts = plans.read(path)
                here = gpu and facts.compute_capability == gpu.compute_capability
                if here and find_spec("tensorrt"):
                    runtime = runtimes.load(self.runtime, path, {}, "cuda:0")
                    parity = gate.check(path.name, runtime, precision, "cuda:0").to_json()
                    facts = replace(facts, parity=parity)
                    facts.write(path)
                    proven.insert(0, facts.parity)
                elif facts.parity:
                    proven.append(facts.parity)
                else:
                    raise BuildError(
                        f"{path.name} was built for {facts.gpu} and never proven: export it on a "
                        "machine with that GPU first"
                    )
        return Proof(proven[0])

    def configure(self, config: pb.ModelConfig, artifacts: Sequence[str]) -> None:
        """Tell Triton which plan is for which compute capability, where there are several."""
        for filename in artifacts:
            if found := _FOR_CAPABILITY.fullmatch(filename):
                config.cc_model_filenames[f"{found[1]}.{found[2]}"] = filename

    def tune_gpu(self, config: pb.ModelConfig) -> None:
        """Use a CUDA graph for every batch size.

        Left alone, a model with dynamic batching gets them for 1 and the maximum only.

        Source: tensorrt_backend, src/instance_state.cc, InitializeGraphSpecs.
        """
        config.optimization.cuda.graphs = True
        for batch in range(1, config.max_batch_size + 1):
            config.optimization.cuda.graph_spec.add(batch_size=batch)

    def _build(self, material: Material, path: Path, profile: Profile, reporter: Reporter) -> Plan:
        from platformdirs import user_cache_path

        cache = user_cache_path("seresnext101-triton")
        precision = material.precision
        spec = BuildSpec(material.graph, path, profile, self.tuning, precision, cache)
        if lacks := _missing():
            raise MissingHardware(
                "a TensorRT plan is built and proven on the GPU that serves it, and this machine "
                f"lacks {lacks}"
            )
        if self.in_image:
            return container.build(material.release.image, spec, reporter.note)
        # Asked minutes before it is built: can the server that is meant load it?
        version = import_module("tensorrt").__version__
        compatible = self.tuning.version_compatible
        material.release.check_plan(version, version_compatible=compatible)
        with reporter.phases() as watcher:
            return local.build(spec, watcher, reporter.note)


def _missing() -> str | None:
    """What this machine lacks to build a plan and prove it; None where it lacks nothing."""
    lacks = []
    if gpus.find() is None:
        lacks.append("an NVIDIA GPU")
    if not find_spec("tensorrt"):
        lacks.append("TensorRT (pip install '.[gpu]')")
    return " and ".join(lacks) or None


def _suffices(brought: dict[Path, Plan]) -> bool:
    """Whether nothing needs to be built here.

    That is so where plans were brought, and one of them is for this machine's GPU if this machine
    can build for it.
    """
    gpu = gpus.find()
    if gpu is None or _missing() is not None:
        return bool(brought)
    return gpu.compute_capability in {facts.compute_capability for facts in brought.values()}


def _read_brought(path: Path, onnx_sha256: str, profile: Profile) -> Plan:
    """The sidecar of a plan from another machine.

    Raises:
        BuildError: The plan is of another ONNX, or takes other shapes.
    """
    facts = plans.read(path)
    if facts.onnx_sha256 != onnx_sha256:
        raise BuildError(
            f"{path} was built from another ONNX file: other weights, options or tools. Build it "
            "anew from this one"
        )
    if (facts.profile.max, facts.profile.dims) != (profile.max, profile.dims):
        found, wanted = (
            f"batches to {each.max} of {list(each.dims)}" for each in (facts.profile, profile)
        )
        raise BuildError(f"{path} takes {found}, not {wanted}: build it anew with these options")
    return facts


def _require_one_for_each_capability(made: dict[Path, Plan]) -> None:
    first: dict[str, Path] = {}
    for path, facts in made.items():
        other = first.setdefault(facts.compute_capability, path)
        if other != path:
            raise BuildError(
                f"{other} and {path} are both for compute capability {facts.compute_capability}: "
                "name one of them"
            )
