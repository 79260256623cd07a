"""Pickles of checkpoints, read without building any object that is not plain data.

`torch.load(weights_only=True)` runs no code, but it allocates whatever a pickle names:
`bytearray(10**11)`, a tensor of 100 GB. Here a tensor becomes a `Stored`, which is judged before it
is read, and every other object becomes an `Inert`.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ClassVar, NoReturn

from seresnext101_triton.export.weights.stored import Storage, Stored, strided

# A pickle describes each tensor in some 300 bytes: the network, its averages and an optimizer's
# state take 1 MB.
MAX_BYTES = 4 << 20
_LONGEST_LINE = 4096

_ITEM_SIZES = {
    **dict.fromkeys(
        (
            "int8",
            "uint8",
            "bool",
            "qint8",
            "quint8",
            "quint4x2",
            "quint2x4",
            "float8_e4m3fn",
            "float8_e5m2",
        ),
        1,
    ),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "qint32", "complex32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
    "Untyped": "uint8",
}
# What training scripts store beside the weights. Any other name is taken for code, and the file is
# refused.
_DATA = re.compile(
    r"collections\.(OrderedDict|Counter|defaultdict)|argparse\.Namespace|pathlib\.\w*Path"
    r"|datetime\.\w+|_codecs\.encode"
    r"|builtins\.(bytearray|set|frozenset|complex|list|dict|int|float|str)"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|torch\.(cuda\.)?\w+Storage|torch\.storage\.\w+Storage|torch\.serialization\._get_layout"
    r"|torch\.(Size|device|Tensor|nn\.parameter\.Parameter)"
    r"|torch\.(_tensor\._rebuild_from_type_v2|_utils\._rebuild_\w+)"
    r"|torch\.(bool|half|double|long|(u|q|qu)?int\w+|b?float\w*|complex\w+)"
    r"|torch\.per_(tensor|channel)_\w+"
)
_KINDS = {
    "sparse": "sparse",
    "qtensor": "quantised",
    "meta": "meta, without values",
    "nested": "nested",
    "wrapper_subclass": "a tensor subclass",
    "device_tensor": "of another device",
}


class CodeError(Exception):
    """A pickle names a class or a function that is no plain data."""


@dataclass(frozen=True, eq=False, slots=True)
class Inert:
    """An object that was not built.

    Attributes:
        name: Its class, or the function that would have made it.
    """

    name: str

    def _ignore(self, *_: object) -> None:
        """What a pickle does to it has no effect."""

    __setitem__ = append = extend = add = _ignore


class _Tuple(tuple[Any, ...]):
    """A tuple that cannot be a key.

    Hashing deeply nested tuples would overflow the stack and end the process.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False, slots=True)
class _Global:
    """A class or function that a pickle names. Calling it calls nothing."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        make = _MAKERS.get(self.name.rpartition(".")[2]) if self.name.startswith("torch.") else None
        if make:
            return make(*arguments)
        kind = next(
            (
                kind
                for word, kind in _KINDS.items()
                if self.name.startswith("torch._utils.") and word in self.name
            ),
            None,
        )
        return Stored(kind, (), "has no plain values") if kind else Inert(self.name)


class Reader(pickle._Unpickler):
    """Reads one pickle after the other from a file.

    The Python implementation of `pickle`, because the one in C allocates a memo of the length that
    a pickle names.

    Args:
        file: Where the pickles are.
        storage: Where the bytes of tensors are: from a key and a number of bytes to a function that
            reads them.

    Raises:
        CodeError: From `load`: a name in the pickle is no plain data.
        Exception: From `load`: anything, where the file is damaged.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: IO[bytes], storage: Callable[[Any, int], Callable[[], bytearray]]
    ) -> None:
        super().__init__(_LimitedFile(file), encoding="latin-1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if not _DATA.fullmatch(path):
            raise CodeError(path)
        return OrderedDict if path == "collections.OrderedDict" else _Global(path)

    def persistent_load(self, identity: Any) -> Any:
        """A storage: `("storage", class, key, device, elements[, view])`."""
        word, kind, key, _, elements, *view = identity
        if (
            word not in ("storage", b"storage")
            or not isinstance(kind, _Global)
            or (view and view[0] is not None)
        ):
            raise ValueError("no storage")
        dtype = _STORAGES[kind.name.rpartition(".")[2].removesuffix("Storage")]
        if type(elements) is not int or not 0 <= elements < 1 << 60:
            raise ValueError("a storage's length is no length")
        itemsize = _ITEM_SIZES[dtype]
        return Storage(dtype, elements, itemsize, self._storage(key, elements * itemsize))


def _call(reader: Any) -> None:
    arguments = reader.stack.pop()
    reader.stack[-1] = reader.stack[-1](*arguments)


def _set_state(reader: Any) -> None:
    reader.stack.pop()  # the state of an object that was not built


def _refuse(_: Any) -> NoReturn:
    raise ValueError("an opcode that no checkpoint has")


def _unhashable(make_tuple: Callable[[Any], None]) -> Callable[[Any], None]:
    def load(reader: Any) -> None:
        make_tuple(reader)
        reader.stack[-1] = _Tuple(reader.stack[-1])

    return load


Reader.dispatch |= {pickle.NEWOBJ[0]: _call, pickle.BUILD[0]: _set_state}
Reader.dispatch |= {
    code[0]: _refuse
    for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4)
}
Reader.dispatch |= {
    code[0]: _unhashable(Reader.dispatch[code[0]])
    for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
}


class _LimitedFile:
    """A file of which only `MAX_BYTES` can be read.

    Objects in memory are some 60 times as large as the pickle that names them.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MAX_BYTES

    def read(self, count: int) -> bytes:
        return self._counted(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(_LONGEST_LINE))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"its pickle is longer than {MAX_BYTES >> 20} MB")
        return data


def _strided(storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> Stored:
    if len(rest) > 2 and rest[2]:  # a conjugate or a negative that was not resolved
        return Stored(
            storage.dtype, tuple(shape), "is a lazy conjugate or negative: save tensor.clone()"
        )
    return strided(storage, offset, shape, stride)


def _untyped(storage: Storage, offset: int, *arguments: Any) -> Stored:
    shape, stride, grad, hooks, dtype, *rest = arguments
    name = dtype.name.removeprefix("torch.")
    itemsize = _ITEM_SIZES[name]
    elements = storage.elements * storage.itemsize // itemsize
    typed = Storage(name, elements, itemsize, storage.read)
    return _strided(typed, offset, shape, stride, grad, hooks, *rest)


def _first_argument(tensor: Stored, *_: Any) -> Stored:
    return tensor


def _apply(function: _Global, _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments)


_MAKERS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _strided,
    "_rebuild_tensor_v2": _strided,
    "_rebuild_tensor_v3": _untyped,
    "_rebuild_parameter": _first_argument,
    "_rebuild_parameter_with_state": _first_argument,
    "Parameter": _first_argument,
    "_rebuild_from_type_v2": _apply,
}
