"""One request to /v2/ as its handler sees it, and the plain answers that handlers give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from werkzeug.wrappers import Request, Response

from metaserver.interface import Condition
from registry_driver.oci_errors import QueryInvalid
from wire.body import RequestBody
from wire.errors import ConditionFailed


@dataclass(frozen=True, slots=True)
class Call:
    """`body` is there for methods that may carry one."""

    request: Request
    repository: str
    reference: str
    body: RequestBody | None


class Answer(Response):
    """A response from memory. No content type unless one is given: clients compare manifests' types letter by
    letter."""

    default_mimetype = None


def answer(status: int, headers: Mapping[str, str], body: bytes = b"") -> Answer:
    return Answer(body, status=status, headers=dict(headers))


def head_answer(headers: Mapping[str, str], length: int) -> Answer:
    """What GET would say, without its body."""
    response = answer(200, headers)
    response.headers["Content-Length"] = str(length)
    return response


def not_modified(call: Call, etag: str) -> bool:
    """Whether the client holds the content already (If-None-Match). Raises ConditionFailed when it wants other content
    (If-Match), which comes first (RFC 9110, 13.2.2)."""
    headers = call.request.headers
    wanted = headers.get("If-Match")
    if wanted is not None and wanted.strip() != "*" and etag not in _etags(wanted, weak=False):
        raise ConditionFailed("the content is another one than If-Match names")
    given = headers.get("If-None-Match")
    if given is None:
        return False
    return given.strip() == "*" or etag in _etags(given, weak=True)


def conditions(call: Call) -> tuple[Condition, ...]:
    """What If-Match and If-None-Match make a change of `call.reference` depend on (RFC 9110, 13.1)."""
    found: list[Condition] = []
    for header, expected in (("If-Match", True), ("If-None-Match", False)):
        given = call.request.headers.get(header)
        if given is not None:
            digests = (
                None if given.strip() == "*" else tuple(tag.strip('"') for tag in _etags(given, weak=not expected))
            )
            found.append(Condition(call.reference, digests, expected))
    return tuple(found)


def _etags(header: str, *, weak: bool) -> Iterator[str]:
    """The entity tags of a list, with their quotes. If-Match compares strongly: a weak one matches nothing there."""
    for tag in header.split(","):
        stripped = tag.strip()
        yield stripped.removeprefix("W/") if weak else stripped


def last_query(call: Call) -> str:
    """`last` of a list request: the entry after which the page begins. Raises QueryInvalid."""
    last = call.request.args.get("last", "")
    if len(last) > 512 or not last.isascii() or not last.isprintable():
        raise QueryInvalid("last must be an entry of the list")
    return last


def limit_query(call: Call, limit_max: int) -> int:
    """`n` of a list request; without it, or with a larger one, pages have `limit_max` entries. Raises QueryInvalid."""
    text = call.request.args.get("n")
    if text is None:
        return limit_max
    if not (text.isascii() and text.isdigit()):
        raise QueryInvalid("n must be a number of entries")
    digits = text.lstrip("0")
    return limit_max if len(digits) > len(str(limit_max)) else min(int(digits or "0"), limit_max)
