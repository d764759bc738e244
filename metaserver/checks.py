"""What comes into the MetaServer is checked before a transaction begins: names, limits, and that fragments join up."""

from __future__ import annotations

import re
from collections.abc import Sequence

from metaserver.interface import FRAGMENTS_MAX, LIST_MAX, Fragment
from wire.errors import BadRequest

NAME_BYTES_MAX = 512
PATH_BYTES_MAX = 1024  # PostgreSQL's index entries end at 2.7 kB
FID_MAX = 2**63 - 1  # SQL integers are signed
FILE_ID_MAX = 2**63 - 1
SIZE_MAX = 2**62

_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-zA-Z=_-]{1,256}")


def check_name(what: str, value: str, *, empty: bool = False, bytes_max: int = NAME_BYTES_MAX) -> None:
    """Raises BadRequest unless `value` can be kept as text by every database and its index."""
    if not value and not empty:
        raise BadRequest(f"{what} is empty")
    if "\0" in value:
        raise BadRequest(f"{what} holds a zero byte")
    try:
        length = len(value.encode())
    except UnicodeEncodeError as error:
        raise BadRequest(f"{what} is not valid Unicode") from error
    if length > bytes_max:
        raise BadRequest(f"{what} has {length} bytes; at most {bytes_max} are allowed")


def check_path(path: str) -> None:
    """Raises BadRequest unless `path` is names joined by single slashes, without one at either end."""
    check_name("the path", path, bytes_max=PATH_BYTES_MAX)
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise BadRequest(f"the path {path!r} has an empty part, '.' or '..'")


def check_prefix(prefix: str) -> None:
    """A directory to list: a path, or "" for the root."""
    if prefix:
        check_path(prefix)


def check_digest(digest: str) -> None:
    """Raises BadRequest unless `digest` is "<algorithm>:<hex>": its parts become parts of a path."""
    if not _DIGEST.fullmatch(digest):
        raise BadRequest(f"{digest[:100]!r} is not a digest")


def content_path(directory: str, digest: str) -> str:
    """Path of the file that holds the blob or manifest `digest`: <directory>/<algorithm>/<hex>."""
    algorithm, _, encoded = digest.partition(":")
    return f"{directory}/{algorithm}/{encoded}"


def check_limit(limit: int) -> None:
    if not 1 <= limit <= LIST_MAX:
        raise BadRequest(f"limit {limit} is not in 1..{LIST_MAX}")


def check_file_id(file_id: int) -> None:
    if not 0 <= file_id <= FILE_ID_MAX:
        raise BadRequest(f"{file_id} is not a file id")


def check_fragments(fragments: Sequence[Fragment], start: int) -> int:
    """The size after `fragments`, which continue a file of `start` bytes. Raises BadRequest for gaps and impossible
    values."""
    if len(fragments) > FRAGMENTS_MAX:
        raise BadRequest(f"{len(fragments)} fragments in one call; at most {FRAGMENTS_MAX} are allowed")
    if not 0 <= start <= SIZE_MAX:
        raise BadRequest(f"{start} is not a size")
    end = start
    for fragment in fragments:
        if fragment.offset != end:
            raise BadRequest(f"the fragment of chunk {fragment.fid} begins at {fragment.offset}, not at {end}")
        if not 0 < fragment.length < 2**32:
            raise BadRequest(f"the fragment of chunk {fragment.fid} has the length {fragment.length}")
        if not (0 < fragment.fid <= FID_MAX and 0 <= fragment.group_id < 2**31 and 0 <= fragment.crc32c < 2**32):
            raise BadRequest(f"fid {fragment.fid}, group {fragment.group_id} or CRC {fragment.crc32c} is out of range")
        end += fragment.length
    if end > SIZE_MAX:
        raise BadRequest(f"a file of {end} bytes is too large")
    if len({fragment.fid for fragment in fragments}) != len(fragments):
        raise BadRequest("a chunk is named twice")
    return end
