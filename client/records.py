"""Files of answers to which an interrupted run can be continued: JSON lines or Parquet."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from seresnext101_triton.client.errors import ClientError, OutputError
from seresnext101_triton.client.sources import SUFFIXES
from seresnext101_triton.client.text import escaped, json_text, unescaped

# image, model, version, inexact if an option made the input inexact, and predictions or error
Record = dict[str, Any]
PARQUET = ".parquet"
_ROWS = 10_000  # of one Parquet file; they are in memory until the file is written
_PART = re.compile("part-([0-9]{1,18})" + re.escape(PARQUET))
_UNFINISHED = "unfinished"
_BEGINNING = b'{"image": "'  # of every line that this module writes
_LONGEST = 64 << 20  # bytes of a line; 100,000 predictions take a tenth of it
_BOM = b"\xef\xbb\xbf"


class Records(Protocol):
    """A file or folder of answers. While its context is entered, no other run can write to it.

    Attributes:
        unreadable: How many of the records that `images` has read have an error in the place of
            predictions.
    """

    unreadable: int

    def __enter__(self) -> Records:
        """Create or open it.

        Raises:
            OutputError: It cannot be written, is of another kind, or another run writes to it.
        """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write everything to the disk.

        Raises:
            OutputError: It cannot be written, or was removed.
        """

    def images(self, model: str, inexact: Sequence[str]) -> set[str]:
        """The images that have a record.

        Args:
            model: The model whose answers they must be.
            inexact: The options with which the images must have been opened, of those that make
                inputs inexact.

        Raises:
            OutputError: It holds other data, answers of another model or of images that were opened
                otherwise, or cannot be read.
        """

    def append(self, record: Record) -> None:
        """Add one answer.

        Raises:
            OutputError: It cannot be written. Earlier records are complete.
        """


def records_at(path: Path) -> Records:
    """The records at a path: Parquet if its name ends in `.parquet`, else JSON lines.

    Raises:
        ClientError: Parquet needs pyarrow, which is not installed.
        OutputError: The name has the suffix of an image.
    """
    if path.suffix.lower() in SUFFIXES:
        raise OutputError(
            f"{path} is named like a picture: name an output that ends in .jsonl or {PARQUET}"
        )
    return _Parquet(path) if path.suffix == PARQUET else _JsonLines(path)


def predictions_type(probability: Any) -> Any:
    """The Arrow type of the predictions for one image: a list of index, label and probability.

    Args:
        probability: The Arrow type of a probability.
    """
    import pyarrow

    fields = ("index", pyarrow.int32()), ("label", pyarrow.string()), ("probability", probability)
    return pyarrow.list_(pyarrow.struct(fields))


