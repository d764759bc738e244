"""Grammar of what clients name: repositories, tags, digests, references (distribution-spec "Pulling manifests",
image-spec "Digests").

Every pattern is matched against a string whose length was checked before, and is written with possessive quantifiers: a
name that does not match costs one pass over its at most 255 characters, never a search through all ways to split it.
"""

from __future__ import annotations

import re
from typing import Final

from wire.errors import BadRequest

REPOSITORY_CHARS_MAX: Final = 255
TAG_CHARS_MAX: Final = 128
MEDIA_TYPE_CHARS_MAX: Final = 255

#: algorithm -> number of hex digits; the ones that the engine can compute
ALGORITHMS: Final = {"sha256": 64, "sha512": 128}

_COMPONENT = r"[a-z0-9]++(?:(?:\.|__?|-++)[a-z0-9]++)*+"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*+")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HEX = re.compile(r"[0-9a-f]++")
_DIGEST_FORM = re.compile(r"[a-z0-9]++(?:[+._-][a-z0-9]++)*+:[a-zA-Z0-9=_-]++")
_DIGEST_CHARS_MAX = 512
_UPLOAD_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class NameInvalid(BadRequest):
    code = "name_invalid"


class TagInvalid(BadRequest):
    code = "tag_invalid"


class DigestInvalid(BadRequest):
    code = "digest_invalid"


def check_repository(name: str) -> str:
    """The name if it is a repository's; else NameInvalid."""
    if len(name) > REPOSITORY_CHARS_MAX:
        raise NameInvalid(f"a repository name has at most {REPOSITORY_CHARS_MAX} characters, this one has {len(name)}")
    if _REPOSITORY.fullmatch(name) is None:
        raise NameInvalid(
            "a repository name is made of lower-case letters and digits, joined by '.', '_', '__' or dashes, "
            "in parts separated by '/'",
            name=printable(name),
        )
    return name


def check_tag(tag: str) -> str:
    """The tag if it is one; else TagInvalid."""
    if _TAG.fullmatch(tag) is None:
        raise TagInvalid(
            f"a tag has at most {TAG_CHARS_MAX} of the characters A-Z a-z 0-9 _ . - and does not begin with '.' or '-'",
            tag=printable(tag),
        )
    return tag


def check_digest(digest: str) -> str:
    """The digest if it has the form "<algorithm>:<hex>" with an algorithm of ALGORITHMS; else DigestInvalid."""
    algorithm, _, encoded = digest.partition(":")
    digits = ALGORITHMS.get(algorithm)
    if digits is None:
        raise DigestInvalid(
            f"digests are {' or '.join(ALGORITHMS)}, followed by ':' and lower-case hex digits",
            digest=printable(digest),
        )
    if len(encoded) != digits or _HEX.fullmatch(encoded) is None:
        raise DigestInvalid(f"a {algorithm} digest has {digits} lower-case hex digits", digest=printable(digest))
    return digest


def is_digest_form(text: str) -> bool:
    """Whether `text` is a digest by the grammar of the image-spec, of whatever algorithm."""
    if len(text) > _DIGEST_CHARS_MAX or _DIGEST_FORM.fullmatch(text) is None:
        return False
    algorithm, _, _ = text.partition(":")
    try:
        if algorithm in ALGORITHMS:
            check_digest(text)
    except DigestInvalid:
        return False
    return True


def check_algorithm(algorithm: str) -> str:
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(f"digest-algorithm is one of {', '.join(ALGORITHMS)}", algorithm=printable(algorithm))
    return algorithm


def algorithm_of(digest: str) -> str:
    return digest.partition(":")[0]


def is_digest(reference: str) -> bool:
    """Whether a reference means a digest; no tag contains ':'."""
    return ":" in reference


def is_upload_id(text: str) -> bool:
    return _UPLOAD_ID.fullmatch(text) is not None


def is_media_type(text: str) -> bool:
    """Whether a descriptor may say it. RFC 6838 knows no parameters here and wants a slash, but clients send
    "text/plain; charset=utf-8" and "data", and registries have always taken that."""
    return 0 < len(text) <= MEDIA_TYPE_CHARS_MAX and text.isascii() and text.isprintable()


def printable(text: str, chars_max: int = 300) -> str:
    """A client's text as it may stand in an answer or a log: one line of ASCII, bounded."""
    return text[:chars_max].encode("unicode_escape").decode("ascii")
