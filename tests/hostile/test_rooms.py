"""The rooms behind the registry: nothing without the cluster's key, and with it no request that they fall over."""

from __future__ import annotations

import inspect
import json
import tempfile
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from flask import Flask
from hypothesis import event, given
from hypothesis import strategies as st

import chunkmaster.app
import chunkserver.app
import imageserver.app
import metaserver.app
from chunkmaster.interface import Heartbeat
from imageserver.interface import ChunkRef
from metaserver import messages
from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted
from tests.hostile.budget import examples
from tests.hostile.exchange import Answer, converse
from tests.hostile.world import MISSING_DIGEST, REPOSITORY
from wire.auth import OPEN_PATHS, ClusterKey

_ABSENT = cast(Any, None)  # routes are all that is asked of these apps

APPS: dict[str, Flask] = {
    "chunkmaster": chunkmaster.app.create_app(_ABSENT, key=None, ready=lambda: None),
    "chunkserver": chunkserver.app.create_app(
        _ABSENT, key=None, ready=lambda: None, tables=_ABSENT, incoming=_ABSENT, outgoing=_ABSENT
    ),
    "imageserver": imageserver.app.create_app(cast(Any, types.SimpleNamespace(check=None)), key=None, buffers=_ABSENT),
    "metaserver": metaserver.app.create_app(cast(Any, types.SimpleNamespace(check=None)), key=None),
}

#: (room, method, path with <arguments>)
ROUTES = sorted(
    (room, method, rule.rule)
    for room, app in APPS.items()
    for rule in app.url_map.iter_rules()
    for method in (rule.methods or set()) - {"OPTIONS"}
)


@dataclass(frozen=True, slots=True)
class Rooms:
    ports: dict[str, int]
    key: ClusterKey
    cluster: LocalCluster

    def ask(self, room: str, method: str, target: str, body: bytes = b"", *headers: str, signed: bool = True) -> Answer:
        authorization = [f"Authorization: {self.key.sign(method, target)}"] if signed else []
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *authorization, *headers, f"Content-Length: {len(body)}"]
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        (answer,) = converse(self.ports[room], data, first_is_head=method == "HEAD")
        return answer


@pytest.fixture(scope="module")
def rooms() -> Iterator[Rooms]:
    with tempfile.TemporaryDirectory(prefix="speedy-rooms-") as directory:
        cluster = LocalCluster(Path(directory) / "c")
        try:
            cluster.up(Wanted(groups=1, replicas=1, imageservers=1, registries=1), timeout_s=120.0)
            ports = {room: int(cluster.plan().of(cast(Any, room))[0].url.rpartition(":")[2]) for room in APPS}
            (key_file,) = Path(directory).rglob("cluster.key")
            yield Rooms(ports, ClusterKey.load(key_file), cluster)
            assert cluster.down() == [], "processes had to be killed"
            logs = "".join(path.read_text(errors="replace") for path in Path(directory).rglob("*.log"))
            assert "Traceback" not in logs, logs[max(0, logs.find("Traceback") - 1000) : logs.find("Traceback") + 3000]
        finally:
            cluster.down()


@pytest.mark.parametrize(("room", "method", "rule"), ROUTES)
def test_without_the_key_nothing_is_answered_but_health(rooms: Rooms, room: str, method: str, rule: str) -> None:
    target = rule.replace("<", "").replace(">", "").replace("int:", "").replace("group_id", "1").replace("fid", "1")
    if rule in OPEN_PATHS:
        assert rooms.ask(room, method, target, signed=False).status == 200
        return
    other_time = rooms.key.sign(method, target, now_s=1_000_000_000.0)
    for authorization in (
        "",
        "Authorization: Basic QTpC",
        f"Authorization: {ClusterKey(bytes(64)).sign(method, target)}",
        f"Authorization: {rooms.key.sign(method, target + '?')}",
        f"Authorization: {rooms.key.sign('OPTIONS', target)}",
        f"Authorization: {other_time}",
        f"Authorization: {rooms.key.sign(method, target)[:-1]}",
    ):
        headers = [authorization] if authorization else []
        answer = rooms.ask(room, method, target, b"{}", *headers, signed=False)
        assert answer.status == 401
        if method != "HEAD":
            assert answer.json["error"]["code"] == "unauthorized"


_NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400)
_TEXTS = (
    REPOSITORY,
    "a",
    "",
    "v1",
    MISSING_DIGEST,
    "a/b",
    "/",
    "..",
    "\x00",
    "\ud800",
    "é",
    "x" * 300,
    "x" * 70_000,
    "http://a:1",
    "%",
)
_anything = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_NUMBERS),
    st.sampled_from([0.5, float("nan"), float("inf"), -1e308]),
    st.sampled_from(_TEXTS),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.text(max_size=10),
)


