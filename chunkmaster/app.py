"""The ChunkMaster over HTTP. Parses, calls one method of the master, formats.

POST /v1/groups                  {"members": [[server_id, url], ...]} -> Group
GET  /v1/groups?known_version=   GroupTable; 204 when `known_version` is still the current one
POST /v1/fid-ranges              {"owner": ..., "count": ...} -> FidRange
POST /v1/fid-ranges/<id>/close   204
POST /v1/heartbeats              Heartbeat -> GroupTable; 204 when its known_version is still the current one
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flask import Flask, Response, jsonify, request
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chunkmaster.interface import ChunkMaster, GroupTable, Heartbeat
from wire.arguments import body_as, number, query_number
from wire.auth import ClusterKey
from wire.errors import SpeedyError
from wire.service import create_service, metrics_of
from wire.values import to_json

BODY_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class NewGroup:
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    owner: str
    count: int


def create_app(master: ChunkMaster, *, key: ClusterKey | None, ready: Callable[[], None]) -> Flask:
    app = create_service("chunkmaster", key=key, ready=ready)
    metrics_of(app).register(_TableCollector(master))

    @app.post("/v1/groups")
    def add_group() -> Response:
        return jsonify(to_json(master.add_group(body_as(NewGroup, BODY_BYTES_MAX).members)))

    @app.get("/v1/groups")
    def group_table() -> Response:
        known = query_number("known_version") if "known_version" in request.args else None
        return _table(master.group_table(known))

    @app.post("/v1/fid-ranges")
    def reserve_fids() -> Response:
        wanted = body_as(Reservation, BODY_BYTES_MAX)
        return jsonify(to_json(master.reserve_fids(wanted.owner, wanted.count)))

    @app.post("/v1/fid-ranges/<range_id>/close")
    def close_fid_range(range_id: str) -> Response:
        master.close_fid_range(number("range_id", range_id))
        return Response(status=204)

    @app.post("/v1/heartbeats")
    def heartbeat() -> Response:
        return _table(master.heartbeat(body_as(Heartbeat, BODY_BYTES_MAX)))

    return app


def _table(table: GroupTable | None) -> Response:
    return Response(status=204) if table is None else jsonify(to_json(table))


class _TableCollector(Collector):
    """Groups and members by state, read when somebody looks."""

    def __init__(self, master: ChunkMaster) -> None:
        self._master = master

    def collect(self) -> Iterable[Metric]:
        try:
            table = self._master.group_table()
        except SpeedyError:
            return
        if table is None:
            return
        yield GaugeMetricFamily("speedy_groups", "Groups of ChunkServers", len(table.groups))
        counts = dict.fromkeys(("new", "rw", "ro_full", "failed", "down"), 0)
        for group in table.groups:
            for member in group.members:
                counts[member.state] += 1
        members = GaugeMetricFamily("speedy_members", "Members of groups by state", labels=["state"])
        for state, count in counts.items():
            members.add_metric([state], count)
        yield members
        damaged = GaugeMetricFamily("speedy_member_damaged", "Places that a member knows to be bad", labels=["server"])
        volumes = GaugeMetricFamily("speedy_member_bad_volumes", "Failed or quarantined volumes", labels=["server"])
        disks = GaugeMetricFamily("speedy_member_bad_disks", "Disks that failed or are away", labels=["server"])
        for group in table.groups:
            for member in group.members:
                disks.add_metric([member.server_id], member.bad_disks)
                damaged.add_metric([member.server_id], member.damaged)
                volumes.add_metric([member.server_id], member.bad_volumes)
        yield damaged
        yield volumes
        yield disks
