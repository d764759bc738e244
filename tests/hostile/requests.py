"""Requests to /v2/ as nobody should send them, made from the routes and from what their parts may hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from registry_driver.app import ACTIONS
from registry_driver.manifest_document import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.hostile.world import CONFIG, DIGESTS, IMAGE, INDEX, LAYER, MISSING_DIGEST, OTHER_REPOSITORY, REPOSITORY
from tests.registry.documents import image, index, sha256

#: stands for a session that is open, wherever an upload's id may stand
SESSION = "SESSION"

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_ODD_METHODS = ("OPTIONS", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "A" * 40, "M-SEARCH", "GET2")

NAMES = (
    REPOSITORY,
    OTHER_REPOSITORY,
    "unknown/repository",
    "a" * 255,
    "a" * 256,
    "a" * 300,
    "/".join("a" * 128),
    "a" + "-" * 250 + "!",  # what a pattern that backtracks takes for ever to refuse
    "a-" * 120 + "!",
    "a." * 127,
    "a__" * 80 + "_",
    "a/" * 120 + "A",
    "blobs",
    "blobs/uploads",
    "manifests/x",
    "tags/list",
    "uploads",
    "_catalog",
    "A",
    "a_-b",
    "-a",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "../seed/one",
    "seed/./one",
    "seed%2fone",
    "seed%2Fone",
    "seed%5cone",
    "seed%00one",
    "seed%0aone",
    "%2e%2e/one",
    "%73eed/one",
    "s%C3%A9ed",
    "%ff%fe",
    "%F0%9F%90%B3",
    "%",
    "%zz",
    "seed;one",
    "seed:5000/one",
    "seed@sha256",
    "seed one".replace(" ", "%20"),
)

_HEX_128 = "0" * 128
REFERENCES = (
    *DIGESTS.values(),
    sha256(INDEX),
    MISSING_DIGEST,
    f"sha512:{_HEX_128}",
    "v1",
    "all",
    "latest",
    "new",
    "a" * 128,
    "a" * 129,
    "a" * 4000,
    ".a",
    "-a",
    "",
    ":",
    "sha256:",
    "sha256:" + "0" * 63,
    "sha256:" + "F" * 64,
    "sha256:" + "0" * 65,
    "sha512:" + "0" * 64,
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "sha256%3A" + "0" * 64,
    "sha256:" + "0" * 63 + "%0a",
    "sha256+b64u:" + "a" * 40,
    "a+b." * 60 + ":x",
    "v1%00",
    "v1%0d%0aX-Evil:1",
    "..",
    "v1/../v2",
    "%F0%9F%90%B3",
    SESSION,
    "00000000-0000-0000-0000-000000000000",
    "list",
    "uploads",
)

_PATHS: tuple[Callable[[str, str], str], ...] = (
    lambda name, reference: f"/v2/{name}/blobs/{reference}",
    lambda name, reference: f"/v2/{name}/manifests/{reference}",
    lambda name, reference: f"/v2/{name}/referrers/{reference}",
    lambda name, reference: f"/v2/{name}/blobs/uploads/{reference}",
    lambda name, _: f"/v2/{REPOSITORY}/blobs/uploads/{SESSION}",
    lambda name, _: f"/v2/{name}/blobs/uploads/{SESSION}/",
    lambda name, _: f"/v2/{name}/blobs/uploads/",
    lambda name, _: f"/v2/{name}/blobs/uploads",
    lambda name, _: f"/v2/{name}/tags/list",
    lambda _, __: "/v2/_catalog",
    lambda _, __: "/v2/",
    lambda name, reference: f"/v2//{name}//{reference}",
    lambda name, reference: f"/{name}/{reference}",
    lambda name, reference: f"/v1/{name}/{reference}",
    lambda name, reference: f"http://elsewhere.example/v2/{name}/manifests/{reference}",
)

_QUERY_NAMES = (
    "digest",
    "mount",
    "from",
    "n",
    "last",
    "tag",
    "artifactType",
    "digest-algorithm",
    "ns",
    "_state",
    "",
    "x",
)
_QUERY_VALUES = (
    *(reference for reference in REFERENCES if len(reference) < 1000),
    *(name for name in NAMES if "/" in name),
    "0",
    "1",
    "-1",
    "1e9",
    "9" * 18,
    "9" * 4000,
    "%31",
    "²",
    "sha256",
    "sha512",
    "sha1",
    OCI_MANIFEST,
    "application/vnd.oci.image.config.v1+json",
    "%ff",
    "%",
    "a&tag=b&tag=c",
    "&".join(f"tag=t{number}" for number in range(70)),
)

MEDIA_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "application/json", "x", "", "a/" + "b" * 300)

_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Type": MEDIA_TYPES,
    "Content-Range": (
        "0-2",
        "3-5",
        "bytes 3-5/*",
        "3-5/6",
        "5-3",
        "-1-3",
        "a-b",
        "9" * 300 + "-1",
        "0-",
        "3-99999999999999",
    ),
    "Range": (
        "bytes=0-0",
        "bytes=-1",
        "bytes=5-",
        "bytes=0-1,3-4",
        "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 2000, 2)),
        "bytes=9999999-",
        "bytes=" + "9" * 400 + "-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=,,,",
        "bytes=1-0",
    ),
    "If-Range": (f'"{DIGESTS["layer"]}"', '"x"', "Sat, 29 Oct 1994 19:43:31 GMT", ""),
    "If-None-Match": (f'"{DIGESTS["layer"]}"', f'W/"{DIGESTS["image"]}"', "*", ",,,", '"' * 300),
    "Accept": (OCI_MANIFEST, "*/*", "text/html;q=0.9, " * 50, "\xff"),
    "Accept-Encoding": ("gzip", "br;q=1, *;q=0"),
    "Content-Encoding": ("gzip", "identity", "deflate, gzip", "x"),
    "Connection": ("close", "keep-alive", "Upgrade, close", "Upgrade", "TE, Content-Length", "close, close"),
    "Upgrade": ("h2c", "websocket", "TLS/1.0"),
    "HTTP2-Settings": ("AAMAAABkAAQAAP__",),
    "Expect": ("100-continue", "100-Continue"),
    "Authorization": ("Basic QQ==", "Bearer x", "Basic \xff", "Speedy 1 2", "x" * 3000),
    "X-Request-Id": ("abc", "a b", "x" * 300, "\xe9"),
    "X-Forwarded-For": ("127.0.0.1", "x" * 1000),
    "X-Forwarded-Proto": ("https", "gopher"),
    "X-Http-Method-Override": ("DELETE",),
    "Transfer-Encoding-": ("chunked",),
    "Cookie": ("a=b; c=\xff",),
}

_json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from(
        [0, -1, 2, 1e300, 10**400, "", "x", "\x00", "\ud800", "é" * 100, MISSING_DIGEST, *DIGESTS.values()]
    ),
    st.text(max_size=20),
)
_json = st.recursive(
    _json_scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
_DOCUMENTS = (
    image(CONFIG, LAYER),
    image(CONFIG, LAYER, mediaType=DOCKER_MANIFEST),
    image(CONFIG, LAYER, subject={"mediaType": OCI_MANIFEST, "digest": sha256(IMAGE), "size": len(IMAGE)}),
    image(CONFIG, LAYER, artifactType="application/x", annotations={"a": "b"}),
    index(IMAGE),
    index(IMAGE, mediaType=DOCKER_LIST),
    {"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": []},
)
_KEYS = (
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "subject",
    "artifactType",
    "annotations",
    "digest",
    "size",
    "urls",
    "data",
    "platform",
)
_TEXTS = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"schemaVersion":2,"schemaVersion":3}',
    b"\xef\xbb\xbf" + IMAGE,
    IMAGE + b"x",
    IMAGE.decode().encode("utf-16"),
    IMAGE[:-1],
    b'{"schemaVersion":' + b"9" * 5000 + b"}",
    b'{"schemaVersion":NaN}',
    b'"\\ud800"',
    b"\xff\xfe\xfd",
)


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """A manifest with some things in it changed; or no JSON at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(_TEXTS))
    document: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(_DOCUMENTS))))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = document
        while isinstance(place, dict | list) and place and draw(st.booleans()):
            inner = list(place.values()) if isinstance(place, dict) else place
            deeper = [one for one in inner if isinstance(one, dict | list)]
            if not deeper:
                break
            place = draw(st.sampled_from(deeper))
        if isinstance(place, dict):
            place[draw(st.sampled_from(_KEYS))] = draw(_json)
        else:
            place.append(draw(_json))
    return json.dumps(document).encode()


