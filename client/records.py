"""Files of answers that can be interrupted at any moment and gone on with: JSON lines, or a folder of Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from client.errors import ClientError, OutputError

Record = dict[str, Any]  # image, model, version, and predictions or error
PARQUET = ".parquet"
_ROWS = 10_000  # of one Parquet file; they are in memory until it is written
_PART = "part-{:05}" + PARQUET


class Records(Protocol):
    """A place for answers that knows what it holds already."""

    def __enter__(self) -> Records: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def images(self, model: str) -> set[str]:
        """The images that it holds.

        Raises:
            OutputError: It holds something else, or answers of another model, or cannot be read.
        """

    def append(self, record: Record) -> None:
        """Add one answer.

        Raises:
            OSError: It cannot be written; what was written before is whole.
        """


def records_at(path: Path) -> Records:
    """JSON lines, or Parquet where the name ends in `.parquet`.

    Raises:
        ClientError: Parquet needs pyarrow, and it is not installed.
    """
    return _Parquet(path) if path.suffix == PARQUET else _JsonLines(path)


class _JsonLines:
    """One line for each answer, in the file as soon as it is given."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def images(self, model: str) -> set[str]:
        if not self._path.exists():
            return set()
        found = set()
        whole = 0
        with _reading(self._path):
            for line in self._whole_lines():
                entry = json.loads(line)
                _of_model(self._path, entry["model"], model)
                found.add(entry["image"])
                whole += len(line)
            with self._path.open("r+b") as file:
                file.truncate(whole)  # a last line that was cut off
        return found

    def _whole_lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def __enter__(self) -> _JsonLines:
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Parquet:
    """A folder of Parquet files, which every reader of Parquet takes as one table.

    A Parquet file cannot be added to, so that answers are kept until a file is full or the run ends, and the file appears whole. What a
    kill takes with it is asked again.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ClientError(
                f"Parquet needs pyarrow, which cannot be used here ({error}): pip install 'pyarrow<23', or name a file that ends in .jsonl"
            ) from None
        self._arrow = pyarrow
        self._folder = folder
        self._rows: list[Record] = []
        prediction = pyarrow.struct([("index", pyarrow.int32()), ("label", pyarrow.string()), ("probability", pyarrow.float32())])
        texts = [(name, pyarrow.string()) for name in ("image", "model", "version", "error")]
        self._schema = pyarrow.schema([*texts, ("predictions", pyarrow.list_(prediction))])

    def images(self, model: str) -> set[str]:
        found: set[str] = set()
        with _reading(self._folder):
            for path in self._folder.iterdir() if self._folder.exists() else ():
                if path.suffix != PARQUET:
                    continue  # what a kill left of an unfinished one
                table = self._arrow.parquet.read_table(path, columns=["image", "model"])
                for other in set(table["model"].to_pylist()):
                    _of_model(self._folder, other, model)
                found.update(table["image"].to_pylist())
        return found

    def __enter__(self) -> _Parquet:
        self._folder.mkdir(exist_ok=True)
        return self

    def append(self, record: Record) -> None:
        self._rows.append(record)
        if len(self._rows) == _ROWS:
            self._write()

    def __exit__(self, *_: object) -> None:
        if self._rows:
            self._write()

    def _write(self) -> None:
        table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
        taken = [path.stem for path in self._folder.glob("part-*" + PARQUET)]
        part = self._folder / _PART.format(max((int(name.split("-")[1]) for name in taken), default=-1) + 1)
        unfinished = part.with_suffix(".unfinished")
        try:
            self._arrow.parquet.write_table(table, unfinished, compression="zstd")
            unfinished.replace(part)
        finally:
            unfinished.unlink(missing_ok=True)
        self._rows = []


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what can be wrong with earlier answers into one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):  # pyarrow's ArrowInvalid is a ValueError
        raise OutputError(f"{path} holds something else than the answers of an earlier run: name another file") from None


def _of_model(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise OutputError(f"{path} holds answers of {found}, not of {wanted}: name another file")
