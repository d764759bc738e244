"""What every ChunkStore refuses before it looks at its chunks; one place, so that all implementations refuse alike."""

from __future__ import annotations

import re

from chunkserver.interface import CHUNK_BYTES_MAX
from wire.errors import BadRequest, PayloadTooLarge, RangeNotSatisfiable

FID_MAX = (1 << 64) - 1
LIST_LIMIT_MAX = 10_000
RANGES_MAX = 4096
VOLUME_MAX = (1 << 32) - 1
VOLUMES_MAX = 4096
_OPERATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


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


def check_volume_list(volume: int, after_offset: int, limit: int) -> None:
    if volume < 0 or not 0 <= after_offset <= FID_MAX:
        raise BadRequest(f"a listing of volume {volume} cannot start after offset {after_offset}")
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise BadRequest(f"a listing has 1 to {LIST_LIMIT_MAX} chunks, not {limit}")


def check_ranges(first_fid: int, span_log2: int, count: int) -> None:
    if not 1 <= count <= RANGES_MAX or not 0 <= span_log2 <= 63:
        raise BadRequest(f"1 to {RANGES_MAX} ranges of 2**0 to 2**63 fids are told of, not {count} of 2**{span_log2}")
    if first_fid < 0 or first_fid % (1 << span_log2) or first_fid + (count << span_log2) > FID_MAX + 1:
        raise BadRequest(
            f"{count} ranges of 2**{span_log2} fids from {first_fid}: not at a multiple, or beyond the last fid"
        )


def check_operation(operation_id: str, volumes: tuple[int, ...], bytes_s: int | None) -> None:
    if not _OPERATION_ID.fullmatch(operation_id):
        raise BadRequest(f"{operation_id[:80]!r} is no operation's id: 1 to 64 letters, digits and '-'")
    if len(volumes) > VOLUMES_MAX or any(not 1 <= volume <= VOLUME_MAX for volume in volumes):
        raise BadRequest(f"up to {VOLUMES_MAX} volumes, by numbers from 1 to {VOLUME_MAX}, are wanted")
    if bytes_s is not None and not 0 <= bytes_s <= FID_MAX:
        raise BadRequest(f"{bytes_s} bytes per second is no rate")


def check_share(below: float | None) -> None:
    if below is not None and not 0 < below <= 1:
        raise BadRequest(f"a live share is above 0 and at most 1, not {below}")


def check_rate(bytes_s: int | None) -> None:
    if bytes_s is not None and not 1 <= bytes_s <= FID_MAX:
        raise BadRequest(f"{bytes_s} bytes per second is no rate")
