import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from wire import logs
from wire.context import bind_request_id, request_id, run_in_context


@pytest.fixture
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("speedy")
    before = (root.level, list(root.handlers), ours.level)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    ours.setLevel(before[2])


@pytest.mark.usefixtures("restored")
def test_a_json_line_carries_fields_and_the_request_id() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    with bind_request_id("r-1"):
        logging.getLogger("speedy.room").info("chunk %d stored", 7, extra={"fid": 7, "name_": "ü"})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["level"], line["logger"]) == ("chunk 7 stored", "info", "speedy.room")
    assert (line["fid"], line["name_"], line["request_id"]) == (7, "ü", "r-1")
    assert line["time"].endswith("Z")


@pytest.mark.usefixtures("restored")
def test_a_text_line_is_one_line_whatever_a_client_sends() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("speedy.room").info("GET /a\nfake line", extra={"path": 'a "b"\nc', "n": 1})
    (line,) = stream.getvalue().splitlines()
    assert "\\nfake line" in line
    assert line.endswith('path="a \\"b\\"\\nc" n=1')


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("format", "ends_with"),
    [
        ("text", 'GET "/ 200 \\" x" 404 ms=1.5\n'),
        ("json", '"message": "GET / 200 \\" x 404", "path": "/ 200 \\" x", "ms": 1.5, "bytes_in": null}\n'),
    ],
)
def test_text_says_a_field_once_where_json_has_all_of_them(format: logs.LogFormat, ends_with: str) -> None:
    stream = io.StringIO()
    logs.configure("info", format, stream)
    told = {"path": '/ 200 " x'}
    extra = {**told, "ms": 1.5, "bytes_in": None}
    logging.getLogger("speedy.room").info("GET %(path)s 404", told, extra=extra)
    assert stream.getvalue().endswith(ends_with)


@pytest.mark.usefixtures("restored")
def test_configuring_again_replaces_and_libraries_speak_from_warning_on() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "text", first)
    logs.configure("info", "text", second)
    logging.getLogger("speedy.room").info("ours")
    logging.getLogger("somelibrary").info("theirs")
    logging.getLogger("somelibrary").warning("their trouble")
    assert first.getvalue() == ""
    assert [line.split()[3] for line in second.getvalue().splitlines()] == ["ours", "their"]


@pytest.mark.usefixtures("restored")
def test_a_traceback_is_kept() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("speedy.room").exception("failed")
    assert "RuntimeError: broken" in json.loads(stream.getvalue())["traceback"]


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="log level"):
        logs.configure("loud")
    with pytest.raises(ValueError, match="log format"):
        logs.configure("info", "xml")  # type: ignore[arg-type]


def test_a_request_id_holds_inside_its_block_and_in_threads_that_carry_it() -> None:
    assert request_id() == ""
    seen: list[str] = []
    with bind_request_id("outer") as bound:
        assert bound == request_id() == "outer"
        with bind_request_id(None) as inner:
            assert inner == request_id() != "outer"
        carried = run_in_context(lambda: seen.append(request_id()))
        plain = threading.Thread(target=lambda: seen.append(request_id()))
        plain.start()
        plain.join()
    threads = [threading.Thread(target=carried) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["", *["outer"] * 5]
    assert request_id() == ""
