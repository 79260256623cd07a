"""Finds and reads images in object stores: Amazon S3 and what speaks it, Google's, Azure's.

Credentials and endpoints come from the environment, and no message holds them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from seresnext101_triton import as_typed
from seresnext101_triton.client.errors import ClientError, ImageError, ObjectStoreError
from seresnext101_triton.client.text import reason, shortened

# Where the stores' own software asks for credentials if the environment has none.
_METADATA = ("169.254.169.254", "169.254.170", "metadata.google", "latest/api/token")
_LISTING_S = 30.0  # the longest time of one page of a listing

Done = TypeVar("Done")


def listed(url: str) -> Iterator[str]:
    """The names of all objects below a URL, without that URL, in the order of the store.

    Only one page of the listing is in memory at a time.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `az://CONTAINER/PATH`.

    Raises:
        ObjectStoreError: The store cannot be read.
        ClientError: The package `obstore` is not installed.
    """
    bucket, prefix = _split(url)
    pages = _explained(url, lambda: iter(_obstore(url).list(_store(bucket, _LISTING_S), prefix)))
    while page := _explained(url, lambda: next(pages, None)):
        for found in page:
            yield found["path"][len(prefix) :].lstrip("/")


def fetch(url: str, max_bytes: int, timeout_s: float) -> bytes:
    """The content of one object.

    Args:
        url: The object.
        max_bytes: A larger object is not read.
        timeout_s: The longest time for one attempt, and for all of them, in seconds.

    Raises:
        ImageError: It is missing or larger, the store cannot be read, or the package `obstore` is
            not installed.
    """
    name = shortened(url)
    bucket, path = _split(url)
    try:
        obstore = _obstore(name)
        found = _explained(name, lambda: obstore.get(_store(bucket, timeout_s), path))
        if found.meta["size"] > max_bytes:
            raise ImageError(f"{name} is refused: it has more than {max_bytes} bytes")
        return bytes(_explained(name, found.bytes))
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist") from error
    except ImageError:
        raise
    except ClientError as error:
        raise ImageError(str(error)) from error


def names_bucket(text: str) -> bool:
    """Whether a store said that the bucket is missing, and not the object."""
    return any(
        each in text for each in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
    )


def meaning(text: str, *, refused: bool) -> str:
    """What an error of a store means and what to do.

    It holds no address that could hold a signature.

    Args:
        text: What the store said.
        refused: Whether it said that this user may not do it.
    """
    if names_bucket(text):
        return "there is no such bucket: create it, or name another one"
    if any(each in text for each in _METADATA) or "must be specified" in text:
        return (
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_ACCOUNT_NAME and "
            "AZURE_STORAGE_ACCOUNT_KEY"
        )
    if refused or re.search(r"status code: 40[13]", text):
        return (
            "access is denied: the credentials must be valid, and may list this bucket and read "
            "objects below this path; those who publish models there also write and delete them"
        )
    if "HTTP error" in text:
        return (
            "the store does not answer: look at the network, and at AWS_ENDPOINT_URL if it is set"
        )
    if "invalid path" in text:
        return (
            "the name of an object has an empty part, `.`, `..` or a control character between "
            "slashes, which cannot be read: name a path without it, or rename the object"
        )
    first = re.sub(r"https?://\S+", "the store", text.split("\n")[0])
    return f"the store cannot be used: {first}"


def _explained(name: str, call: Callable[[], Done]) -> Done:
    """Call, and say in one line what an error of the store means.

    Raises:
        ObjectStoreError: In the place of the error of `obstore`.
        FileNotFoundError: There is no such object.
    """
    exceptions = _obstore(name).exceptions
    try:
        return call()
    except FileNotFoundError as error:
        if not names_bucket(str(error)):
            raise
        refused, text = False, str(error)
    except ValueError as error:  # a name that `obstore` does not take
        raise ObjectStoreError(f"{name} cannot be read: {reason(error)}") from None
    except exceptions.BaseError as error:
        kinds = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
        refused, text = isinstance(error, kinds), str(error)
    raise ObjectStoreError(f"{name}: {meaning(text, refused=refused)}")


def _split(url: str) -> tuple[str, str]:
    """The URL of the bucket, and the path in it."""
    scheme, _, place = url.partition("://")
    bucket, _, path = place.partition("/")
    return f"{scheme.lower()}://{bucket}", path.strip("/")


@lru_cache(maxsize=64)
def _store(bucket: str, timeout_s: float) -> Any:
    from obstore.store import from_url

    client: Mapping[str, Any] = {
        "allow_http": True,  # only an endpoint that was named with http:// is asked so
        "connect_timeout": f"{min(timeout_s, 5.0)}s",
        "timeout": f"{timeout_s}s",
    }
    retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=timeout_s)}
    return from_url(bucket, client_options=client, retry_config=retries)


def _obstore(name: str) -> Any:
    try:
        import obstore
    except ImportError:
        raise ClientError(
            as_typed(
                f"{name} needs the package obstore, for Python 3.11 and later: pip install '.[s3]'"
            )
        ) from None
    return obstore
