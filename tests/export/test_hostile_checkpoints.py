"""Files that are no checkpoint, or a hostile one.

Each raises one error that names the cause, in bounded memory and time. No code in them runs.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seresnext101_triton.export.errors import CheckpointError, OptionError
from seresnext101_triton.export.network import SEResNeXt
from seresnext101_triton.export.weights import resolve
from tests.conftest import QUIET, TINY

THREE = replace(TINY, classes=3)
WEIGHT = "layers.1.0.conv2.weight"


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return dict(SEResNeXt(THREE).state_dict())


def load(path):
    return resolve(str(path)).load(TINY, QUIET)[0]


def failure(path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(path)
    return str(error.value)


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


TYPES = {
    "int8": lambda tensor: tensor.to(torch.int8),
    "bool": lambda tensor: tensor > 0,
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "float8_e4m3fn": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "sparse": lambda tensor: tensor.to_sparse(),
    "meta, without values": lambda tensor: tensor.to("meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", TYPES)
def test_tensors_that_are_no_float_values_are_listed_with_a_way_out(state, tmp_path, kind, zipped):
    path = saved(
        tmp_path / "x.pth",
        state | {WEIGHT: TYPES[kind](state[WEIGHT])},
        _use_new_zipfile_serialization=zipped,
    )
    message = failure(path)
    assert "of 142 tensors: 1 of a wrong type" in message
    assert f"wrong type  {WEIGHT} is {kind}" in message
    assert "The way out: save plain float tensors" in message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_float_tensors_of_other_widths_are_taken(state, tmp_path, dtype, suffix):
    path = tmp_path / f"x{suffix}"
    content = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()
    }
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(content, path)
    found = load(path).state_dict()[WEIGHT]
    assert found.dtype == torch.float32
    assert torch.equal(found, state[WEIGHT].to(dtype).float())


def test_a_double_beyond_float32_is_not_finite(state, tmp_path):
    large = state[WEIGHT].double()
    large[0] = 1e300
    assert f"not finite  {WEIGHT}" in failure(saved(tmp_path / "x.pth", state | {WEIGHT: large}))


def test_an_expanded_view_is_not_what_is_stored(state, tmp_path):
    wide = torch.zeros(1).expand(100_000_000_000, 128)
    message = failure(saved(tmp_path / "x.pth", state | {"fc.weight": wide}))
    assert "claims 51200000000000 bytes and 4 are stored: save tensor.clone()" in message


@pytest.mark.parametrize(
    "keys",
    [{0: torch.zeros(1)}, {b"x": torch.zeros(1)}, {None: torch.zeros(1), "x": torch.zeros(1)}],
)
def test_keys_that_are_no_names(tmp_path, keys):
    assert "x.pth (state_dict) is no state dict: these keys are no names of tensors" in failure(
        saved(tmp_path / "x.pth", {"state_dict": keys})
    )


def test_a_dict_that_contains_itself(tmp_path):
    loop: dict[str, object] = {"epoch": 1}
    loop["state_dict"] = loop
    assert "holds no state dict" in failure(saved(tmp_path / "x.pth", loop))


def test_what_training_scripts_store_beside_the_weights(state, tmp_path):
    import argparse
    import datetime

    beside = {
        "args": argparse.Namespace(lr=0.1, path=Path("/data")),
        "history": [np.float64(1.5), np.arange(3)],
        "date": datetime.datetime(2026, 1, 1),
        "counts": {1, 2},
        "rng": torch.get_rng_state(),
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1).state_dict(),
    }
    path = saved(tmp_path / "x.pth", beside | {"state_dict": OrderedDict(state)})
    assert torch.equal(load(path).state_dict()[WEIGHT], state[WEIGHT])


def test_parameters_and_one_storage_for_all(state, tmp_path):
    flat = torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])
    content, done = {}, 0
    for key, value in state.items():
        if value.is_floating_point():
            content[key] = torch.nn.Parameter(flat[done : done + value.numel()].view_as(value))
            done += value.numel()
    content["conv1.weight"] = torch.nn.Parameter(
        state["conv1.weight"].transpose(0, 3).contiguous().transpose(0, 3)
    )
    for zipped in (True, False):
        found = load(
            saved(tmp_path / "x.pth", content, _use_new_zipfile_serialization=zipped)
        ).state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())


# What files are.

FOREIGN = {
    "lfs.pth": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n",
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "html.pth": (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "is a web page (HTML)"),
    "bom.pth": (b"\xef\xbb\xbf<html></html>", "is a web page (HTML)"),
    "xml.pth": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML"),
    "json.pth": (b'{"error": "not found"}', "is JSON"),
    "gzip.pth": (b"\x1f\x8b\x08\x00rest", "is a gzip file: unpack it"),
    "tar.pth": (b"name" + bytes(253) + b"ustar\x0000" + bytes(250), "is a tar archive: unpack it"),
    "keras.pth": (b"\x89HDF\r\n\x1a\nrest", "is an HDF5 file"),
    "plan.pth": (b"ftrt\x00\x00", "is a TensorRT plan"),
    "html.safetensors": (b"<html></html>", "is a web page (HTML)"),
    "noise.safetensors": (bytes(range(200)), "is damaged, truncated or no safetensors file"),
    "noise.pth": (bytes(range(200)), "is damaged, truncated or no checkpoint"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_are_called_what_they_are(tmp_path, name):
    content, message = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    found = failure(tmp_path / name)
    assert message in found and "\n" not in found


def test_formats_under_the_others_name(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "x.pth")
    assert "is a safetensors file: rename it to x.safetensors" in failure(tmp_path / "x.pth")
    for zipped in (True, False):
        saved(tmp_path / "y.safetensors", state, _use_new_zipfile_serialization=zipped)
        assert "is a PyTorch file, not a safetensors file: rename it to y.pth" in failure(
            tmp_path / "y.safetensors"
        )


def test_other_libraries_models(tmp_path):
    from tests.conftest import onnx_convolution

    (tmp_path / "x.pth").write_bytes(onnx_convolution((3, 4, 4)))
    assert "is an ONNX model" in failure(tmp_path / "x.pth")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert "is a numpy archive (.npz)" in failure(tmp_path / "x.npz")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "is no regular file" in failure(tmp_path / "fifo")
    assert "is no regular file" in failure("/dev/zero")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "is a folder: name the checkpoint file in it, for example model.safetensors" in failure(
        tmp_path
    )
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read: Too many levels of symbolic links" in failure(tmp_path / "loop")
    assert "cannot be read: File name too long" in failure(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://host/x.pth",
        "https:///x.pth",
        "http://host:99999/x.pth",
        "http://a b/x.pth",
        "seeded:²",
    ],
)
def test_sources_that_are_none(text):
    with pytest.raises(OptionError):
        resolve(text)


# Zip archives.


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def content_of(state) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": state}, file)
    return file.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_the_zip_that_ngc_gives_is_taken_as_it_is(state, tmp_path, compression):
    path = zipped(
        tmp_path / "files.zip",
        {"nvidia_200821.pth.tar": content_of(state), "README.md": b"read me"},
        compression,
    )
    network, provenance = resolve(str(path)).load(TINY, QUIET)
    assert torch.equal(network.state_dict()[WEIGHT], state[WEIGHT])
    assert (provenance.location, provenance.taken) == (
        str(path),
        "nvidia_200821.pth.tar: state_dict",
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"a.pth": b"1", "b/c.pth": b"2"},
            "is a zip with 2 checkpoints: a.pth, b/c.pth. Unpack it",
        ),
        ({"README": b"1"}, "is a zip with no checkpoint: README. Unpack it"),
        ({"../../a.pth": b"<html>"}, "../../a.pth in "),
        ({"a.pth": bytes(5_000_000)}, "grows from"),
    ],
)
def test_zips_that_are_refused(tmp_path, members, message):
    assert message in failure(zipped(tmp_path / "x.zip", members))


def test_a_compressed_archive_of_pytorchs_is_refused(state, tmp_path):
    with zipfile.ZipFile(io.BytesIO(content_of(state))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert "has compressed tensors" in failure(zipped(tmp_path / "x.pth", members))


def test_an_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.pth": b"secret"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # of the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in failure(path)


def test_a_flipped_bit_in_a_pth_is_found(state, tmp_path):
    path = saved(tmp_path / "x.pth", state)
    content = bytearray(path.read_bytes())
    values = state[WEIGHT].numpy().tobytes()
    content[content.index(values) + 1000] ^= 0x10
    path.write_bytes(content)
    assert "damaged, truncated or no checkpoint: the checksum of x/data/" in failure(path)


def test_a_file_whose_checksums_were_switched_off_is_taken(state, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth", state)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load(path).state_dict()[WEIGHT], state[WEIGHT])


def same_or_refused(content: bytes, path: Path, state) -> None:
    path.write_bytes(content)
    try:
        found = load(path).state_dict()
    except CheckpointError as error:
        assert str(error).isascii() or str(error).replace("\n", "").isprintable()
        return
    assert all(
        torch.equal(found[key], value) for key, value in state.items() if "num_batches" not in key
    )


@pytest.fixture(scope="module")
def file(state):
    return content_of(state)


@settings(max_examples=60)
@given(data=st.data())
def test_any_bit_of_a_pth_may_flip(file, state, tmp_path_factory, data):
    position, bit = data.draw(st.integers(0, len(file) - 1)), data.draw(st.integers(0, 7))
    content = bytearray(file)
    content[position] ^= 1 << bit
    same_or_refused(bytes(content), tmp_path_factory.getbasetemp() / "flipped.pth", state)


@settings(max_examples=60)
@given(data=st.data())
def test_a_pth_may_end_anywhere_or_go_on(file, state, tmp_path_factory, data):
    kept = data.draw(st.integers(1, len(file)))
    same_or_refused(
        file[:kept] + data.draw(st.binary(max_size=100)),
        tmp_path_factory.getbasetemp() / "cut.pth",
        state,
    )


@pytest.fixture(scope="module")
def uncovered(state):
    """Files, or the pickle of one, whose bytes no checksum covers."""
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(content_of(state))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    return (
        {
            "legacy.pth": legacy.getvalue(),
            "x.safetensors": safetensors.torch.save(state),
            "zip.pth": members.pop(pickled),
        },
        members,
        pickled,
    )


@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data(), name=st.sampled_from(["legacy.pth", "x.safetensors", "zip.pth"]))
def test_bytes_that_no_checksum_covers(uncovered, tmp_path_factory, data, name):
    """Other values cannot be told from right ones; anything else is refused in one error."""
    files, members, pickled = uncovered
    content = bytearray(files[name])
    # Where the description of the tensors is, and not their values.
    for _ in range(data.draw(st.integers(1, 3))):
        position, count = (
            data.draw(st.integers(0, min(len(content), 20_000) - 1)),
            data.draw(st.integers(0, 4)),
        )
        content[position : position + count] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    if name == "zip.pth":
        zipped(path, members | {pickled: bytes(content)}, zipfile.ZIP_STORED)
    try:
        found = load(path)
    except CheckpointError as error:
        assert str(error).replace("\n", "").isprintable()
        return
    assert all(
        tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all())
        for tensor in found.parameters()
    )


STARTS = [b"", b"\x80\x02}", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n", b"\x80\x04\x95"]


@settings(max_examples=150)
@given(
    pickled=st.binary(max_size=200),
    start=st.sampled_from(STARTS),
)
def test_any_bytes_may_be_the_pickle(tmp_path_factory, pickled, start):
    path = zipped(
        tmp_path_factory.getbasetemp() / "noise.pth",
        {"x/data.pkl": start + pickled, "x/version": b"3\n"},
        zipfile.ZIP_STORED,
    )
    with pytest.raises(CheckpointError):
        load(path)
    path.write_bytes(start + pickled + b"x")
    with pytest.raises(CheckpointError):
        load(path)


tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(
        [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    ),
)
keys = st.sampled_from(
    [
        "state_dict",
        "model",
        "ema",
        "model_ema",
        "module.fc.weight",
        "fc.weight",
        "epoch",
        "layer1.0.bn1.bias",
    ]
) | st.text(max_size=8)
leaves = (
    tensors
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
contents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(content=contents, ema=st.booleans(), zipped=st.booleans())
def test_any_content_is_refused_in_one_error(tmp_path_factory, content, ema, zipped):
    path = saved(
        tmp_path_factory.getbasetemp() / "any.pth", content, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError) as error:
        resolve(str(path), ema=ema).load(TINY, QUIET)
    assert str(error.value).replace("\n", "").isprintable()


# Bombs. Each is a few kilobytes. One process with a memory limit opens all of them.

GLOBAL = b"\x80\x02c%s\n%s\n"


def torch_zip(path, pickled: bytes, storage: bytes = b"1234"):
    return zipped(
        path, {"x/data.pkl": pickled, "x/version": b"3\n", "x/data/0": storage}, zipfile.ZIP_STORED
    )


def claimed(elements: int) -> bytes:
    """A pickle of one tensor with a storage of so many floats."""
    number = b"\x8a\x08" + elements.to_bytes(8, "little")
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number + b"tQ"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00("
        + number
        + b"t(K\x01t\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}U\x01x" + call + b"s."


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"U\x07storage", b"U\x07strange", "no storage"),
        (b"ctorch\nFloatStorage\n", b"U\x01x", "no storage"),
        (b"\x8a\x08" + (1).to_bytes(8, "little"), b"U\x01x", "a storage's length is no length"),
    ],
)
def test_a_storage_that_is_none_is_told(tmp_path, old, new, why):
    path = torch_zip(tmp_path / "x.pth", claimed(1).replace(old, new, 1))
    assert why in failure(path)


def bombs(folder: Path) -> None:
    hundred_gb = b"\x8a\x06" + (10**11).to_bytes(6, "little")
    torch_zip(
        folder / "bytearray.pth", GLOBAL % (b"builtins", b"bytearray") + hundred_gb + b"\x85R."
    )
    torch_zip(folder / "tensor.pth", GLOBAL % (b"torch", b"Tensor") + hundred_gb + b"\x85R.")
    torch_zip(folder / "storage.pth", GLOBAL % (b"torch", b"FloatStorage") + hundred_gb + b"\x85R.")
    torch_zip(folder / "scalar.pth", GLOBAL % (b"numpy", b"dtype") + b"U\x0bV2000000000\x85R.")
    torch_zip(folder / "memo.pth", b"\x80\x02}r\xff\xff\xff\x7f.")
    torch_zip(folder / "string.pth", b"\x80\x04\x8e\x00\x00\x00\x00\x10\x00\x00\x00abc.")
    torch_zip(folder / "frame.pth", b"\x80\x04\x95\x00\x00\x00\x00\x10\x00\x00\x00abc.")
    torch_zip(folder / "claim.pth", claimed(25_000_000_000))
    torch_zip(folder / "tuples.pth", b"\x80\x02})" + b"\x85" * 300_000 + b"K\x00s.")
    torch_zip(folder / "lists.pth", b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".")
    torch_zip(
        folder / "dicts.pth", b"\x80\x02" + b"}U\x05model" * 100_000 + b"}" + b"s" * 100_000 + b"."
    )
    torch_zip(folder / "long.pth", b"\x80\x02" + b"]" * (5 << 20))
    magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    system = pickle.dumps({"little_endian": True}, 2)
    (folder / "legacy.pth").write_bytes(
        magic + protocol + system + claimed(25_000_000_000) + pickle.dumps(["0"], 2) + bytes(100)
    )
    (folder / "memo-legacy.pth").write_bytes(
        magic + protocol + system + b"\x80\x02}r\xff\xff\xff\x7f."
    )
    zipped(
        folder / "deflated.pth",
        {"x/data.pkl": b"\x80\x02}.", "x/version": b"3\n", "x/data/0": bytes(20_000_000)},
    )
    zipped(folder / "inner.zip", {"x.pth": bytes(20_000_000)})
    header = json.dumps(
        {"x": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}
    ).encode()
    (folder / "claim.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(100)
    )
    torch_zip(folder / "members.pth", claimed(500_000_000))
    lie = bytearray((folder / "members.pth").read_bytes())
    size = lie.rindex(b"PK\x01\x02") + 24  # of the storage
    lie[size : size + 4] = b"\xff\xff\xff\x7f"
    (folder / "lie.pth").write_bytes(lie)
    many = io.BytesIO()
    torch.save(
        {f"{'a.' * 90}{n}": torch.zeros(1) for n in range(3000)} | {"a." * 100_000: torch.zeros(0)},
        many,
    )
    (folder / "names.pth").write_bytes(many.getvalue())


OPEN_ALL = """
import json, resource, sys
from pathlib import Path
from seresnext101_triton.export.errors import CheckpointError
from seresnext101_triton.export.weights import resolve
from tests.conftest import QUIET, TINY
import safetensors, torch
def taken():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = taken() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        resolve(str(path)).load(TINY, QUIET)
    except CheckpointError as error:
        print(json.dumps([path.name, str(error)]), flush=True)
"""


def test_bombs_are_refused_in_bounded_memory(tmp_path):
    bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, str(tmp_path)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert sorted(found) == sorted(os.listdir(tmp_path))
    assert (
        "claims 100000000000 bytes" in found["claim.pth"]
        and "claims 100000000000 bytes" in found["legacy.pth"]
    )
    assert "a member claims another length than it has" in found["lie.pth"]
    assert "longer than 4 MB" in found["long.pth"]
    assert "holds a bytearray, not a state dict" in found["bytearray.pth"]
    assert all(len(message) < 600_000 for message in found.values())


def test_names_with_control_characters_do_not_reach_a_terminal(state, tmp_path):
    assert "\x1b" not in failure(
        saved(tmp_path / "x.pth", state | {"\x1b[31mred\n": torch.zeros(1)})
    )
    assert "\x1b" not in failure(saved(tmp_path / "y.pth", {"\x1b[31mred\n": 1}))


def test_the_checksum_is_zips_own(file):
    """What the test of flipped bits stands on: PyTorch writes a CRC of every member."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert all(zlib.crc32(archive.read(info)) == info.CRC for info in archive.infolist())
