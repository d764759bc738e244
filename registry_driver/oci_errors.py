"""The one translation of errors into the form of the distribution-spec ("Error Codes"): {"errors": [{"code", "message",
"detail"}]}.

The table names the code that a client sees for each class of the error tree, and a status where the API wants another
one than the tree. A class without a line takes the line of its nearest ancestor. What is not of the tree is a defect of
ours: it is logged, and nothing of it is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from werkzeug.exceptions import HTTPException

from registry_driver.manifest_document import ManifestInvalid
from registry_driver.names import DigestInvalid, NameInvalid, TagInvalid
from registry_driver.ranges import ContentRangeInvalid
from registry_driver.registry import UploadInvalid
from wire import errors

#: One entry per missing blob; more of them would only make the answer long.
MISSING_LISTED_MAX: Final = 100
RETRY_AFTER_S: Final = 2
#: to who opens the address in a browser, or left /v2/ out
_OUTSIDE: Final = "nothing is here: this is a container registry, whose API begins at /v2/"


class RouteUnknown(errors.NotFound):
    code = "route_unknown"


class MethodNotAllowed(errors.SpeedyError):
    """details: allow (methods, as the header tells them)."""

    code = "method_not_allowed"
    status = 405


class SizeInvalid(errors.BadRequest):
    code = "size_invalid"


class QueryInvalid(errors.BadRequest):
    code = "query_invalid"


class TooManyTags(errors.BadRequest):
    code = "too_many_tags"
    status = 414


@dataclass(frozen=True, slots=True)
class _Line:
    code: str
    status: int | None = None


_TABLE: Final[Mapping[type[errors.SpeedyError], _Line]] = {
    errors.SpeedyError: _Line("UNKNOWN", 500),
    errors.InternalError: _Line("UNKNOWN"),
    # what clients send
    errors.BadRequest: _Line("UNSUPPORTED"),
    NameInvalid: _Line("NAME_INVALID"),
    TagInvalid: _Line("MANIFEST_INVALID"),
    DigestInvalid: _Line("DIGEST_INVALID"),
    ManifestInvalid: _Line("MANIFEST_INVALID"),
    TooManyTags: _Line("MANIFEST_INVALID"),
    ContentRangeInvalid: _Line("BLOB_UPLOAD_INVALID"),
    UploadInvalid: _Line("BLOB_UPLOAD_INVALID"),
    SizeInvalid: _Line("SIZE_INVALID"),
    QueryInvalid: _Line("UNSUPPORTED"),
    errors.TruncatedBody: _Line("SIZE_INVALID"),
    errors.BodyTimeout: _Line("SIZE_INVALID"),
    errors.DigestMismatch: _Line("DIGEST_INVALID"),
    errors.PayloadTooLarge: _Line("SIZE_INVALID"),
    errors.RangeNotSatisfiable: _Line("SIZE_INVALID"),
    errors.UploadConflict: _Line("BLOB_UPLOAD_INVALID", 416),
    errors.ReferencesMissing: _Line("MANIFEST_BLOB_UNKNOWN", 400),
    errors.SizesDiffer: _Line("MANIFEST_INVALID", 400),
    errors.ConditionFailed: _Line("DENIED"),
    # what is not there
    errors.NotFound: _Line("UNSUPPORTED"),
    RouteUnknown: _Line("UNSUPPORTED"),
    MethodNotAllowed: _Line("UNSUPPORTED"),
    errors.RepositoryUnknown: _Line("NAME_UNKNOWN"),
    errors.BlobUnknown: _Line("BLOB_UNKNOWN"),
    errors.ManifestUnknown: _Line("MANIFEST_UNKNOWN"),
    errors.UploadUnknown: _Line("BLOB_UPLOAD_UNKNOWN"),
    # A file, chunk or group that a row names and that is not there is a fault of the store, not an unknown name of the
    # client's.
    errors.FileNotFound: _Line("UNAVAILABLE", 503),
    errors.ChunkNotFound: _Line("UNAVAILABLE", 503),
    errors.GroupNotFound: _Line("UNAVAILABLE", 503),
    errors.ChecksumMismatch: _Line("UNAVAILABLE", 503),
    # what is between rooms: trying again opens fresh ids
    errors.Conflict: _Line("UNAVAILABLE", 503),
    errors.Unauthorized: _Line("UNAVAILABLE", 503),  # a room refused our cluster key; no client of /v2/ can cause it
    # what passes
    errors.Overloaded: _Line("TOOMANYREQUESTS"),
    errors.Unavailable: _Line("UNAVAILABLE"),
    errors.StorageFull: _Line("STORAGE_FULL"),
}

_HTTP_CODES: Final[Mapping[int, str]] = {413: "SIZE_INVALID", 416: "SIZE_INVALID", 429: "TOOMANYREQUESTS"}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Everything that an error response is made of."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def error_answer(exc: BaseException) -> ErrorAnswer:
    """How `exc` is told to a client. Never raises."""
    if isinstance(exc, errors.SpeedyError):
        return _of_tree(exc)
    if isinstance(exc, HTTPException) and exc.code is not None:
        code = _HTTP_CODES.get(exc.code, "UNSUPPORTED" if exc.code < 500 else "UNKNOWN")
        headers = {name: value for name, value in exc.get_headers() if name in ("Allow", "Retry-After")}
        words = _OUTSIDE if exc.code == 404 else exc.name
        return _answer(exc.code, [_entry(code, words, None)], headers)
    return _answer(500, [_entry("UNKNOWN", "internal error", None)], {})


def _of_tree(exc: errors.SpeedyError) -> ErrorAnswer:
    line = next(_TABLE[kind] for kind in type(exc).__mro__ if kind in _TABLE)
    status = exc.status if line.status is None else line.status
    headers: dict[str, str] = {}
    if isinstance(exc, errors.ReferencesMissing):
        missing = exc.digests[:MISSING_LISTED_MAX]
        entries = [
            _entry(line.code, "the repository does not hold what the manifest refers to", {"digest": digest})
            for digest in missing
        ]
        return _answer(status, entries or [_entry(line.code, exc.message, None)], headers)
    if isinstance(exc, errors.Overloaded):
        headers["Retry-After"] = str(exc.retry_after_s)
    elif status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif isinstance(exc, MethodNotAllowed):
        headers["Allow"] = str(exc.details.get("allow", ""))
    elif isinstance(exc, errors.RangeNotSatisfiable) and "size" in exc.details:
        headers["Content-Range"] = f"bytes */{exc.details['size']}"
    # Messages and details of our own faults speak of rooms, files and addresses: they belong in the log, not to
    # strangers.
    ours = status >= 500 and not isinstance(exc, errors.Overloaded | errors.StorageFull)
    message = (
        "the registry cannot do this just now" if ours and status == 503 else "internal error" if ours else exc.message
    )
    return _answer(status, [_entry(line.code, message, None if status >= 500 else exc.details or None)], headers)


def _entry(code: str, message: str, detail: Any) -> dict[str, Any]:
    return {"code": code, "message": message, "detail": detail}


def _answer(status: int, entries: list[dict[str, Any]], headers: Mapping[str, str]) -> ErrorAnswer:
    return ErrorAnswer(status=status, body=json.dumps({"errors": entries}).encode(), headers=headers)