def sha512(content: bytes) -> str:
    return "sha512:" + hashlib.sha512(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body is sent: by its length, in pieces, or not as it was announced."""

    kind: str
    extra: int = 0


_FRAMINGS = (
    Framing("none"),
    Framing("length"),
    Framing("length"),
    Framing("length"),
    Framing("chunked"),
    Framing("short", 1),
    Framing("short", 100_000),
    Framing("cut chunk"),
    Framing("bad chunk"),
)


@dataclass(frozen=True, slots=True)
class HostileRequest:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: Framing
    pieces: int

    @property
    def whole(self) -> bool:
        """Whether its end is where it says: another request may follow."""
        return self.framing.kind in ("none", "length", "chunked")

    def encoded(self, session: str) -> bytes:
        target = self.target.replace(SESSION, session)
        lines = [f"{self.method} {target} HTTP/1.1", "Host: registry.example"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        sent = self.body
        kind = self.framing.kind
        if kind == "none":
            sent = b""
        elif kind in ("length", "short"):
            lines.append(f"Content-Length: {len(sent) + self.framing.extra}")
        else:
            lines.append("Transfer-Encoding: chunked")
            half = len(sent) // 2
            parts = [part for part in (sent[:half], sent[half:]) if part]
            sent = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
            sent += {"chunked": b"0\r\n\r\n", "cut chunk": b"10\r\nabc", "bad chunk": b"zz\r\nabc\r\n0\r\n\r\n"}[kind]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + sent


def _percent(text: str) -> str:
    return quote(text, safe="/:%!~*'();@&=+$,-._")


#: for each noun of the route table, how often it is drawn, its path, and references that fit
_NOUNS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "ping": (1, "/v2/", ("",)),
    "catalogue": (1, "/v2/_catalog", ("",)),
    "tags": (1, "/v2/{name}/tags/list", ("",)),
    "referrers": (1, "/v2/{name}/referrers/{reference}", (*DIGESTS.values(), MISSING_DIGEST)),
    "blob": (3, "/v2/{name}/blobs/{reference}", (*DIGESTS.values(), MISSING_DIGEST)),
    "manifest": (4, "/v2/{name}/manifests/{reference}", ("v1", "all", "new", DIGESTS["image"], sha256(INDEX))),
    "uploads": (3, "/v2/{name}/blobs/uploads/", ("",)),
    "upload": (5, "/v2/{name}/blobs/uploads/{reference}", (SESSION,)),
}

_ROUTES = tuple(
    (method, path, references)
    for noun, methods in ACTIONS.items()
    for times, path, references in (_NOUNS[noun],)
    for method in methods
    for _ in range(times)
)


@st.composite
def hostile_requests(draw: st.DrawFn) -> HostileRequest:
    """Half of them know a route and get one thing or the other wrong; the rest is put together from anything."""
    names = st.one_of(st.sampled_from(NAMES), st.text(max_size=300).map(_percent))
    references = st.one_of(st.sampled_from(REFERENCES), st.text(max_size=140).map(_percent))
    values = st.one_of(st.sampled_from(_QUERY_VALUES), st.text(max_size=20).map(_percent))
    if draw(st.booleans()):
        method, path, fitting = draw(st.sampled_from(_ROUTES))
        name = draw(names) if draw(st.integers(0, 4)) == 0 else REPOSITORY
        reference = draw(references) if draw(st.integers(0, 3)) == 0 else draw(st.sampled_from(fitting))
        target = path.format(name=name, reference=reference)
    else:
        method = draw(st.sampled_from(_METHODS + _ODD_METHODS))
        target = draw(st.sampled_from(_PATHS))(draw(names), draw(references))
    body = draw(st.one_of(st.just(b""), st.just(LAYER), st.just(b"def"), st.binary(max_size=2000), manifests()))
    pairs = draw(st.lists(st.tuples(st.sampled_from(_QUERY_NAMES), values), max_size=2))
    if method in ("PUT", "POST") and draw(st.booleans()):
        held = b"abc" + body if SESSION in target else body
        pairs.append(("digest", draw(st.sampled_from([sha256(held), sha256(held), MISSING_DIGEST, sha512(held)]))))
    if pairs:
        target += "?" + "&".join(f"{name}={value}" for name, value in pairs).replace("²", "%C2%B2")
    chosen = draw(st.lists(st.sampled_from(sorted(_HEADERS)), max_size=3, unique=True))
    headers = tuple((name, draw(st.sampled_from(_HEADERS[name]))) for name in chosen)
    framing = draw(st.sampled_from(_FRAMINGS))
    return HostileRequest(method, target, headers, body, framing, draw(st.sampled_from([1, 1, 1, 2, 7])))
