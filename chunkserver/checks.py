"""What every ChunkStore refuses before it looks at its chunks; one place, so that all implementations refuse alike."""

from __future__ import annotations

from chunkserver.interface import CHUNK_BYTES_MAX
from wire.errors import BadRequest, PayloadTooLarge, RangeNotSatisfiable

FID_MAX = (1 << 64) - 1
LIST_LIMIT_MAX = 10_000


def check_fid(fid: int) -> None:
    if not 1 <= fid <= FID_MAX:
        raise BadRequest(f"fid {fid} is not a number from 1 to {FID_MAX}")


def check_payload(fid: int, length: int, crc32c: int) -> None:
    """`length` in bytes."""
    check_fid(fid)
    if length > CHUNK_BYTES_MAX:
        raise PayloadTooLarge(f"chunk {fid} has {length} bytes, at most {CHUNK_BYTES_MAX} are taken")
    if not 0 <= crc32c <= 0xFFFFFFFF:
        raise BadRequest(f"chunk {fid}: {crc32c} is no CRC-32C")


def check_range(fid: int, offset: int, wanted: int, length: int) -> None:
    """The bytes [offset, offset + wanted) lie inside a chunk of `length` bytes."""
    if offset < 0 or offset + wanted > length:
        raise RangeNotSatisfiable(
            f"chunk {fid} has {length} bytes, {wanted} from {offset} on were asked for", length=length
        )


def check_list(after_fid: int, limit: int) -> None:
    if not 0 <= after_fid <= FID_MAX:
        raise BadRequest(f"a listing cannot start after fid {after_fid}")
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise BadRequest(f"a listing has 1 to {LIST_LIMIT_MAX} chunks, not {limit}")
