"""An object store that holds a model repository: Amazon S3 and what speaks it, Google's, Azure's.

Every object is written whole or not at all, by one request. No part of an upload that was killed is
left in the store. A write may have a condition, which the store itself checks, so that of two
writers one learns that it came too late.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from seresnext101_triton import as_typed
from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.client.objects import meaning, names_bucket
from seresnext101_triton.server.errors import InstallationError, StoreError

SCHEMES = ("s3", "gs", "az")
_CLIENT = {
    "allow_http": True,  # only an endpoint that was named with http:// is asked so
    "connect_timeout": "5s",
    "timeout": "3600s",  # of one object: an artifact may have gigabytes
}
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}

Done = TypeVar("Done")


@dataclass(frozen=True)
class Read:
    """The content of an object, and the mark by which a later write names this content."""

    content: bytes
    mark: Mapping[str, Any]


def is_url(text: str) -> bool:
    """Whether a repository is named by the URL of an object store, `s3://BUCKET/PATH`."""
    return "://" in text


class Store:
    """The objects below one URL.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `az://CONTAINER/PATH`. Credentials and
            endpoints come from the environment, and no message holds them.

    Raises:
        UsageError: The URL is not one of these.
        InstallationError: The package `obstore` is not installed.
        StoreError: The environment lacks what the store needs.
    """

    def __init__(self, url: str) -> None:
        self.url = checked(url)
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise InstallationError(
                as_typed(
                    f"{url} needs the package obstore, for Python 3.11 and later: "
                    "pip install '.[s3]'"
                )
            ) from None
        self._obstore = obstore
        options: dict[str, Any] = {"client_options": _CLIENT, "retry_config": _RETRIES}
        self._store: Any = self._explained(lambda: from_url(url, **options))

    def read(self, path: str) -> Read | None:
        """An object; None if there is none.

        Raises:
            StoreError: The store cannot be read, or there is no such bucket.
        """

        def get() -> Read | None:
            try:
                found = self._obstore.get(self._store, path)
            except FileNotFoundError as error:
                if names_bucket(str(error)):
                    raise
                return None
            mark = {name: found.meta.get(name) for name in ("e_tag", "version")}
            return Read(bytes(found.bytes()), mark)

        return self._explained(get)

    def has_changed(self, path: str, mark: Mapping[str, Any] | None) -> bool:
        """Whether an object is another one than the one with this mark; None is for no object.

        Raises:
            StoreError: The store cannot be read.
        """

        def head() -> Mapping[str, Any] | None:
            try:
                found = self._obstore.head(self._store, path)
            except FileNotFoundError:  # such an answer has no text, so it may be the bucket
                return None
            return {name: found.get(name) for name in ("e_tag", "version")}

        return self._explained(head) != mark

    def create(self, path: str, content: bytes | Path) -> Mapping[str, Any] | None:
        """Write an object that is not there yet. Return its mark; None if it is there.

        Raises:
            StoreError: The store cannot be written.
        """
        return self._put(path, content, "create")

    def replace(
        self, path: str, content: bytes, mark: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Replace an object whose content was read. Return its mark; None if it has changed.

        Raises:
            StoreError: The store cannot be written.
        """
        return self._put(path, content, {name: each for name, each in mark.items() if each})

    def write(self, path: str, content: bytes) -> None:
        """Write an object, whatever is there.

        Raises:
            StoreError: The store cannot be written.
        """
        self._put(path, content, "overwrite")

    def digest(self, path: str, into: Path | None = None) -> str:
        """The sha256 of an object, read from the store; empty if there is none.

        Args:
            path: The object.
            into: A file that gets the content.

        Raises:
            StoreError: The store cannot be read.
            OSError: The file cannot be written.
        """

        def get() -> str:
            try:
                blocks = self._obstore.get(self._store, path)
            except FileNotFoundError as error:
                if names_bucket(str(error)):
                    raise
                return ""
            found = hashlib.sha256()
            with (into or Path(os.devnull)).open("wb") as file:
                for block in blocks:
                    found.update(block)
                    file.write(block)
            return found.hexdigest()

        return self._explained(get)

    def remove(self, path: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StoreError: The store cannot be written.
        """

        def delete() -> None:
            try:
                self._obstore.delete(self._store, path)
            except FileNotFoundError as error:
                if names_bucket(str(error)):
                    raise

        self._explained(delete)

    def _put(self, path: str, content: bytes | Path, mode: Any) -> Mapping[str, Any] | None:
        def put() -> Mapping[str, Any] | None:
            exceptions = self._obstore.exceptions
            try:
                # In parts, a kill would leave parts that cost money and that no listing shows.
                return dict(
                    self._obstore.put(self._store, path, content, mode=mode, use_multipart=False)
                )
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                # A write whose answer was lost is tried again, and finds itself.
                found = self.read(path) if isinstance(content, bytes) else None
                return found.mark if found and found.content == content else None
            except FileNotFoundError as error:
                if isinstance(mode, dict) and not names_bucket(str(error)):
                    return None  # what should be replaced is gone
                raise

        return self._explained(put)

    def _explained(self, call: Callable[[], Done]) -> Done:
        """Call, and say in one line what an error of the store means.

        Raises:
            StoreError: In the place of the error of `obstore`.
        """
        exceptions = self._obstore.exceptions
        try:
            return call()
        except (exceptions.BaseError, FileNotFoundError) as error:
            text = str(error)
            if isinstance(error, FileNotFoundError) and error.errno is not None:
                raise  # it is of this machine's file system
            refused = isinstance(
                error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
            )
            raise StoreError(f"{self.url}: {meaning(text, refused=refused)}") from None


def checked(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        UsageError: It does not name a place in an object store.
    """
    scheme, _, place = url.partition("://")
    bucket, *parts = place.rstrip("/").split("/")
    if scheme not in SCHEMES or not bucket or not all(parts) or re.search(r"[@?#\s]", place):
        raise UsageError(
            f"`repository` {url!r} is not the URL of an object store: "
            "name s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
        )
    return url.rstrip("/")
