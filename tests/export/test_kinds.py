"""What is said of a file that is no checkpoint, with files that the usual writers make."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from PIL import Image

from seresnext101_triton.export.weights.kinds import (
    checkpoint_name,
    foreign,
    is_pickle,
    is_safetensors,
    is_zip,
)
from tests.conftest import onnx_convolution


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def tar(file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))


def image(form: str) -> bytes:
    return written(lambda file: Image.new("RGB", (1, 1)).save(file, form))


FILES = {
    "a gzip file: unpack": gzip.compress(b"x"),
    "a bzip2 file: unpack": bz2.compress(b"x"),
    "an xz file: unpack": lzma.compress(b"x"),
    "a tar archive: unpack": written(tar),
    "a numpy array: save a state dict": written(lambda file: np.save(file, np.zeros(3))),
    "an ONNX model: pass the PyTorch": onnx_convolution((3, 4, 4)),
    "a JPEG: pass a checkpoint": image("JPEG"),
    "a PNG: pass a checkpoint": image("PNG"),
    "a PDF: pass a checkpoint": image("PDF"),
    # By their writers' documents: RFC 8878, 7zFormat.txt, RAR's technote, HDF5's and GGUF's format.
    "a zstd file: unpack": bytes.fromhex("28b52ffd"),
    "a 7z archive: unpack": bytes.fromhex("377abcaf271c"),
    "a RAR archive: unpack": b"Rar!\x1a\x07",
    "an HDF5 file (Keras): convert": b"\x89HDF\r\n\x1a\n",
    "a GGUF file: pass": b"GGUF\x03",
    "a program: pass": b"\x7fELF\x02",
}


@pytest.mark.parametrize("said", FILES)
def test_a_file_of_another_kind_is_called_what_it_is(said):
    found = foreign(FILES[said][:512])
    assert found is not None and found.lower().startswith(f"is {said}".lower())


def test_onnx_files_of_other_writers_are_known_too():
    model = onnx.load_model_from_string(onnx_convolution((3, 4, 4)))
    model.producer_name = "pytorch"
    named = model.SerializeToString()
    model.ClearField("producer_name")
    for content in (named, model.SerializeToString()):
        said = foreign(content[:512])
        assert said is not None and said.startswith("is an ONNX model")


def test_checkpoints_are_not_foreign():
    state = {"a": torch.zeros(3)}
    archive = written(lambda file: torch.save(state, file))
    pickled = written(lambda f: torch.save(state, f, _use_new_zipfile_serialization=False))
    tensors = safetensors.numpy.save({"a": np.zeros(3, np.float32)})
    kinds = {"zip": is_zip, "pickle": is_pickle, "safetensors": is_safetensors}
    for name, content in (("zip", archive), ("pickle", pickled), ("safetensors", tensors)):
        assert foreign(content[:512]) is None
        assert {kind for kind, test in kinds.items() if test(content[:512])} == {name}
    assert is_zip(b"PK\x05\x06")  # an archive without files
    limit = 100_000_000
    assert is_safetensors(limit.to_bytes(8, "little") + b"{")
    assert not is_safetensors((limit + 1).to_bytes(8, "little") + b"{")
    assert not is_safetensors(limit.to_bytes(8, "little"))


def test_names_of_checkpoints():
    assert checkpoint_name("a/B.PTH") and checkpoint_name("x.pth.tar")
    assert not checkpoint_name("a.pth/readme.txt") and not checkpoint_name("pth")
