"""HttpMetaStore: one or several MetaServers somewhere else, as a MetaStore."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from metaserver import messages as msg
from metaserver.interface import Blob, Condition, FileInfo, Fragment, Manifest, ManifestPage, NewManifest, Page, Upload
from wire.auth import ClusterKey
from wire.errors import BadRequest, NotFound, Overloaded, SpeedyError, Unavailable
from wire.http import ServiceClient
from wire.pulse import Pulse, is_alone
from wire.values import from_json, to_json

#: the pause after all servers were asked in vain, growing from one to the other
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 1.0


class HttpMetaStore:
    """Asks the server that answered last; when it does not answer within its share of the time or is overloaded, the
    others, round after round with growing pauses, for `wait_s` seconds in all. All servers work on one database and
    every call is harmless to repeat, so it does not matter which of them answers, nor whether one that died had begun.
    Thread-safe.

    `wait_s` should not be less than the servers' own wait for their database. Errors are those of metaserver.interface.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        key: ClusterKey,
        *,
        wait_s: float = 30.0,
        connect_timeout_s: float = 1.0,
        pool_max: int = 32,
    ) -> None:
        assert base_urls, "at least one MetaServer"
        self._wait_s = wait_s
        self._clients = [
            ServiceClient(
                base_url,
                key,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=wait_s,
                attempts_max=1,
                pool_max=pool_max,
            )
            for base_url in base_urls
        ]
        self._pulses = [Pulse(base_url, key, connect_timeout_s=connect_timeout_s) for base_url in base_urls]
        self._preferred = 0

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for pulse in self._pulses:
            pulse.close()

    def check(self) -> None:
        """Asks each server once and waits for none: readiness is asked often."""
        self._ask("GET", "/v1/check", {}, wait_s=0.0)

    # -- files --------------------------------------------------------------------------------------------------------

    def create_file(self) -> int:
        return int(self._ask("POST", "/v1/files")["file_id"])

    def append_fragments(self, file_id: int, expected_size: int, fragments: Sequence[Fragment]) -> int:
        body = {"file_id": file_id, "expected_size": expected_size, "fragments": msg.to_rows(fragments)}
        return int(self._post("/v1/files/append", body)["size"])

    def commit_file(self, file_id: int, path: str) -> FileInfo:
        return from_json(FileInfo, self._post("/v1/files/commit", {"file_id": file_id, "path": path}))

    def stat(self, path: str) -> FileInfo:
        return from_json(FileInfo, self._get("/v1/files/stat", path=path))

    def fragments(self, file_id: int) -> tuple[Fragment, ...]:
        return msg.from_rows(self._get("/v1/files/fragments", file_id=file_id)["fragments"])

    def list_files(self, prefix: str, after: str = "", limit: int = 1000) -> list[FileInfo]:
        answer = self._get("/v1/files", prefix=prefix, after=after, limit=limit)
        return from_json(list[FileInfo], answer["files"])

    def move(self, source: str, destination: str) -> None:
        self._post("/v1/files/move", {"source": source, "destination": destination})

    def delete_file(self, path: str) -> bool:
        return bool(self._post("/v1/files/delete", {"path": path})["deleted"])

    def abandon_file(self, file_id: int) -> bool:
        return bool(self._post("/v1/files/abandon", {"file_id": file_id})["deleted"])

    def give_up_fragments(self, fragments: Sequence[Fragment]) -> None:
        self._post("/v1/files/give-up", {"fragments": msg.to_rows(fragments)})

    def dead_fragments(self, min_age_s: float, limit: int = 1000) -> list[Fragment]:
        answer = self._get("/v1/dead-fragments", min_age_s=min_age_s, limit=limit)
        return list(msg.from_rows(answer["fragments"]))

    def forget_dead_fragments(self, fids: Sequence[int]) -> None:
        self._post("/v1/dead-fragments/forget", {"fids": list(fids)})

    # -- uploads ------------------------------------------------------------------------------------------------------

    def create_upload(self, repository: str, upload_id: str, digest_state: bytes) -> Upload:
        message = msg.CreateUpload(repository, upload_id, digest_state)
        return from_json(Upload, self._post("/v1/uploads", to_json(message)))

    def upload(self, repository: str, upload_id: str) -> Upload:
        return from_json(Upload, self._get("/v1/uploads", repository=repository, upload_id=upload_id))

    def advance_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest_state: bytes
    ) -> Upload:
        body = {
            "repository": repository,
            "upload_id": upload_id,
            "expected_offset": expected_offset,
            "fragments": msg.to_rows(fragments),
            "digest_state": to_json(digest_state),
        }
        return from_json(Upload, self._post("/v1/uploads/advance", body))

    def finish_upload(
        self, repository: str, upload_id: str, expected_offset: int, fragments: Sequence[Fragment], digest: str
    ) -> Blob:
        body = {
            "repository": repository,
            "upload_id": upload_id,
            "expected_offset": expected_offset,
            "fragments": msg.to_rows(fragments),
            "digest": digest,
        }
        return from_json(Blob, self._post("/v1/uploads/finish", body))

    def cancel_upload(self, repository: str, upload_id: str) -> None:
        self._remove("/v1/uploads/cancel", {"repository": repository, "upload_id": upload_id})

    def expire_upload(self, idle_s: float) -> str | None:
        ended: str | None = self._post("/v1/uploads/expire", {"idle_s": idle_s})["upload_id"]
        return ended

    # -- blobs --------------------------------------------------------------------------------------------------------

    def put_blob(self, repository: str, digest: str, fragments: Sequence[Fragment]) -> Blob:
        body = {"repository": repository, "digest": digest, "fragments": msg.to_rows(fragments)}
        return from_json(Blob, self._post("/v1/blobs", body))

    def blob(self, repository: str, digest: str) -> Blob:
        return from_json(Blob, self._get("/v1/blobs", repository=repository, digest=digest))

    def mount_blob(self, repository: str, digest: str, source: str | None) -> Blob:
        body = {"repository": repository, "digest": digest, "source": source}
        return from_json(Blob, self._post("/v1/blobs/mount", body))

    def mark_damaged(self, digest: str, file_id: int) -> None:
        self._post("/v1/blobs/damaged", {"digest": digest, "file_id": file_id})

    def delete_blob(self, repository: str, digest: str) -> None:
        self._remove("/v1/blobs/delete", {"repository": repository, "digest": digest})

    # -- manifests and tags -------------------------------------------------------------------------------------------

    def put_manifest(
        self, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Sequence[Condition] = ()
    ) -> Manifest:
        answer = self._post("/v1/manifests", to_json(msg.PutManifest.of(repository, manifest, tags, conditions)))
        return from_json(msg.ManifestAnswer, answer).manifest()

    def manifest(self, repository: str, reference: str) -> Manifest:
        answer = self._get("/v1/manifests", repository=repository, reference=reference)
        return from_json(msg.ManifestAnswer, answer).manifest()

    def delete_manifest(self, repository: str, digest: str) -> None:
        self._remove("/v1/manifests/delete", {"repository": repository, "digest": digest})

    def delete_tag(self, repository: str, tag: str, conditions: Sequence[Condition] = ()) -> None:
        self._remove("/v1/tags/delete", to_json(msg.DeleteTag(repository, tag, tuple(conditions))))

    def tags(self, repository: str, after: str = "", limit: int = 1000) -> Page:
        return from_json(Page, self._get("/v1/tags", repository=repository, after=after, limit=limit))

    def repositories(self, after: str = "", limit: int = 1000) -> Page:
        return from_json(Page, self._get("/v1/repositories", after=after, limit=limit))

    def referrers(
        self, repository: str, subject: str, artifact_type: str | None = None, after: str = ""
    ) -> ManifestPage:
        answer = self._get(
            "/v1/referrers", repository=repository, subject=subject, artifact_type=artifact_type, after=after
        )
        return from_json(msg.ManifestPageAnswer, answer).page()

    # -- calling ------------------------------------------------------------------------------------------------------

    def _get(self, route: str, /, **params: Any) -> Any:
        return self._ask("GET", route, params)

    def _post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body=body)

    def _remove(self, path: str, body: Any) -> None:
        self._ask("POST", path, body=body, removes=True)

    def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        body: Any = None,
        wait_s: float | None = None,
        removes: bool = False,
    ) -> Any:
        wait_s = self._wait_s if wait_s is None else wait_s
        deadline_s = time.monotonic() + wait_s
        pause_s = PAUSE_FIRST_S
        sent_before = False
        while True:
            failures: list[SpeedyError] = []
            for asked, number in enumerate(self._order()):
                pulse = self._pulses[number]
                alone = is_alone(pulse, self._pulses)
                if failures and pulse.still and not alone:
                    continue
                # An equal share for each server still to be asked: one that is silent must not use up all the time.
                share_s = max(1.0, (deadline_s - time.monotonic()) / (len(self._clients) - asked))
                try:
                    with nullcontext() if alone else pulse.watched():
                        answer = self._clients[number].json(
                            method, path, params=params, json=body, read_timeout_s=share_s, fresh=removes
                        )
                except UnicodeEncodeError as error:
                    raise BadRequest(f"{error.object!r} is not valid Unicode") from error
                except SpeedyError as error:
                    if removes and sent_before and isinstance(error, NotFound):
                        return None  # it is gone: the request whose answer was lost was carried out
                    if not error.retryable:
                        raise
                    sent_before = sent_before or not (error.unsent or isinstance(error, Overloaded))
                    failures.append(error)
                    if self._preferred == number:
                        self._preferred = (number + 1) % len(self._clients)
                    if wait_s and time.monotonic() >= deadline_s:
                        break
                else:
                    self._preferred = number
                    return answer
            if time.monotonic() + pause_s >= deadline_s:
                raise _together(failures)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter: callers that failed together
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    def _order(self) -> list[int]:
        first = self._preferred
        order = [(first + step) % len(self._clients) for step in range(len(self._clients))]
        return sorted(order, key=lambda number: self._pulses[number].still)


def _together(failures: list[SpeedyError]) -> SpeedyError:
    if len(failures) == 1:
        return failures[0]
    return Unavailable("no MetaServer answers: " + "; ".join(str(failure) for failure in failures))
