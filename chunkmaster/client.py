"""HttpChunkMaster: one or several ChunkMasters somewhere else, as a ChunkMaster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from chunkmaster.interface import FidRange, Group, GroupTable, Heartbeat
from wire.auth import ClusterKey
from wire.errors import SpeedyError, Unavailable
from wire.http import ServiceClient
from wire.values import from_json, to_json


class HttpChunkMaster:
    """Asks the master that answered last; when it is unavailable or overloaded the others, each once per call.

    All masters share one database, so any of them may answer; a call that a dead one had begun is harmless to repeat
    (at worst a range of fids is burned). `read_timeout_s` bounds the wait for each. Thread-safe.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        key: ClusterKey,
        *,
        connect_timeout_s: float = 1.0,
        read_timeout_s: float = 10.0,
        pool_max: int = 16,
    ) -> None:
        assert base_urls, "at least one ChunkMaster"
        self._clients = [
            ServiceClient(
                base_url,
                key,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
                attempts_max=1,
                pool_max=pool_max,
            )
            for base_url in base_urls
        ]
        self._lock = threading.Lock()
        self._preferred = 0

    def add_group(self, members: tuple[tuple[str, str], ...]) -> Group:
        return from_json(Group, self._ask("POST", "/v1/groups", json={"members": to_json(members)}))

    def group_table(self, known_version: int | None = None) -> GroupTable | None:
        params = {} if known_version is None else {"known_version": known_version}
        return _table(self._ask("GET", "/v1/groups", params=params))

    def reserve_fids(self, owner: str, count: int) -> FidRange:
        return from_json(FidRange, self._ask("POST", "/v1/fid-ranges", json={"owner": owner, "count": count}))

    def close_fid_range(self, range_id: int) -> None:
        self._ask("POST", f"/v1/fid-ranges/{range_id}/close")

    def heartbeat(self, beat: Heartbeat) -> GroupTable | None:
        return _table(self._ask("POST", "/v1/heartbeats", json=to_json(beat)))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _ask(self, method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> Any:
        first = self._preferred
        failures: list[SpeedyError] = []
        for step in range(len(self._clients)):
            number = (first + step) % len(self._clients)
            try:
                answer = self._clients[number].json(method, path, params=params, json=json)
            except SpeedyError as exc:
                if not exc.retryable:
                    raise
                failures.append(exc)
                continue
            with self._lock:
                self._preferred = number
            return answer
        if len(failures) == 1:
            raise failures[0]
        raise Unavailable("no ChunkMaster answers: " + "; ".join(str(failure) for failure in failures))


def _table(answer: Any) -> GroupTable | None:
    return None if answer is None else from_json(GroupTable, answer)
