"""TensorRT plans, for Triton's TensorRT backend: built here, built in NVIDIA's image, or brought from machines with other GPUs.

A plan runs on the kind of GPU it was built on. One plan is `model.plan`; several are `model_sm<capability>.plan`, and the config's
`cc_model_filenames` tells Triton which GPU loads which.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from export.errors import BuildError, MissingHardware
from export.formats import INPUT
from export.formats.material import Material
from export.parity import Gate
from export.tensorrt import container, gate, local
from export.tensorrt import gpu as gpus
from export.tensorrt import plan as plans
from export.tensorrt.plan import Order, Plan, PlanRequest, Profile
from server import runtimes

FILENAME = "model.plan"


def missing() -> str | None:
    """What this machine lacks to build a plan and prove it; None where it lacks nothing."""
    lacks = []
    if gpus.find() is None:
        lacks.append("an NVIDIA GPU")
    if not find_spec("tensorrt"):
        lacks.append("TensorRT (pip install '.[gpu]')")
    return " and ".join(lacks) or None


def identity(request: PlanRequest) -> dict[str, Any]:
    """What tells one plan from another, besides the ONNX it is made from."""
    gpu = gpus.find()
    return {
        "tensorrt": import_module("tensorrt").__version__ if find_spec("tensorrt") else "",
        "gpu": gpu and [gpu.name, gpu.compute_capability],
        "brought": [plans.sha256(path) for path in request.brought if path.exists()],
        "tuning": asdict(request.tuning),
        "image": request.in_image,
    }


def export(material: Material, folder: Path) -> None:
    """Build the plan for this machine's GPU where it has one, and take in the plans that were brought.

    Raises:
        MissingHardware: There is no GPU here, and no plan was brought.
        BuildError: The ONNX is not fit for TensorRT, TensorRT built no plan, or a plan that was brought is of something else.
        ReleaseError: The release that will serve cannot load the plan.
    """
    request, precision = material.plans, material.network.precision
    gate.check_onnx(material.onnx, precision, material.release)
    tuning = request.tuning
    profile = Profile(INPUT, tuple(material.example.shape[1:]), tuning.opt_batch or material.max_batch, material.max_batch)
    made = {path: _brought(path, plans.sha256(material.onnx), profile) for path in request.brought}
    if request.in_image or not _suffices(made):
        path = material.scratch / FILENAME
        made[path] = _build(material, path, profile)
    _check_apart(made)
    for path, facts in made.items():
        material.release.check_plan(facts.tensorrt, version_compatible=facts.tuning.version_compatible)
        name = FILENAME if len(made) == 1 else f"model_sm{facts.compute_capability.replace('.', '')}.plan"
        (shutil.move if path.parent == material.scratch else shutil.copy2)(path, folder / name)
        facts.write(folder / name)


def prove(parity: Gate, folder: Path, precision: str) -> dict[str, Any]:
    """Hold the plan of this machine's GPU against the network, and ask the sidecars for the proof of all others.

    Args:
        parity: The gate.
        folder: Where the plans are.
        precision: What they compute in.

    Returns:
        The figures of the gate, here or where the first plan was built.

    Raises:
        ParityError: The plan does not answer as the network it was made from.
        BuildError: A plan that this machine cannot run was not proven where it was built.
    """
    gpu = gpus.find()
    proven: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.plan")):
        facts = plans.read(path)
        if gpu and find_spec("tensorrt") and facts.compute_capability == gpu.compute_capability:
            runtime = runtimes.load("tensorrt", path, {}, "cuda:0")
            facts = replace(facts, parity=parity.check(path.name, runtime, precision, "cuda:0").to_json())
            facts.write(path)
            proven.insert(0, facts.parity)
        elif facts.parity:
            proven.append(facts.parity)
        else:
            raise BuildError(f"{path.name} was built for {facts.gpu} and never proven: export it on a machine with that GPU first")
    return proven[0]


def compute_capabilities(folder: Path) -> dict[str, str]:
    """Which file is for which compute capability, where there is more than one."""
    files = sorted(folder.glob("model_sm*.plan"))
    return {plans.read(path).compute_capability: path.name for path in files}


def _suffices(brought: dict[Path, Plan]) -> bool:
    """Whether nothing needs to be built: plans were brought, one of them for this machine's GPU if it can build for it."""
    gpu = gpus.find()
    here = gpu is None or missing() is not None or gpu.compute_capability in {facts.compute_capability for facts in brought.values()}
    return bool(brought) and here


def _build(material: Material, path: Path, profile: Profile) -> Plan:
    request, reporter = material.plans, material.reporter
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "seresnext101-triton")
    order = Order(material.onnx, path, profile, request.tuning, material.network.precision, cache)
    if request.in_image:
        return container.build(material.release.image, order, reporter.note)
    if lacks := missing():
        raise MissingHardware(f"a TensorRT plan is built and proven on the GPU that serves it, and this machine lacks {lacks}")
    # Asked minutes before it is built: can the server that is meant load it?
    version = import_module("tensorrt").__version__
    material.release.check_plan(version, version_compatible=request.tuning.version_compatible)
    with reporter.phases() as watcher:
        return local.build(order, watcher, reporter.note)


def _brought(path: Path, onnx_sha256: str, profile: Profile) -> Plan:
    facts = plans.read(path)
    if facts.onnx_sha256 != onnx_sha256:
        raise BuildError(f"{path} was built from another ONNX file: other weights, options or tools. Build it anew from this one")
    if (facts.profile.max, facts.profile.dims) != (profile.max, profile.dims):
        found, wanted = (f"batches to {each.max} of {list(each.dims)}" for each in (facts.profile, profile))
        raise BuildError(f"{path} takes {found}, not {wanted}: build it anew with these options")
    return facts


def _check_apart(made: dict[Path, Plan]) -> None:
    seen: dict[str, Path] = {}
    for path, facts in made.items():
        other = seen.setdefault(facts.compute_capability, path)
        if other != path:
            raise BuildError(f"{other} and {path} are both for compute capability {facts.compute_capability}: name one of them")
