"""Range headers of downloads and Content-Range headers of uploads."""

from __future__ import annotations

import pytest

from registry_driver.ranges import (
    RANGES_MAX,
    ByteRange,
    ContentRangeInvalid,
    parse_content_range,
    parse_range,
)
from wire.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [ByteRange(0, 1)]),
        ("bytes=10-19", [ByteRange(10, 10)]),
        ("bytes=90-", [ByteRange(90, 10)]),
        ("bytes=-5", [ByteRange(95, 5)]),
        ("bytes=-1000", [ByteRange(0, 100)]),
        ("bytes=90-1000", [ByteRange(90, 10)]),
        ("bytes=0-99", [ByteRange(0, 100)]),
        ("bytes=0-1,5-6", [ByteRange(0, 2), ByteRange(5, 2)]),
        ("bytes=0-1, 200-300 ,-1", [ByteRange(0, 2), ByteRange(99, 1)]),
        ("Bytes=0-1", [ByteRange(0, 2)]),
        ("bytes=0-1,", [ByteRange(0, 2)]),
        ("bytes=, ,0-1,,5-6", [ByteRange(0, 2), ByteRange(5, 2)]),
        ("bytes=5-" + "9" * 30, [ByteRange(5, 95)]),
        ("bytes=-" + "9" * 30, [ByteRange(0, 100)]),
    ],
)
def test_ranges_are_clamped_to_the_content(header: str, expected: list[ByteRange]) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "items=0-1",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1;2-3",
        "bytes=1",
        "bytes=+1-2",
        "bytes=0-80,10-90",
        "bytes=" + "0-0," * RANGES_MAX + "0-0",
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-1,x",
        "bytes= , ,",
        "bytes =0-1",
    ],
)
def test_ranges_of_no_use_are_ignored(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=500-0", "bytes=-0", "bytes=100-,200-", "bytes=" + "9" * 30 + "-"]
)
def test_ranges_without_a_byte_are_refused_with_the_size(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(header, 100)
    assert caught.value.details["size"] == 100


def test_empty_content_is_the_answer_as_a_whole_whatever_range_is_asked_for() -> None:
    """Who fetches each layer from its byte 0 on by ranges, as containerd does, must get an empty one too."""
    for header in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=7-"):
        assert parse_range(header, 0) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("0-9", ByteRange(0, 10)),
        ("5-5", ByteRange(5, 1)),
        ("bytes 5-9/*", ByteRange(5, 5)),
        ("bytes 5-9/100", ByteRange(5, 5)),
        ("bytes=5-9", ByteRange(5, 5)),
    ],
)
def test_both_forms_of_content_range_are_read(header: str | None, expected: ByteRange | None) -> None:
    assert parse_content_range(header) == expected


@pytest.mark.parametrize("header", ["", "5", "-5", "5-", "9-5", "a-b", "0-1,2-3", "bytes */5", "0-" + "9" * 40])
def test_other_content_ranges_are_refused(header: str) -> None:
    with pytest.raises(ContentRangeInvalid):
        parse_content_range(header)
