"""What an internal route takes from its request: numbers, values as JSON, checksums. BadRequest names what is wrong."""

from __future__ import annotations

import json
import re
from typing import TypeVar

from flask import request

from wire.body import RequestBody
from wire.errors import BadRequest
from wire.http import CRC_HEADER
from wire.values import from_json

T = TypeVar("T")

#: enough for every unsigned 64-bit number; what is larger than a room can keep, its core refuses
_NUMBER = re.compile(r"[0-9]{1,20}")
_CRC = re.compile(r"[0-9a-fA-F]{8}")


def body_as(kind: type[T], bytes_max: int) -> T:
    """The value of type `kind` in the request's JSON body. Raises PayloadTooLarge too: before a byte is read, if the
    length was announced."""
    raw = RequestBody(request.environ).read_all(bytes_max)
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    return from_json(kind, data)


def number(name: str, text: str) -> int:
    """The whole number that `text`, from a path or a header, is."""
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name}: a whole number is wanted, got {text[:40]!r}")
    return int(text)


def query_text(name: str) -> str:
    value = request.args.get(name)
    if value is None:
        raise BadRequest(f"the query lacks {name}")
    return value


def query_number(name: str, default: int | None = None) -> int:
    """`default` None: it must be there."""
    if default is not None and name not in request.args:
        return default
    return number(name, query_text(name))


def announced_crc32c() -> int:
    """The CRC-32C that the request's payload came with."""
    text = request.headers.get(CRC_HEADER, "")
    if not _CRC.fullmatch(text):
        raise BadRequest(f"a chunk comes with {CRC_HEADER}: its CRC-32C as 8 hexadecimal digits, not {text[:20]!r}")
    return int(text, 16)
