"""wire.arguments: what internal routes take from their requests."""

from dataclasses import dataclass

import pytest
from flask import Flask

from wire.arguments import announced_crc32c, body_as, number, query_number, query_text
from wire.errors import BadRequest, PayloadTooLarge


@dataclass(frozen=True, slots=True)
class Named:
    name: str
    count: int = 1


def asked(app: Flask, query: str = "", *, body: bytes = b"", crc: str | None = None):  # type: ignore[no-untyped-def]
    headers = {} if crc is None else {"Speedy-Crc32c": crc}
    return app.test_request_context(f"/?{query}", method="POST", data=body, headers=headers)


@pytest.fixture
def app() -> Flask:
    return Flask(__name__)


def test_a_body_is_a_value_of_its_type(app: Flask) -> None:
    with asked(app, body=b'{"name": "x", "later": true}'):
        assert body_as(Named, 100) == Named("x")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": 1}', b'{"count": 1}', b"\xff", b"[" * 50_000])
def test_another_body_is_refused(app: Flask, body: bytes) -> None:
    with asked(app, body=body), pytest.raises(BadRequest):
        body_as(Named, 100_000)


def test_a_body_beyond_its_bound_is_refused(app: Flask) -> None:
    with asked(app, body=b'{"name": "' + b"x" * 100 + b'"}'), pytest.raises(PayloadTooLarge):
        body_as(Named, 100)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1.0", "0x1", "1e3", "1_0", "\u0661", "1" * 21])
def test_what_is_no_whole_number_is_refused(app: Flask, text: str) -> None:
    with pytest.raises(BadRequest, match="limit"):
        number("limit", text)


def test_the_query_gives_numbers_and_texts(app: Flask) -> None:
    with asked(app, "n=18446744073709551615&name=a%2Fb"):
        assert query_number("n") == 2**64 - 1
        assert query_text("name") == "a/b"
        assert query_number("limit", 7) == 7
        for missing in (query_number, query_text):
            with pytest.raises(BadRequest, match="lacks limit"):
                missing("limit")
    with asked(app, "limit="), pytest.raises(BadRequest):
        query_number("limit", 7)


@pytest.mark.parametrize(
    "crc", [None, "", "123", "0x123456", "-1234567", "+1234567", "1_234_56", "123456789", "1234567g"]
)
def test_a_checksum_is_eight_hexadecimal_digits(app: Flask, crc: str | None) -> None:
    with asked(app, crc=crc), pytest.raises(BadRequest, match="CRC-32C"):
        announced_crc32c()
    with asked(app, crc="DEADbeef"):
        assert announced_crc32c() == 0xDEADBEEF
