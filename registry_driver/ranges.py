"""Byte ranges of requests: `Range` for reading (RFC 9110, 14) and the registry's own `Content-Range` for writing
(distribution-spec, chunks)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wire.errors import BadRequest, RangeNotSatisfiable

#: More ranges than this in one request are answered with the whole blob. Pullers of partial layers ask for up to 1,024.
RANGES_MAX: Final = 1024
_HEADER_CHARS_MAX = 64 * 1024
_DIGITS_MAX = 19  # below 2**63

# Numbers beyond every content are still numbers: what they ask for is clamped, or is not there.
_ONE = re.compile(r"([0-9]{0,100})-([0-9]{0,100})")
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/(?:\*|[0-9]{1,19}))?")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, start + length), length > 0."""

    start: int
    length: int

    @property
    def last(self) -> int:
        return self.start + self.length - 1


class ContentRangeInvalid(BadRequest):
    code = "content_range_invalid"


def parse_range(header: str | None, size: int) -> list[ByteRange] | None:
    """The satisfiable parts of a file of `size` bytes that a Range header asks for; None where the whole file is the
    answer.

    Headers of another unit or form are ignored, as RFC 9110 wants it, and so are those that ask for more ranges than
    RANGES_MAX or for more bytes than there are (overlaps): these would cost more than the file itself. An empty file is
    always the answer as a whole: whoever asks for its beginning would take 416 for a fault. Raises
    RangeNotSatisfiable (details: size) when no part can be had, and also for a range that ends before it begins: a
    client that sends it would take the whole file for what it asked for.
    """
    if header is None or size == 0 or len(header) > _HEADER_CHARS_MAX:
        return None
    unit, _, asked = header.partition("=")
    parts = [part for part in (part.strip(" \t") for part in asked.split(",")) if part]
    if unit.lower() != "bytes" or not 0 < len(parts) <= RANGES_MAX:
        return None
    found: list[ByteRange] = []
    for part in parts:
        match = _ONE.fullmatch(part)
        if match is None:
            return None
        first, last = match.groups()
        if first == "" and last == "":
            return None
        start, end = (
            (max(0, size - int(last)), size)
            if first == ""
            else (int(first), min(size, int(last) + 1) if last else size)
        )
        if start < end:
            found.append(ByteRange(start, end - start))
    if not found:
        raise RangeNotSatisfiable(f"the content has {size} bytes", size=size)
    if len(found) > 1 and sum(part.length for part in found) > size:
        return None
    return found


def parse_content_range(header: str | None) -> ByteRange | None:
    """What an upload's `Content-Range: a-b` (also `bytes a-b/*`) says; None without the header. Raises
    ContentRangeInvalid."""
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip(" \t")) if len(header) <= 3 * _DIGITS_MAX + 16 else None
    if match is None:
        raise ContentRangeInvalid("Content-Range of an upload is <first>-<last>, both inclusive")
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise ContentRangeInvalid("Content-Range ends before it begins")
    return ByteRange(first, last - first + 1)
