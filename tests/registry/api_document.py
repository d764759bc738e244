"""docs/api.md as tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/api.md"

_STATUS_AND_CODE = re.compile(r"([1-5][0-9]{2}) ([A-Z_]+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row: `errors` are (status, code)."""

    methods: tuple[str, ...]
    path: str
    answers: frozenset[int]
    errors: frozenset[tuple[int, str]]


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            methods=tuple(methods.split(", ")),
            path=path.strip("`"),
            answers=frozenset(int(status) for status in answers.split(", ")),
            errors=_pairs(errors),
        )
        for methods, path, _query, answers, errors, _says in _rows("Endpoints")
    ]


def errors() -> frozenset[tuple[int, str]]:
    """The rows of the table of errors."""
    return frozenset((int(status), code) for status, code, _when, _where in _rows("Errors"))


def parser_refusals() -> frozenset[tuple[int, str]]:
    text = _section("Errors")
    return _pairs(text[text.index("Answered by the HTTP parser") :])


def limits() -> list[tuple[str, int]]:
    return [(what, int(limit.partition(" ")[0])) for what, limit in _rows("Limits")]


def _pairs(text: str) -> frozenset[tuple[int, str]]:
    return frozenset((int(status), code) for status, code in _STATUS_AND_CODE.findall(text))


def _rows(heading: str) -> list[list[str]]:
    lines = [line for line in _section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _section(heading: str) -> str:
    text = DOCUMENT.read_text()
    start = text.index(f"\n## {heading}\n") + 1
    end = text.find("\n## ", start)
    return text[start : end if end >= 0 else len(text)]
