"""The MetaServer over HTTP. Parses, calls one method of the store, formats. Bodies: metaserver.messages.

POST /v1/files                     {"file_id"}        POST /v1/uploads            Upload
POST /v1/files/append              {"size"}           GET  /v1/uploads            Upload
POST /v1/files/commit              FileInfo           POST /v1/uploads/advance    Upload
POST /v1/files/move                204                POST /v1/uploads/finish     Blob
POST /v1/files/delete              {"deleted"}        POST /v1/uploads/cancel     204
POST /v1/files/abandon             {"deleted"}        POST /v1/blobs              Blob
GET  /v1/files                     {"files": [...]}   GET  /v1/blobs              Blob
GET  /v1/files/stat                FileInfo           POST /v1/blobs/mount        Blob
GET  /v1/files/fragments           {"fragments"}      POST /v1/blobs/delete       204
GET  /v1/dead-fragments            {"fragments"}      POST /v1/manifests          ManifestAnswer
POST /v1/dead-fragments/forget     204                GET  /v1/manifests          ManifestAnswer
GET  /v1/tags                      Page               POST /v1/manifests/delete   204
POST /v1/tags/delete               204                GET  /v1/referrers          ManifestPageAnswer
GET  /v1/repositories              Page               POST /v1/blobs/damaged      204
GET  /v1/check                     204                POST /v1/uploads/expire     {"upload_id"}
POST /v1/files/give-up             204
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

from flask import Flask, Response, jsonify, request

from metaserver import messages as msg
from metaserver.interface import Catalogue, FileStore, MetaStore
from wire.arguments import body_as, query_number, query_text
from wire.auth import ClusterKey
from wire.errors import BadRequest
from wire.service import create_service
from wire.values import to_json

T = TypeVar("T")

#: a manifest's annotations may take most of this; 10,000 fragments take less than 1 MiB
BODY_BYTES_MAX = 32 << 20


def create_app(store: MetaStore, *, key: ClusterKey | None) -> Flask:
    """`key` None: no check of the cluster key. /readyz is the store's check()."""
    app = create_service("metaserver", key=key, ready=store.check)
    _add_files(app, store)
    _add_uploads(app, store)
    _add_blobs(app, store)
    _add_manifests(app, store)
    _add_listings(app, store)

    @app.get("/v1/check")
    def check() -> Response:
        store.check()
        return _done()

    return app


def _add_files(app: Flask, store: FileStore) -> None:
    @app.post("/v1/files")
    def create_file() -> Response:
        return jsonify(file_id=store.create_file())

    @app.post("/v1/files/append")
    def append_fragments() -> Response:
        wanted = _body(msg.AppendFragments)
        fragments = msg.from_rows(wanted.fragments)
        return jsonify(size=store.append_fragments(wanted.file_id, wanted.expected_size, fragments))

    @app.post("/v1/files/commit")
    def commit_file() -> Response:
        wanted = _body(msg.CommitFile)
        return _value(store.commit_file(wanted.file_id, wanted.path))

    @app.post("/v1/files/move")
    def move() -> Response:
        wanted = _body(msg.MoveFile)
        store.move(wanted.source, wanted.destination)
        return _done()

    @app.post("/v1/files/delete")
    def delete_file() -> Response:
        return jsonify(deleted=store.delete_file(_body(msg.DeleteFile).path))

    @app.post("/v1/files/abandon")
    def abandon_file() -> Response:
        return jsonify(deleted=store.abandon_file(_body(msg.AbandonFile).file_id))

    @app.get("/v1/files")
    def list_files() -> Response:
        return jsonify(
            files=to_json(store.list_files(query_text("prefix"), query_text("after"), query_number("limit")))
        )

    @app.get("/v1/files/stat")
    def stat() -> Response:
        return _value(store.stat(query_text("path")))

    @app.get("/v1/files/fragments")
    def fragments() -> Response:
        return jsonify(fragments=msg.to_rows(store.fragments(query_number("file_id"))))

    @app.post("/v1/files/give-up")
    def give_up_fragments() -> Response:
        store.give_up_fragments(msg.from_rows(_body(msg.GiveUpFragments).fragments))
        return _done()

    @app.get("/v1/dead-fragments")
    def dead_fragments() -> Response:
        found = store.dead_fragments(_seconds("min_age_s"), query_number("limit"))
        return jsonify(fragments=msg.to_rows(found))

    @app.post("/v1/dead-fragments/forget")
    def forget_dead_fragments() -> Response:
        store.forget_dead_fragments(_body(msg.ForgetFragments).fids)
        return _done()


