"""CRC32C, the checksum of every chunk: hardware's or ISA-L's where there is one, through the compiled engine."""

from native._engine import ffi, lib
from native.values import Buffer


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720) of ``data``, continuing ``crc``."""
    with ffi.from_buffer("uint8_t[]", data) as view:
        return lib.engine_crc32c(crc, view, len(view))


def crc32c_combine(crc_a: int, crc_b: int, length_b: int) -> int:
    """The CRC32C of A followed by B, from the CRC of each and the length of B in bytes."""
    return lib.engine_crc32c_combine(crc_a, crc_b, length_b)
