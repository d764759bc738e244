import json
import logging

import pytest
from flask import Flask, Response, jsonify, request
from prometheus_client import Counter
from werkzeug.test import Client, TestResponse

from wire.auth import ClusterKey
from wire.body import RequestBody
from wire.errors import ERRORS_BY_CODE, Overloaded, SpeedyError, StorageFull, Unavailable
from wire.response import StreamResponse
from wire.service import create_service, metrics_of
from wire.version import version

KEY = ClusterKey(b"s" * 32)


def make(name: str = "room", *, key: ClusterKey | None = None, lacking: list[SpeedyError] | None = None) -> Flask:
    def ready() -> None:
        if lacking:
            raise lacking[0]

    app = create_service(name, key=key, ready=ready)

    @app.route("/v1/items/<int:number>", methods=["GET", "PUT"])
    def item(number: int) -> Response:
        if request.method == "PUT":
            return jsonify(length=len(RequestBody(request.environ).read_all(1000)))
        return jsonify(number=number)

    @app.get("/v1/paths/<path:path>")
    def at_path(path: str) -> Response:
        return jsonify(path=path)

    @app.get("/v1/errors/<code>")
    def error(code: str) -> Response:
        raise ERRORS_BY_CODE[code]("why", fid=1)

    @app.get("/v1/defects")
    def defect() -> Response:
        raise ZeroDivisionError("inside")

    @app.get("/v1/bytes")
    def give() -> StreamResponse:
        return StreamResponse([memoryview(b"12345")], length=5)

    return app


def get(app: Flask, path: str, **headers: str) -> TestResponse:
    return Client(app).get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE))
def test_each_error_has_its_status_and_json_form(code: str) -> None:
    response = get(make(), f"/v1/errors/{code}")
    kind = ERRORS_BY_CODE[code]
    assert response.status_code == kind.status
    if kind.status == 500:
        assert response.json == {"error": {"code": "internal", "message": "internal error", "details": {}}}
    else:
        assert response.json == {"error": {"code": code, "message": "why", "details": {"fid": 1}}}
    assert ("Retry-After" in response.headers) == issubclass(kind, Overloaded)


def test_a_defect_is_told_to_the_log_once_and_not_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    response = get(make(), "/v1/defects")
    assert response.status_code == 500
    assert b"inside" not in response.data
    assert response.json is not None
    assert response.json["error"]["code"] == "internal"
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]


def test_unknown_routes_and_methods_are_json_too() -> None:
    app = make()
    missing = get(app, "/nowhere")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "not_found")  # type: ignore[index]
    wrong = Client(app).delete("/v1/items/1")
    assert (wrong.status_code, wrong.json["error"]["code"]) == (405, "method_not_allowed")  # type: ignore[index]
    assert "PUT" in wrong.headers["Allow"]


def test_two_slashes_are_not_one() -> None:
    assert get(make(), "/v1/paths/a//b").json == {"path": "a//b"}


def test_ready_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wire.service.READY_KEEP_S", 0.0)
    lacking: list[SpeedyError] = []
    app = make(lacking=lacking)
    assert get(app, "/readyz").status_code == 200
    lacking.append(Unavailable("no database"))
    assert get(app, "/readyz").status_code == 503
    assert b"no database" in get(app, "/readyz").data
    lacking[0] = ERRORS_BY_CODE["storage_full"]("the disk is full")
    assert get(app, "/readyz").status_code == 503
    assert get(app, "/healthz").json == {"status": "ok", "service": "room", "version": version()}


def test_ready_tells_of_refused_writes_and_stays_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wire.service.READY_KEEP_S", 0.0)
    refusals: list[SpeedyError] = []

    def writable() -> None:
        if refusals:
            raise refusals[0]

    app = create_service("room", key=None, ready=lambda: None, writable=writable)
    assert get(app, "/readyz").json == {"status": "ready", "service": "room", "writes": "accepted"}
    assert 'speedy_writes_accepted{room="room"} 1.0' in get(app, "/metrics").text
    refusals.append(StorageFull("no byte is left"))
    answer = get(app, "/readyz")
    assert answer.status_code == 200
    assert answer.json == {
        "status": "ready",
        "service": "room",
        "writes": "refused",
        "reason": {"code": "storage_full", "message": "no byte is left"},
    }
    assert 'speedy_writes_accepted{room="room"} 0.0' in get(app, "/metrics").text
    assert get(make(), "/readyz").json == {"status": "ready", "service": "room"}


def test_the_key_is_asked_for_everywhere_but_on_the_open_paths() -> None:
    app = make(key=KEY)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert get(app, path).status_code == 200
    for path in ("/v1/items/1", "/nowhere", "/healthz/", "//healthz", "/metrics/x"):
        assert get(app, path).status_code == 401
    assert get(app, "/v1/items/1", Authorization=KEY.sign("GET", "/v1/items/1")).status_code == 200
    assert get(app, "/v1/items/1?a=%2F", Authorization=KEY.sign("GET", "/v1/items/1?a=%2F")).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1._X", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("a\u00e4", False), ("", False)],
)
def test_a_request_id_is_taken_over_when_it_is_harmless(given: str, kept: bool) -> None:
    response = get(make(), "/v1/items/1", X_Request_Id=given)
    told = response.headers.getlist("X-Request-Id")
    assert len(told) == 1
    assert (told[0] == given) is kept
    assert told[0]


def test_one_line_is_logged_per_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = make("myroom")
    Client(app).put("/v1/items/5", data=b"hello").close()
    get(app, "/v1/bytes").close()
    get(app, "/healthz").close()
    lines = [record for record in caplog.records if record.name == "speedy.myroom"]
    assert [line.getMessage() for line in lines] == ["PUT /v1/items/5 200", "GET /v1/bytes 200"]
    first = vars(lines[0])
    assert (first["room"], first["status"], first["bytes_in"]) == ("myroom", 200, 5)
    assert first["ms"] >= 0
    assert vars(lines[1])["bytes_out"] == 5


def scrape(app: Flask) -> list[str]:
    return get(app, "/metrics").text.splitlines()


def test_requests_are_counted_by_route_not_by_path() -> None:
    app = make()
    for number in range(3):
        get(app, f"/v1/items/{number}").close()
    get(app, "/wild/path").close()
    Client(app).open("/v1/items/1", method="STRANGE").close()
    lines = scrape(app)
    route = "/v1/items/<int:number>"
    assert f'speedy_requests_total{{method="GET",room="room",route="{route}",status="200"}} 3.0' in lines
    assert f'speedy_request_seconds_count{{method="GET",room="room",route="{route}"}} 3.0' in lines
    assert any('route="unmatched",status="404"' in line for line in lines)
    assert any('method="other"' in line for line in lines)
    assert not any("wild" in line or "STRANGE" in line for line in lines)
    assert 'speedy_requests_in_flight{room="room"} 1.0' in lines, "only the one that asks"


def test_several_apps_in_one_process_do_not_share_metrics() -> None:
    one, other = make("one"), make("other")
    Counter("speedy_things", "Things", registry=metrics_of(one)).inc(5)
    get(one, "/v1/items/1").close()
    assert "speedy_things_total 5.0" in scrape(one)
    assert not any("speedy_things" in line or "/v1/items" in line for line in scrape(other))


def test_answers_are_compact_json() -> None:
    assert get(make(), "/v1/items/5").data == b'{"number":5}\n'
    assert json.loads(get(make(), "/healthz").data)["service"] == "room"
