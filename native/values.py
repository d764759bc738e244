"""What the storage engine tells of itself. Sizes in bytes, times in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """One volume, sizes in bytes; live + dead + pad + free == size. Needles lie before ``tail``.

    ``state`` is "standby", "active", "closing", "sealed", "failed" or "quarantined". ``allocated_bytes`` is what the
    file has taken from the file system, ``punched_bytes`` what it has given back of that.
    """

    id: int
    uuid: str
    state: str
    size_bytes: int
    tail: int
    chunks: int
    payload_bytes: int
    live_bytes: int
    dead_bytes: int
    pad_bytes: int
    free_bytes: int
    allocated_bytes: int
    punched_bytes: int
    fid_max: int


@dataclass(frozen=True, slots=True)
class RangeDigest:
    """The live chunks of one range of fids: number, payload bytes, and a digest (32 hex digits) over fid, length and
    CRC of each. Equal digests mean equal chunks, on any machine and in any version of this program."""

    first_fid: int
    chunks: int
    payload_bytes: int
    digest: str
