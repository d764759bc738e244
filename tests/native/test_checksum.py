"""CRC32C: known values, and every implementation against the table."""

import os
import random

import pytest

from native._engine import ffi, lib
from native.checksum import crc32c, crc32c_combine

IMPLEMENTATIONS = {"table": lib.ENGINE_CRC_TABLE, "sse42": lib.ENGINE_CRC_SSE42, "isal": lib.ENGINE_CRC_ISAL}


def crc_by(kind: int, data: bytes, crc: int = 0) -> int:
    return lib.engine_crc32c_by(kind, crc, ffi.from_buffer("uint8_t[]", data), len(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("name", sorted(IMPLEMENTATIONS))
def test_every_implementation_gives_what_the_table_gives(name: str) -> None:
    kind = IMPLEMENTATIONS[name]
    if not lib.engine_crc32c_has(kind):
        pytest.skip(f"no {name} in this build or CPU")
    chance = random.Random(3)
    data = os.urandom(70_000)
    for length in [*range(70), 1000, 4096, 65_537]:
        start = chance.randint(0, 64)
        piece = data[start : start + length]
        crc = chance.getrandbits(32)
        assert crc_by(kind, piece, crc) == crc_by(lib.ENGINE_CRC_TABLE, piece, crc)


def test_continuing_and_combining_equal_the_crc_of_the_whole() -> None:
    chance = random.Random(4)
    data = os.urandom(600_000)
    for _ in range(50):
        cut = chance.randint(0, len(data))
        first, second = data[:cut], data[cut:]
        assert crc32c(second, crc32c(first)) == crc32c(data)
        assert crc32c_combine(crc32c(first), crc32c(second), len(second)) == crc32c(data)
