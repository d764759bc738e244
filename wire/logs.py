"""Structured log lines on stderr: one JSON object or one `key=value` text line per event, with the request id.

    logging.getLogger("speedy.chunkserver").info("chunk refused", extra={"fid": fid, "reason": "checksum"})

What stands in `extra` becomes a field of the line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from wire.context import request_id

LogFormat = Literal["json", "text"]

# Attributes that every record has; anything else on it came through `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str = "info", format: LogFormat = "json", stream: TextIO | None = None) -> None:
    """Send all log lines of this process to `stream` (stderr). Calling it again replaces what the last call set.

    `level` ("debug", "info", "warning", "error") holds for our own loggers; libraries speak from warning on, except
    at debug. Raises ValueError for an unknown level or format.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}: debug, info, warning or error")
    if format not in ("json", "text"):
        raise ValueError(f"unknown log format {format!r}: json or text")
    handler = _Handler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.getLogger("speedy").setLevel(number)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ms), level, logger, message, request_id, then the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for people: `2026-01-02T03:04:05.678Z info speedy.registry GET /v2/ 200 ms=1.2`.

    Fields that say nothing (None) are left out, and those that the message is made of by name: "%(path)s".
    """

    def format(self, record: logging.LogRecord) -> str:
        named = record.args if isinstance(record.args, Mapping) else {}
        message = record.msg % {key: _quoted(value) for key, value in named.items()} if named else record.getMessage()
        fields = {key: value for key, value in _fields(record).items() if value is not None and key not in named}
        head = f"{_utc(record.created)} {record.levelname.lower()} {record.name}"
        line = f"{head} {_one_line(message)}" + "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Handler(logging.StreamHandler[TextIO]):
    """A type of its own, so that configure() finds and replaces exactly what it put there."""


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _PLAIN}
    bound = request_id()
    if bound:
        fields.setdefault("request_id", bound)
    return fields


def _utc(created_s: float) -> str:
    milliseconds = int(created_s * 1000) % 1000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s)) + f".{milliseconds:03d}Z"


def _quoted(value: Any) -> str:
    text = str(value)
    plain = bool(text) and text.isprintable() and not any(c in text for c in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    # Text that came from a client must not be able to forge a line of its own.
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
