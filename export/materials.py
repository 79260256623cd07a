"""Makes the material of each precision: the network in this precision, and its ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from seresnext101_triton.export.gate import Gate
from seresnext101_triton.export.job import Job
from seresnext101_triton.export.material import Material
from seresnext101_triton.export.onnx import gate as onnx_gate
from seresnext101_triton.export.onnx import pixels, writer
from seresnext101_triton.export.precision import Precision
from seresnext101_triton.export.quantization import recipe
from seresnext101_triton.export.ranges import measure
from seresnext101_triton.export.request import Variant
from seresnext101_triton.export.served import PixelNetwork, ServedNetwork
from seresnext101_triton.export.tensorrt import rtx
from seresnext101_triton.server.releases import release


def make_materials(
    job: Job, network: ServedNetwork, gate: Gate, variants: Sequence[Variant]
) -> dict[Precision, Material]:
    """The material of each precision, from which its artifacts are made.

    Raises:
        RangeError: Values of the network do not fit into the precision to which it must be cast.
        BuildError: The release that will serve an ONNX file cannot read it.
    """
    scratch, folded = job.publication.scratch(), network.folded()
    materials = {}
    for precision in dict.fromkeys(variant.precision for variant in variants):
        material = _cast(job, folded, gate, precision)
        made = [each.format for each in variants if each.precision == precision]
        if any(format.from_onnx for format in made):
            with job.reporter.step(f"exporting the network in {precision.name} as ONNX"):
                material = _with_onnx(material, scratch / f"{precision.name}.onnx")
        if precision.quantized:
            material = _quantized(job, material, gate, scratch)
        if job.request.preprocessing.takes_pixels:
            material = _of_pixels(job, material, scratch)
        if any(format.is_for_tensorrt(precision) for format in made):
            material = _built_by_nvidia(job, material)
        materials[precision] = material
    return materials


def _cast(job: Job, folded: ServedNetwork, gate: Gate, precision: Precision) -> Material:
    """The network in the dtype from which the artifacts of a precision are made."""
    request = job.request
    crop, max_batch = request.preprocessing.crop, request.serving.max_batch
    target = release(request.target)
    if not precision.is_cast:
        return Material(folded, precision, crop, max_batch, target)
    with job.reporter.step("measuring how large activations get"):
        ranges = measure(folded, gate.inputs, precision)
    dtype = getattr(torch, precision.made_in)
    network = folded.cast(dtype, fp32_squeeze=precision.fp32_squeeze)
    return Material(network, precision, crop, max_batch, target, ranges=ranges)


def _with_onnx(material: Material, path: Path) -> Material:
    """Export the network as an ONNX file, once for all formats that are made from it."""
    writer.write(material.network, material.example, material.max_batch, path)
    onnx_gate.check_readable(path, material.release)
    return replace(material, onnx=path)


def _quantized(job: Job, material: Material, gate: Gate, scratch: Path) -> Material:
    """Quantise the ONNX file of the network."""
    options, images = job.request.quantization, job.weights.images
    assert options is not None and images is not None  # `Request` has checked this
    quantizer = recipe.Quantizer(options, images, gate, scratch, job.reporter)
    identity = f"{job.weights.identity} {material.network.network.architecture}"
    quantized = quantizer.quantize(material.graph, identity)
    onnx_gate.check_onnx(quantized.path, material.precision, material.release)
    return replace(material, onnx=quantized.path, quantization=quantized.facts)


def _of_pixels(job: Job, material: Material, scratch: Path) -> Material:
    """The same network with the normalisation of pixels in front."""
    preprocessing, graph = job.request.preprocessing, None
    if material.onnx:
        graph = scratch / f"{material.precision.name}_pixels.onnx"
        pixels.prepend(material.onnx, graph, preprocessing)
    network = PixelNetwork(material.network, preprocessing)
    return replace(material, network=network, onnx=graph, takes_pixels=True)


def _built_by_nvidia(job: Job, material: Material) -> Material:
    """Have NVIDIA's own builder read the ONNX file, where it is installed.

    Raises:
        BuildError: It refuses the file.
    """
    if not rtx.is_installed():
        job.reporter.note(
            f"{rtx.PRODUCT} is not installed, so NVIDIA's builder has not read the ONNX file: "
            "pip install '.[rtx]'"
        )
        return material
    label = f"building the ONNX file in {material.precision.name} with {rtx.PRODUCT}"
    with job.reporter.step(label):
        return replace(material, tensorrt_rtx=rtx.check(material.graph, rtx.profile_of(material)))
