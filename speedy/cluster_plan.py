"""What a local cluster consists of, and what its directory holds.

    <data>/cluster.json          this plan: processes, ports, database; for its owner only (passwords)
    <data>/cluster.key           the key of all its rooms
    <data>/speedy.toml           settings for commands that talk to the cluster (speedy status, speedy group)
    <data>/config/<name>.toml    settings of one process
    <data>/rooms/<name>/         what the process stores
    <data>/run/<name>.json       process id and start time
    <data>/logs/<name>.log       its output

Ports are chosen once and then stay: configurations, docker's image names and the group table hold them.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from chunkmaster.interface import REPLICAS_MAX
from wire.errors import BadRequest, Conflict, Unavailable
from wire.files import replace_file

PLAN_FILE = "cluster.json"
SETTINGS_FILE = "speedy.toml"
FORMAT = 1
HOST = "127.0.0.1"
GROUPS_MAX = 64
FRONTS_MAX = 32

#: who may read the files: they hold the database's password
_PRIVATE = 0o600

Room = Literal["chunkmaster", "metaserver", "chunkserver", "imageserver", "registry"]
#: in the order in which they are started
ROOMS: tuple[Room, ...] = ("chunkmaster", "metaserver", "chunkserver", "imageserver", "registry")

# Below the range from which the kernel takes the ports of outgoing connections: those would collide now and then.
_PORTS = range(20_000, 32_000)
_PORT_TRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Process:
    """One process. `group` is the number of a ChunkServer's group in this plan, 0 for other rooms."""

    name: str
    room: Room
    port: int
    group: int = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`database_url` None: SQLite files of its own. `overrides`: "section.key" -> TOML value, for every process."""

    replicas: int
    processes: tuple[Process, ...]
    database_url: str | None = None
    overrides: tuple[tuple[str, str], ...] = ()

    def of(self, room: Room) -> tuple[Process, ...]:
        return tuple(process for process in self.processes if process.room == room)

    def group_members(self) -> dict[int, tuple[Process, ...]]:
        groups: dict[int, list[Process]] = {}
        for process in self.of("chunkserver"):
            groups.setdefault(process.group, []).append(process)
        return {number: tuple(members) for number, members in sorted(groups.items())}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; None: as it is, or the default in a new cluster."""

    groups: int | None = None
    replicas: int | None = None
    imageservers: int | None = None
    registries: int | None = None
    database_url: str | None = None
    overrides: tuple[tuple[str, str], ...] = ()


def make_plan(known: Plan | None, wanted: Wanted) -> Plan:
    """The plan that `wanted` makes of `known` (None: a new cluster). Clusters only grow: chunks are not left behind.

    Raises BadRequest for what cannot be.
    """
    if known is None:
        known = Plan(_bounded("replicas", wanted.replicas, 3, REPLICAS_MAX), (), wanted.database_url)
        wanted = replace(
            wanted,
            groups=2 if wanted.groups is None else wanted.groups,
            imageservers=2 if wanted.imageservers is None else wanted.imageservers,
            registries=2 if wanted.registries is None else wanted.registries,
        )
    if wanted.replicas is not None and wanted.replicas != known.replicas:
        raise BadRequest(f"this cluster has {known.replicas} replicas per group; that cannot change")
    if wanted.database_url is not None and wanted.database_url != known.database_url:
        raise BadRequest("this cluster uses another database; its chunks cannot be found through a different one")
    ports = _FreePorts({process.port for process in known.processes})
    processes = list(known.processes)
    _grow(processes, "chunkmaster", 1, ports)
    _grow(processes, "metaserver", 1, ports)
    _grow(processes, "imageserver", _count("imageservers", wanted.imageservers, known, "imageserver"), ports)
    _grow(processes, "registry", _count("registries", wanted.registries, known, "registry"), ports)
    groups_now = len(known.group_members())
    groups = groups_now if wanted.groups is None else _bounded("groups", wanted.groups, 2, GROUPS_MAX)
    if groups < groups_now:
        raise BadRequest(f"this cluster has {groups_now} groups; a group with chunks cannot be left out")
    for group in range(groups_now + 1, groups + 1):
        for member in range(1, known.replicas + 1):
            processes.append(Process(f"chunkserver-{group}-{member}", "chunkserver", next(ports), group))
    overrides = dict(known.overrides) | dict(wanted.overrides)
    return replace(known, processes=tuple(processes), overrides=tuple(sorted(overrides.items())))


