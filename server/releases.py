"""The parts of each release of NVIDIA's tritonserver image that matter for an artifact.

The versions of Triton, ONNX Runtime and OpenVINO are from `build.py` in Triton's release branches,
those of CUDA from its release notes. `python -m tests.server.sources` compares the table with them.
NVIDIA does not list the TensorRT of the plain image for every release. If only two or three numbers
of it are known, only those are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from seresnext101_triton.server import TRITON_RELEASE
from seresnext101_triton.server.errors import ReleaseError, UnknownRelease

# The first release whose PyTorch backend serves `platform: "torch_aoti"` with batches.
FIRST_WITH_PT2 = "26.06"


@dataclass(frozen=True)
class Release:
    """One release of the image.

    Attributes:
        name: Tag of the image, `yy.mm`.
        triton: Version of Triton.
        onnxruntime: Version of ONNX Runtime.
        openvino: Version of OpenVINO.
        cuda: Version of CUDA.
        tensorrt: The known part of TensorRT's version; empty if it is not known.
        opset: The newest ONNX opset that both ONNX Runtime and TensorRT can read.
        ir: The newest ONNX IR version that both can read.
    """

    name: str
    triton: str
    onnxruntime: str
    openvino: str
    cuda: str
    tensorrt: str
    opset: int
    ir: int

    @property
    def image(self) -> str:
        """The image's name in NVIDIA's registry."""
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"

    def check_pt2(self) -> None:
        """Check that this release's PyTorch backend can batch AOTInductor packages.

        Sources: pull requests 196 and 198 of pytorch_backend (June 2026, branch r26.06).

        Raises:
            ReleaseError: It cannot.
        """
        if self.name < FIRST_WITH_PT2:
            raise ReleaseError(
                f"the PyTorch backend of tritonserver {self.name} cannot batch AOTInductor "
                f"packages: name release {FIRST_WITH_PT2} or a later one with `target`, or export "
                "torchscript"
            )

    def check_plan(self, tensorrt: str, *, version_compatible: bool) -> None:
        """Check that this release can load a plan, by the rules of TensorRT's support matrix.

        Args:
            tensorrt: The version that built the plan.
            version_compatible: Whether the plan can be loaded by newer versions. Then version 11
                can load a plan of version 10.

        Raises:
            ReleaseError: It cannot. The message says what to install.
        """
        if not self.tensorrt:
            raise ReleaseError(
                f"which TensorRT tritonserver {self.name} has is not known: build in its image, "
                "with `make tensorrt-ngc`"
            )
        ours, theirs = _numbers(self.tensorrt), _numbers(tensorrt)
        if theirs[: len(ours)] == ours:
            return
        majors = (theirs[0], ours[0])
        if version_compatible and theirs < ours and majors in ((10, 10), (11, 11), (10, 11)):
            return
        raise ReleaseError(
            f"tritonserver {self.name} has TensorRT {self.tensorrt} and cannot load a plan of "
            f"TensorRT {tensorrt}: pip install 'tensorrt=={self.tensorrt}"
            f"{'' if len(ours) == 4 else '.*'}', or build in its image with `make tensorrt-ngc`, "
            "or name the release that will serve with `target`"
        )


def release(name: str) -> Release:
    """A release by its tag.

    Raises:
        UnknownRelease: It is not in the table.
    """
    if name not in RELEASES:
        known = ", ".join(RELEASES)
        raise UnknownRelease(f"{name} is not a known release of tritonserver: choose from {known}")
    return RELEASES[name]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


# Opsets and IR: ONNX Runtime 1.19 and 1.20 can read opset 21, later versions opset 22, and all of
# them IR 10 (its docs/Versioning.md). TensorRT's parser can read opset 20 up to version 10.5, and
# opset 22 from 10.6 on (docs/operators.md of onnx-tensorrt).
RELEASES = {
    release.name: release
    for release in (
        Release("24.10", "2.51.0", "1.19.2", "2024.4.0", "12.6.2", "10.5.0", 20, 10),
        Release("24.11", "2.52.0", "1.19.2", "2024.4.0", "12.6.3", "10.6.0", 21, 10),
        Release("24.12", "2.53.0", "1.20.1", "2024.5.0", "12.6.3", "10.7.0", 21, 10),
        Release("25.01", "2.54.0", "1.20.1", "2024.5.0", "12.8.0", "10.8.0", 21, 10),
        Release("25.02", "2.55.0", "1.20.1", "2025.0.0", "12.8.0", "10.8.0", 21, 10),
        Release("25.03", "2.56.0", "1.21.0", "2025.0.0", "12.8.1", "10.9.0", 22, 10),
        Release("25.04", "2.57.0", "1.21.0", "2025.0.0", "12.9.0", "10.9.0", 22, 10),
        Release("25.05", "2.58.0", "1.22.0", "2025.1.0", "12.9", "10.10", 22, 10),
        Release("25.06", "2.59.0", "1.22.0", "2025.1.0", "12.9", "10.11", 22, 10),
        Release("25.07", "2.59.1", "1.22.0", "2025.1.0", "12.9", "10.11", 22, 10),
        Release("25.08", "2.60.0", "1.23.0", "2025.2.0", "13.0.0", "10.13.2", 22, 10),
        Release("25.09", "2.61.0", "1.23.0", "2025.3.0", "13.0.1", "10.13.3", 22, 10),
        Release("25.10", "2.62.0", "1.23.1", "2025.3.0", "13.0.2", "10.13.3", 22, 10),
        Release("25.11", "2.63.0", "1.23.2", "2025.3.0", "13.0.2", "10.14.1", 22, 10),
        Release("25.12", "2.64.0", "1.23.2", "2025.4.0", "13.1.0", "10.14.1", 22, 10),
        Release("26.01", "2.65.0", "1.23.2", "2025.4.1", "13.1.1", "10.14.1", 22, 10),
        Release("26.02", "2.66.0", "1.24.1", "2025.4.1", "13.1.1", "", 22, 10),
        Release("26.03", "2.67.0", "1.24.2", "2026.0.0", "13.2.0", "10.16.0.72", 22, 10),
        Release("26.04", "2.68.0", "1.24.4", "2026.1.0", "13.2.1", "10.16.1.11", 22, 10),
        Release("26.05", "2.69.0", "1.24.4", "2026.1.0", "13.2.1", "10.16.1.11", 22, 10),
        Release("26.06", "2.70.0", "1.24.4", "2026.2.0", "13.3.0", "11.0", 22, 10),
        Release("26.07", "2.71.0", "1.27.0", "2026.2.0", "13.3.1", "11.1.0.106", 22, 10),
        Release("26.08", "2.72.0", "1.28.0", "2026.3.0", "13.4.1", "11.2.1", 22, 10),
    )
}
assert TRITON_RELEASE in RELEASES