def _add_uploads(app: Flask, store: Catalogue) -> None:
    @app.post("/v1/uploads")
    def create_upload() -> Response:
        wanted = _body(msg.CreateUpload)
        return _value(store.create_upload(wanted.repository, wanted.upload_id, wanted.digest_state))

    @app.get("/v1/uploads")
    def upload() -> Response:
        return _value(store.upload(query_text("repository"), query_text("upload_id")))

    @app.post("/v1/uploads/advance")
    def advance_upload() -> Response:
        wanted = _body(msg.AdvanceUpload)
        return _value(
            store.advance_upload(
                wanted.repository,
                wanted.upload_id,
                wanted.expected_offset,
                msg.from_rows(wanted.fragments),
                wanted.digest_state,
            )
        )

    @app.post("/v1/uploads/finish")
    def finish_upload() -> Response:
        wanted = _body(msg.FinishUpload)
        return _value(
            store.finish_upload(
                wanted.repository,
                wanted.upload_id,
                wanted.expected_offset,
                msg.from_rows(wanted.fragments),
                wanted.digest,
            )
        )

    @app.post("/v1/uploads/cancel")
    def cancel_upload() -> Response:
        wanted = _body(msg.CancelUpload)
        store.cancel_upload(wanted.repository, wanted.upload_id)
        return _done()

    @app.post("/v1/uploads/expire")
    def expire_upload() -> Response:
        return jsonify(upload_id=store.expire_upload(_body(msg.ExpireUpload).idle_s))


def _add_blobs(app: Flask, store: Catalogue) -> None:
    @app.post("/v1/blobs")
    def put_blob() -> Response:
        wanted = _body(msg.PutBlob)
        return _value(store.put_blob(wanted.repository, wanted.digest, msg.from_rows(wanted.fragments)))

    @app.get("/v1/blobs")
    def blob() -> Response:
        return _value(store.blob(query_text("repository"), query_text("digest")))

    @app.post("/v1/blobs/mount")
    def mount_blob() -> Response:
        wanted = _body(msg.MountBlob)
        return _value(store.mount_blob(wanted.repository, wanted.digest, wanted.source))

    @app.post("/v1/blobs/damaged")
    def mark_damaged() -> Response:
        wanted = _body(msg.MarkDamaged)
        store.mark_damaged(wanted.digest, wanted.file_id)
        return _done()

    @app.post("/v1/blobs/delete")
    def delete_blob() -> Response:
        wanted = _body(msg.DeleteContent)
        store.delete_blob(wanted.repository, wanted.digest)
        return _done()


def _add_manifests(app: Flask, store: Catalogue) -> None:
    @app.post("/v1/manifests")
    def put_manifest() -> Response:
        wanted = _body(msg.PutManifest)
        manifest = store.put_manifest(wanted.repository, wanted.manifest(), list(wanted.tags), wanted.conditions)
        return _value(msg.ManifestAnswer.of(manifest))

    @app.get("/v1/manifests")
    def manifest() -> Response:
        return _value(msg.ManifestAnswer.of(store.manifest(query_text("repository"), query_text("reference"))))

    @app.post("/v1/manifests/delete")
    def delete_manifest() -> Response:
        wanted = _body(msg.DeleteContent)
        store.delete_manifest(wanted.repository, wanted.digest)
        return _done()

    @app.post("/v1/tags/delete")
    def delete_tag() -> Response:
        wanted = _body(msg.DeleteTag)
        store.delete_tag(wanted.repository, wanted.tag, wanted.conditions)
        return _done()

    @app.get("/v1/referrers")
    def referrers() -> Response:
        page = store.referrers(
            query_text("repository"), query_text("subject"), request.args.get("artifact_type"), query_text("after")
        )
        return _value(msg.ManifestPageAnswer.of(page))


def _add_listings(app: Flask, store: Catalogue) -> None:
    @app.get("/v1/tags")
    def tags() -> Response:
        return _value(store.tags(query_text("repository"), query_text("after"), query_number("limit")))

    @app.get("/v1/repositories")
    def repositories() -> Response:
        return _value(store.repositories(query_text("after"), query_number("limit")))


def _value(value: Any) -> Response:
    return jsonify(to_json(value))


def _done() -> Response:
    return Response(status=204)


def _body(kind: type[T]) -> T:
    return body_as(kind, BODY_BYTES_MAX)


def _seconds(name: str) -> float:
    value = query_text(name)
    try:
        seconds = float(value)
    except ValueError as error:
        raise BadRequest(f"{name}: a number of seconds is wanted, got {value[:40]!r}") from error
    if not math.isfinite(seconds):
        raise BadRequest(f"{name}: a number of seconds is wanted, got {value[:40]!r}")
    return seconds
