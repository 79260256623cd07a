"""URLs of checkpoints: which are valid, how they are shown, and what their files are called."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from seresnext101_triton.export.errors import OptionError

NGC_URL = (
    "https://api.ngc.nvidia.com/v2/models/nvidia/seresnext101_32x4d_pyt_amp/versions/20.06.0/files/"
    "nvidia_se-resnext101-32x4d_200821.pth.tar"
)
_SECRET = re.compile(
    r"sig|token|key|secret|pass|pwd|cred|auth|policy|session|jwt|code"
    r"|^x-(amz|goog|ms)-|^(se|sv|sp|sr|st)$",
    re.IGNORECASE,
)
_LONGEST_VALUE = 40  # a value that is longer is a signature, whatever it is called
_HIDDEN = "***"
_LONGEST_NAME = 100


def check_url(url: str) -> str:
    """The URL, if it names a host.

    Raises:
        OptionError: It does not, or has characters that no URL has.
    """
    try:
        parts = urlsplit(url)
        usable = (
            bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        usable = False
    if not usable:
        raise OptionError(
            f"`weights` {public(url)!r} is no URL of a file: it has no host, a bad port or blanks"
        )
    return url


def public(url: str) -> str:
    """A URL without what lets others in: no user and password, and no tokens and signatures."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.split(r"[?#@]", url)[0]
    shown = "&".join(map(_without_secret, parts.query.split("&")))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, shown, ""))


def _without_secret(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return _HIDDEN if len(name) > _LONGEST_VALUE else name
    return (
        f"{name}={_HIDDEN}"
        if _SECRET.search(unquote(name)) or len(value) > _LONGEST_VALUE
        else parameter
    )


def cache_name(url: str) -> str:
    """What the file at a URL is called in the cache: another name for every URL.

    NVIDIA's own file keeps the name that torch.hub gives it, so that what torch.hub has downloaded
    is not downloaded again.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if url == NGC_URL:
        return name
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-_LONGEST_NAME:] or "checkpoint"
    return f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{plain}"


def digests(headers: Mapping[str, str], *, whole: bool) -> dict[str, str]:
    """The digests of a file that a server gives in its headers, in hexadecimal, by algorithm.

    `Repr-Digest` and `Content-Digest` are RFC 9530, `Digest` is RFC 3230, `Content-MD5` is RFC
    1864; the others are Google's and Amazon's storage. An ETag is none: it is an MD5 of some files
    and not of others.

    Args:
        headers: Of the answer, by names in any case.
        whole: Whether the answer was the whole file, and not its rest.
    """
    found: dict[str, str] = {}
    fields = ["Repr-Digest", "Digest", *(["Content-Digest"] if whole else [])]
    for field in fields:
        for name, value in re.findall(
            r"([A-Za-z0-9-]+)=:?([A-Za-z0-9+/]+=*)", headers.get(field, "")
        ):
            _add_digest(found, name.lower().replace("sha-", "sha"), value)
    if whole:
        _add_digest(found, "md5", headers.get("Content-MD5", ""))
    _add_digest(found, "sha256", headers.get("x-amz-checksum-sha256", ""))
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        for value in re.findall(r"md5=([A-Za-z0-9+/]+=*)", headers.get("x-goog-hash", "")):
            _add_digest(found, "md5", value)
    return found


def _add_digest(found: dict[str, str], algorithm: str, value: str) -> None:
    """Note a digest, if it is one: of a known algorithm and its length."""
    lengths = {"md5": 16, "sha256": 32, "sha512": 64}
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return
    if len(digest) == lengths.get(algorithm):
        found.setdefault(algorithm, digest.hex())