class _JsonLines:
    r"""One line for each answer.

    A line is passed to the system as soon as there is an answer, and is on the disk when the run
    ends. A byte of an image's name that is not UTF-8 is written as JSON's escape of a lone
    surrogate, such as `\udce9`, from which Python's json restores the name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unreadable = 0

    def __enter__(self) -> _JsonLines:
        try:
            # For reading too: opening a FIFO for writing only would wait for a reader.
            self._file = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
        except IsADirectoryError:
            raise OutputError(
                f"{self._path} is a folder: name a file in it, or a folder that ends in {PARQUET}"
            ) from None
        except OSError as error:
            raise _not_opened(self._path, error) from None
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OutputError(
                    f"{self._path} is not a regular file, so that no run could go on with it: "
                    "name a file"
                )
            _lock(self._file, self._path)
        except OutputError:
            os.close(self._file)
            raise
        return self

    def images(self, model: str, inexact: Sequence[str]) -> set[str]:
        found = set()
        whole = 0
        with _reading(self._path), self._path.open("rb") as file:
            for line in _lines(file):
                if not line.endswith(b"\n"):
                    _check_cut_off(line, whole)
                    os.ftruncate(self._file, whole)
                    break
                if text := line.removeprefix(b"" if whole else _BOM).strip():
                    record = json.loads(text.decode())
                    found.add(_image_of(record, self._path, model, inexact))
                    self.unreadable += "error" in record
                whole += len(line)
        return found

    def append(self, record: Record) -> None:
        line = memoryview(json_text(record).encode() + b"\n")
        with _writing(self._path):
            before = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:  # the disk is full: the incomplete line is removed
                os.ftruncate(self._file, before)
                raise

    def __exit__(self, *_: object) -> None:
        try:
            with _writing(self._path):
                os.fsync(self._file)
                if not self._path.exists() or not os.path.samestat(
                    os.fstat(self._file), self._path.stat()
                ):
                    raise OutputError(
                        f"{self._path} was removed or replaced during the run, and its answers "
                        "with it: run again"
                    )
        finally:
            os.close(self._file)


class _Parquet:
    """A folder of Parquet files, which every reader of Parquet takes as one table.

    A Parquet file cannot be extended. So answers stay in memory until a file is full or the run
    ends, and only complete files appear. If the process is killed, these answers are lost, and the
    next run sends their images again. Parquet's strings are UTF-8. Other bytes of a file name are
    written as `seresnext101_triton.client.text.escaped` writes them.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ClientError(
                f"Parquet needs pyarrow, which cannot be used here ({error}): pip install "
                "'pyarrow<23', or name a file that ends in .jsonl"
            ) from None
        self._arrow = pyarrow
        self._folder = folder
        self.unreadable = 0
        self._rows: list[Record] = []
        texts = [(name, pyarrow.string()) for name in ("image", "model", "version", "error")]
        predictions = predictions_type(pyarrow.float32())
        inexact = pyarrow.list_(pyarrow.string())
        self._schema = pyarrow.schema([*texts, ("predictions", predictions), ("inexact", inexact)])

    def __enter__(self) -> _Parquet:
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputError(
                f"{self._folder} is a file, and answers in Parquet are a folder of files: name "
                "another"
            )
        try:
            self._folder.mkdir(exist_ok=True)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _not_opened(self._folder, error) from None
        try:
            _lock(self._lock, self._folder)
        except OutputError:
            os.close(self._lock)
            raise
        return self

    def images(self, model: str, inexact: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with _reading(self._folder):
            for path in sorted(self._folder.iterdir()):
                if path.suffix != PARQUET:
                    continue  # an unfinished file of a killed process
                with path.open("rb") as file:
                    table = self._arrow.parquet.ParquetFile(file)
                    for batch in table.iter_batches(columns=["image", "model", "inexact", "error"]):
                        self.unreadable += len(batch) - batch["error"].null_count
                        found.update(
                            unescaped(_image_of(row, self._folder, model, inexact))
                            for row in batch.to_pylist()
                        )
        return found

    def append(self, record: Record) -> None:
        self._rows.append(
            record | {name: escaped(record[name]) for name in ("image", "error") if name in record}
        )
        if len(self._rows) == _ROWS:
            self._write()

    def __exit__(self, *_: object) -> None:
        try:
            if self._rows:
                self._write()
        finally:
            os.close(self._lock)

    def _write(self) -> None:
        table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
        with _writing(self._folder):
            taken = [
                int(found[1])
                for path in self._folder.iterdir()
                if (found := _PART.fullmatch(path.name))
            ]
            part = self._folder / f"part-{max(taken, default=-1) + 1:05}{PARQUET}"
            unfinished = part.with_suffix(f".{_UNFINISHED}")
            try:
                with unfinished.open("wb") as file:
                    self._arrow.parquet.write_table(table, file, compression="zstd")
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(part)
                os.fsync(self._lock)  # the folder holds the file's name
            finally:
                unfinished.unlink(missing_ok=True)
        self._rows = []


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise ValueError("no answer is as long as this line")
        yield line


def _check_cut_off(line: bytes, whole: int) -> None:
    """Check that the last line is the beginning of a line that this module has written.

    Only such a line may be removed. After a power failure, a file system may leave zeros at the end
    of a file.
    """
    line = line.rstrip(b"\0") if whole else line
    if not line.startswith(_BEGINNING[: len(line)]):
        raise ValueError("the last line was not written by this module")


def _image_of(record: Any, path: Path, wanted: str, inexact: Sequence[str]) -> str:
    image, model, options = record["image"], record["model"], record.get("inexact") or []
    if not isinstance(image, str) or not isinstance(model, str) or not isinstance(options, list):
        raise TypeError("this is not a record of this module")
    if model != wanted:
        raise OutputError(f"{path} holds answers of {model}, not of {wanted}: name another file")
    if set(options) != set(inexact):
        raise OutputError(
            f"{path} holds answers for images that were opened {_with(options)}, not "
            f"{_with(inexact)}: name another file"
        )
    return image


def _with(options: Sequence[str]) -> str:
    return "with " + " and ".join(f"`{name}`" for name in options) if options else "exactly"


def _not_opened(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or error
    if not path.parent.is_dir():
        reason = f"there is no folder {path.parent}"
    return OutputError(f"{path} cannot be written: {reason}. Name another output")


def _lock(file: int, path: Path) -> None:
    """Lock a file against other runs. The lock ends with this process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"another run writes into {path}: wait for its end, or name another output"
        ) from None
    except OSError as error:
        # Some network file systems have no locks. There, a second run at the same time would
        # classify images twice.
        if error.errno not in (
            errno.ENOLCK,
            errno.ENOTSUP,
            errno.ENOSYS,
            errno.EBADF,
            errno.EINVAL,
        ):
            raise OutputError(f"{path} cannot be locked: {error.strerror}") from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the faults of a file of earlier answers into errors of one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # pyarrow's ArrowInvalid is a ValueError
        raise OutputError(
            f"{path} holds something else than the answers of an earlier run: name another file"
        ) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. What it holds is whole; run "
            "again to go on"
        ) from None