def _count(what: str, wanted: int | None, known: Plan, room: Room) -> int:
    now = len(known.of(room))
    count = now if wanted is None else _bounded(what, wanted, 2, FRONTS_MAX)
    if count < now:
        raise BadRequest(
            f"this cluster has {now} {what}; `speedy cluster down` and removing it is the way to a smaller one"
        )
    return count


def _bounded(what: str, value: int | None, default: int, most: int) -> int:
    value = default if value is None else value
    if not 1 <= value <= most:
        raise BadRequest(f"{value} {what}: allowed are 1 to {most}")
    return value


def _grow(processes: list[Process], room: Room, count: int, ports: Iterable[int]) -> None:
    have = sum(process.room == room for process in processes)
    free = iter(ports)
    for number in range(have + 1, count + 1):
        processes.append(Process(f"{room}-{number}", room, next(free)))


class _FreePorts:
    """Ports that nobody listens on, each once."""

    def __init__(self, taken: set[int]) -> None:
        self._taken = taken

    def __iter__(self) -> _FreePorts:
        return self

    def __next__(self) -> int:
        for _ in range(_PORT_TRIES_MAX):
            port = random.choice(_PORTS)  # noqa: S311 - spreads clusters, keeps no secret
            if port in self._taken:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    continue
            self._taken.add(port)
            return port
        raise Unavailable("no free port was found")


# -- the directory -----------------------------------------------------------------------------------------------------


def load_plan(directory: Path) -> Plan | None:
    """The plan of the cluster in `directory`, None for a directory without one. Raises Conflict for what is no plan."""
    file = directory / PLAN_FILE
    try:
        told = json.loads(file.read_text("utf-8"))
        if not 1 <= told["format"] <= FORMAT:
            raise Conflict(f"{file} has format {told['format']}; this program knows formats up to {FORMAT}")
        return Plan(
            replicas=int(told["replicas"]),
            processes=tuple(Process(**process) for process in told["processes"]),
            database_url=told["database_url"],
            overrides=tuple((str(key), str(value)) for key, value in told["overrides"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise Conflict(f"{file} cannot be understood: {exc!r}") from exc


def save_plan(directory: Path, plan: Plan) -> None:
    """Write the plan and the configuration of every process."""
    # The plan first: a directory with anything else and without it is taken for somebody else's.
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / PLAN_FILE, json.dumps({"format": FORMAT, **asdict(plan)}, indent=1) + "\n", _PRIVATE)
    for name in ("config", "rooms", "run", "logs"):
        (directory / name).mkdir(exist_ok=True)
    for process in plan.processes:
        text = _toml(_settings(directory, plan, process))
        replace_file(directory / "config" / f"{process.name}.toml", text, _PRIVATE)
    replace_file(directory / SETTINGS_FILE, _toml(_settings(directory, plan, None)), _PRIVATE)


def _settings(directory: Path, plan: Plan, process: Process | None) -> dict[str, Any]:
    cluster = {
        "cluster.key_file": str(directory / "cluster.key"),
        "cluster.masters": [master.url for master in plan.of("chunkmaster")],
        "cluster.metaservers": [meta.url for meta in plan.of("metaserver")],
        "cluster.imageservers": [images.url for images in plan.of("imageserver")],
    }
    if process is None:
        return cluster
    own: dict[str, Any] = {f"{process.room}.listen": f"{HOST}:{process.port}"}
    home = directory / "rooms" / process.name
    match process.room:
        case "chunkmaster" | "metaserver":
            own["database.url"] = database_url(directory, plan, process.room)
        case "chunkserver":
            own |= {"chunkserver.data": str(home), "chunkserver.server_id": process.name}
        case "imageserver":
            own["imageserver.state_dir"] = str(home)
    return {**cluster, **own, "log.format": "json", **dict(plan.overrides)}


def database_url(directory: Path, plan: Plan, room: Room) -> str:
    """SQLite knows one writing process at a time, so that each room has a file of its own there."""
    return plan.database_url or f"sqlite:///{directory / 'rooms' / room}.db"


def _toml(settings: Mapping[str, Any]) -> str:
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")  # JSON texts and lists are TOML too
    return "\n".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())