def _values(hint: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Mostly of the wanted type, and then often at its limits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    fitting: st.SearchStrategy[Any] = _anything
    if hint is int:
        fitting = st.one_of(st.integers(0, 100), st.sampled_from(_NUMBERS))
    elif hint is str:
        fitting = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=10))
    elif hint is float:
        fitting = st.one_of(st.floats(), st.sampled_from(_NUMBERS))
    elif hint is bytes:
        fitting = st.sampled_from(["", "AAAA", "A", "=", "AAAA" * 40])
    elif origin is typing.Literal:
        fitting = st.sampled_from(arguments)
    elif is_dataclass(hint):
        fitting = st.fixed_dictionaries(_fields(cast(type, hint), depth + 1))
    elif origin in (tuple, list) and (origin is list or arguments[-1] is Ellipsis):
        fitting = st.lists(_values(arguments[0], depth + 1), max_size=3)
    elif origin is tuple:
        fitting = st.tuples(*(_values(argument, depth + 1) for argument in arguments)).map(list)
    elif arguments:
        fitting = st.one_of(st.none(), *(_values(one, depth + 1) for one in arguments if one is not type(None)))
    return st.integers(0, 9).flatmap(lambda roll: _anything if roll == 0 else fitting)


def _fields(kind: type, depth: int = 0) -> dict[str, st.SearchStrategy[Any]]:
    hints = typing.get_type_hints(kind)
    return {field.name: _values(hints[field.name], depth) for field in fields(cast(Any, kind))}


@dataclass(frozen=True, slots=True)
class Refs:
    refs: list[ChunkRef]


def _message_kinds() -> list[type]:
    own = [kind for _, kind in inspect.getmembers(messages, inspect.isclass) if is_dataclass(kind)]
    return [*own, Heartbeat, chunkmaster.app.NewGroup, chunkmaster.app.Reservation, Refs]


#: Names that a message does not know are ignored: one object with all names fits all of them.
_every_field = st.fixed_dictionaries(
    {name: value for kind in _message_kinds() for name, value in _fields(kind).items()}
)
_bodies = st.one_of(
    _every_field.map(lambda told: json.dumps(told).encode()),
    _every_field.map(lambda told: json.dumps(told).encode()),
    _anything.map(lambda told: json.dumps(told).encode()),
    st.sampled_from([b"", b"{", b"[" * 100_000, b"\xff", b'{"a":' * 30_000, b"9" * 5000, b"x" * 300_000]),
    st.binary(max_size=100),
)
_QUERY_NAMES = sorted(
    {"repository", "digest", "reference", "path", "after", "limit", "subject", "artifact_type", "upload_id", "file_id"}
    | {"length", "crc32c", "known_version", "min_age_s", "prefix", "first", "last", "bits"}
)
_arguments = st.one_of(
    st.sampled_from(
        [str(number) for number in _NUMBERS]
        + ["1", "2", "10", "x", "1e5", "nan", "inf", "-0", "%F0", "%00", "9" * 5000]
    ),
    st.sampled_from([quote(text, safe="", errors="replace") for text in _TEXTS if len(text) < 1000]),
)


@given(
    route=st.sampled_from([route for route in ROUTES if route[2] not in OPEN_PATHS]),
    path_arguments=st.lists(_arguments.filter(bool), min_size=2, max_size=2),
    query=st.dictionaries(st.sampled_from(_QUERY_NAMES), _arguments, max_size=10),
    body=_bodies,
    header=st.sampled_from(
        ["X: y", "Range: bytes=0-1", "Range: bytes=9-", "Range: x", "Speedy-Crc32c: 00000000", "Speedy-Crc32c: zz"]
    ),
)
@examples(500)
def test_with_the_key_nonsense_is_refused_and_nothing_falls_over(  # noqa: PLR0917 -- by name
    rooms: Rooms,
    route: tuple[str, str, str],
    path_arguments: list[str],
    query: dict[str, str],
    body: bytes,
    header: str,
) -> None:
    room, method, rule = route
    parts = rule.replace("<int:", "<").split("<")
    target = parts[0] + "".join(
        argument + part.partition(">")[2] for argument, part in zip(path_arguments, parts[1:], strict=False)
    )
    if query:
        target += "?" + "&".join(f"{name}={value}" for name, value in query.items())
    if len(target) > 8000:
        return
    answer = rooms.ask(room, method, target, b"" if method in ("GET", "HEAD", "DELETE") else body, header)
    event(f"{room} {answer.status}")
    assert answer.status < 500, answer
    if answer.status >= 400 and method != "HEAD":
        assert set(answer.json["error"]) == {"code", "message", "details"}
