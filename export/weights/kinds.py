"""What a file is by its first bytes, where it is no checkpoint, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

FIRST_BYTES = 512
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".safetensors")

_DOWNLOAD = "the download did not give the file: download it in a browser or with a token"
_UNPACK = "unpack it, and pass the checkpoint in it"
_SAVE = "save the model's state dict: torch.save(model.state_dict(), path)"
_TEXTS = (
    (
        re.compile(rb"version https://git-lfs"),
        "a Git LFS pointer, not the file itself",
        "run `git lfs pull` where it comes from",
    ),
    (
        re.compile(
            rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype html|html|head|body)", re.I | re.S
        ),
        "a web page (HTML)",
        _DOWNLOAD,
    ),
    (re.compile(rb"<(\?xml|\w+)"), "XML", _DOWNLOAD),
    (re.compile(rb"[{\[]"), "JSON or other text", _DOWNLOAD),
)
_MAGICS = (
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file (Keras)", "convert its weights to a PyTorch checkpoint"),
    (b"\x93NUMPY", "a numpy array", "save a state dict of torch tensors"),
    (b"GGUF", "a GGUF file", "pass the PyTorch checkpoint it was made from"),
    (b"ftrt", "a TensorRT plan", "pass the checkpoint it was made from"),
    (b"%PDF", "a PDF", "pass a checkpoint"),
    (b"\x7fELF", "a program", "pass a checkpoint"),
    (b"\xff\xd8\xff", "a JPEG", "pass a checkpoint"),
    (b"\x89PNG", "a PNG", "pass a checkpoint"),
)


def foreign(first: bytes) -> str | None:
    """What a file is that is no checkpoint, and the way out; None where it may be one.

    Args:
        first: Its first 512 bytes.
    """
    for magic, what, remedy in _MAGICS:
        if first.startswith(magic):
            return f"is {what}: {remedy}"
    if first[257:262] == b"ustar":
        return (
            f"is a tar archive: {_UNPACK}. "
            "Where PyTorch before 0.2 wrote it, load it there and save its state dict"
        )
    if is_safetensors(first):
        return None
    # ONNX is a protobuf: its version, then who wrote it.
    if re.match(rb"\x08[\x01-\x20](\x12.[\x20-\x7e]{2}|[\x1a\x22\x2a\x32\x3a])", first, re.S):
        return "is an ONNX model: pass the PyTorch checkpoint it was made from"
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what, remedy in _TEXTS:
        if pattern.match(text):
            return f"is {what}: {remedy}"
    return None


def is_zip(first: bytes) -> bool:
    """Whether it begins as zip archives do; a checkpoint of PyTorch 1.6 and later is one."""
    return first.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_safetensors(first: bytes) -> bool:
    """Whether it begins with a length below 100 MB, the format's own limit, and JSON."""
    return (
        len(first) > 8 and first[8:9] == b"{" and int.from_bytes(first[:8], "little") <= 100_000_000
    )


def is_pickle(first: bytes) -> bool:
    """Whether it begins as pickles of protocol 2 and later do."""
    return first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def checkpoint_name(name: str) -> bool:
    """Whether a file's name is that of a checkpoint."""
    return Path(name).name.lower().endswith(CHECKPOINTS)
