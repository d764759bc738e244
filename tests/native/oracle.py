"""A second reader of the engine's files, in pure Python, written from the format comments in native/ alone.

It reads a directory as it lies there, of a store that is open or not, and changes nothing. It trusts no checkpoint: the
chunks come from a scan of every volume and the delete logs; what checkpoints say is returned beside it to be compared.
Slow and simple on purpose. Sizes and offsets in bytes.
"""

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

BLOCK = 4096
DATA_START = 2 * BLOCK
ALIGNMENT = 64
HEADER_MIN, HEADER_MAX, HEADER_FIXED = 128, 8192, 96
CHUNK_BYTES_MAX = 64 << 20
PAD, TOMBSTONE = 1, 2
EVERYWHERE = 0  # as an offset in a delete log: every needle of the fid
CREATE, SEAL, FAIL, QUARANTINE, REPLACE, COMPACT, WITHDRAW = 1, 2, 3, 4, 5, 6, 7


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


@lru_cache(maxsize=4096)
def crc32c(data: bytes) -> int:
    """CRC32C (RFC 3720, Castagnoli), reflected polynomial 0x82F63B78."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True, slots=True)
class Needle:
    """A needle with a valid header. ``payload`` is None when a block fails its CRC, and for a PAD."""

    offset: int
    header_length: int
    flags: int
    fid: int
    seq: int
    seq_span: int
    synced_seq: int
    length: int
    crc: int
    payload: bytes | None

    @property
    def footprint(self) -> int:
        return round_up(self.header_length + self.length, ALIGNMENT)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint: ``entries`` are (fid, offset, length, crc), the chunks before ``tail`` that were live."""

    tail: int
    next_seq: int
    fid_max: int
    pad_bytes: int
    entries: frozenset[tuple[int, int, int, int]]


@dataclass(slots=True)
class Volume:
    """One volume and what its logs say of it. ``deleted`` holds (fid, offset)."""

    id: int
    uuid: bytes
    size: int
    needles: list[Needle] = field(default_factory=list)
    deleted: set[tuple[int, int]] = field(default_factory=set)
    delete_fid_max: int = 0
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    damaged_records: int = 0

    @property
    def tail(self) -> int:
        return self.needles[-1].offset + self.needles[-1].footprint if self.needles else DATA_START

    @property
    def pad_bytes(self) -> int:
        """Superblocks, and before the tail all that is neither a chunk's needle nor was one."""
        return self.tail - sum(needle.footprint for needle in self.needles if not needle.flags & PAD)


@dataclass(slots=True)
class Store:
    """All of a directory. ``live`` maps a fid to its volume's id and needle; ``events`` a volume's id to what the
    MANIFEST tells of it."""

    cluster_id: bytes
    disk_id: bytes
    volumes: dict[int, Volume]
    events: dict[int, set[int]]
    live: dict[int, tuple[int, Needle]]
    unreadable: list[str]
    damaged_records: int
    fid_max: int


class Unreadable(Exception):
    """A file that is not what its name says."""


def read_store(directory: Path) -> Store:
    """Reads every file of the directory; Unreadable when DISK is damaged in both copies."""
    cluster_id, disk_id = _read_disk(directory / "DISK")
    manifest = _read_manifest(directory / "MANIFEST")
    events, fid_max, damaged = manifest.events, manifest.fid_max, manifest.damaged_records
    volumes: dict[int, Volume] = {}
    unreadable: list[str] = []
    files = {int(path.name[1:9]): path for path in sorted(directory.glob("v????????.dat.tmp"), reverse=True)}
    # A volume that compaction has made may still have its temporary name; others of that name are none.
    files = {number: path for number, path in files.items() if COMPACT in events.get(number, set())}
    files |= {int(path.name[1:9]): path for path in directory.glob("v????????.dat")}
    for number, path in sorted(files.items()):
        if manifest.is_replaced(number, files) or WITHDRAW in events.get(number, set()):
            continue
        try:
            volumes[number] = _read_volume(path, number, cluster_id, disk_id)
        except Unreadable:
            unreadable.append(path.name)
    live: dict[int, tuple[int, Needle]] = {}
    for number, volume in sorted(volumes.items()):
        damaged += volume.damaged_records
        fid_max = max(fid_max, volume.delete_fid_max)
        for needle in volume.needles:
            if needle.flags & (PAD | TOMBSTONE):
                continue
            fid_max = max(fid_max, needle.fid)
            if not volume.deleted & {(needle.fid, needle.offset), (needle.fid, EVERYWHERE)}:
                live[needle.fid] = (number, needle)  # of two copies, the later one was written over a damaged one
    return Store(cluster_id, disk_id, volumes, events, live, unreadable, damaged, fid_max)


def _read_disk(path: Path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    for start in (0, BLOCK):
        record = content[start : start + BLOCK]
        if len(record) == BLOCK and record[:8] == b"SPDYDISK" and _u32(record, 4092) == crc32c(record[:4092]):
            return record[16:32], record[32:48]
    raise Unreadable(path.name)


@dataclass(slots=True)
class Manifest:
    """``replaced_by`` maps a volume to the one into which the last compaction put what was live in it."""

    events: dict[int, set[int]] = field(default_factory=dict)
    replaced_by: dict[int, int] = field(default_factory=dict)
    fid_max: int = 0
    damaged_records: int = 0

    def is_replaced(self, number: int, files: dict[int, Path]) -> bool:
        """Whether what this volume held is elsewhere, or nothing of it is live; ``files`` are all that there are."""
        if REPLACE in self.events.get(number, set()):
            return True
        made = self.replaced_by.get(number, 0)
        if made <= number or WITHDRAW in self.events.get(made, set()):
            return False
        return made in files or self.is_replaced(made, files)


def _read_manifest(path: Path) -> Manifest:
    manifest = Manifest()
    content = path.read_bytes()
    for start in range(0, len(content) - 255, 256):
        record = content[start : start + 256]
        if not any(record):
            continue
        if record[:4] != b"MANF" or _u16(record, 4) != 1 or _u32(record, 252) != crc32c(record[:252]):
            manifest.damaged_records += 1
            continue
        number, event = _u32(record, 32), _u16(record, 6)
        manifest.events.setdefault(number, set()).add(event)
        manifest.fid_max = max(manifest.fid_max, _u64(record, 56))
        if event == COMPACT:
            count = min(_u32(record, 72), 44)
            manifest.replaced_by |= dict.fromkeys(struct.unpack_from(f"<{count}I", record, 76), number)
    return manifest


def _read_volume(path: Path, number: int, cluster_id: bytes, disk_id: bytes) -> Volume:
    content = path.read_bytes()
    for start in (0, BLOCK):
        block = content[start : start + BLOCK]
        if len(block) == BLOCK and block[:8] == b"SPDYVOL1" and _u32(block, 4092) == crc32c(block[:4092]):
            break
    else:
        raise Unreadable(path.name)
    if _u32(block, 12) != 0 or _u32(block, 20) != number or block[48:64] != disk_id or block[64:80] != cluster_id:
        raise Unreadable(path.name)
    volume = Volume(number, block[32:48], _u64(block, 80))
    _scan(volume, content)
    stem = path.with_name(path.name[:9])
    _read_delete_log(volume, stem.with_suffix(".del"))
    for suffix in (".ckp", ".ckp.old"):
        checkpoint = _read_checkpoint(volume, stem.with_suffix(suffix))
        if checkpoint is not None:
            volume.checkpoints[suffix] = checkpoint
    return volume


def _scan(volume: Volume, content: bytes) -> None:
    """A needle is looked for at the end of the one before, then at each multiple of 64: a hole may lie between."""
    at, seq_min = DATA_START, 1
    while at < volume.size:
        needle = _needle_at(volume, content, at)
        if needle is None or needle.seq < seq_min:
            found = content.find(b"NEDL", at + 1)
            if found < 0:
                return
            at = found if found % ALIGNMENT == 0 else max(at + 1, found // ALIGNMENT * ALIGNMENT + ALIGNMENT)
            continue
        volume.needles.append(needle)
        seq_min = needle.seq + needle.seq_span
        at = needle.offset + needle.footprint


def _needle_at(volume: Volume, content: bytes, at: int) -> Needle | None:
    header = _header_at(volume, content, at)
    if header is None:
        return None
    flags, length, blocks = _u16(header, 6), _u64(header, 64), _u32(header, 88)
    payload: bytes | None = None
    if not flags & PAD:
        block = 1 << header[84]
        payload = content[at + len(header) : at + len(header) + length]
        pieces = [payload[start : start + block] for start in range(0, length, block)]
        if [crc32c(piece) for piece in pieces] != list(struct.unpack_from(f"<{blocks}I", header, HEADER_FIXED)):
            payload = None
    return Needle(
        offset=at,
        header_length=len(header),
        flags=flags,
        fid=_u64(header, 40),
        seq=_u64(header, 48),
        seq_span=_u32(header, 92),
        synced_seq=_u64(header, 56),
        length=length,
        crc=_u32(header, 80),
        payload=payload,
    )


def _header_at(volume: Volume, content: bytes, at: int) -> bytes | None:
    """The header if it is valid."""
    if content[at : at + 4] != b"NEDL" or len(content) - at < HEADER_MIN or _u16(content, at + 4) != 1:
        return None
    header_length = _u32(content, at + 8)
    header = content[at : at + header_length]
    if not HEADER_MIN <= header_length <= HEADER_MAX or header_length % ALIGNMENT or len(header) < header_length:
        return None
    flags, length, blocks, span = _u16(header, 6), _u64(header, 64), _u32(header, 88), _u32(header, 92)
    valid = (
        crc32c(header[:12] + bytes(4) + header[16:]) == _u32(header, 12)
        and header[16:32] == volume.uuid
        and _u64(header, 32) == at
        and at + header_length + length <= volume.size
        and _u64(header, 48) != 0
        and span != 0
    )
    if valid and not flags & PAD:
        valid = (
            length <= CHUNK_BYTES_MAX
            and _u64(header, 40) != 0
            and span == 1
            and blocks == -(-length // (1 << header[84]))
            and HEADER_FIXED + 4 * blocks + _u16(header, 86) <= header_length
        )
    return header if valid else None


def _read_delete_log(volume: Volume, path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    for start in range(0, len(content) - 63, 64):
        slot = content[start : start + 64]
        if not any(slot):
            continue
        if slot[:4] != b"DELE" or _u32(slot, 4) != crc32c(slot[8:]) or slot[8:24] != volume.uuid:
            volume.damaged_records += 1
            continue
        fid, offset = _u64(slot, 32), _u64(slot, 40)
        volume.deleted.add((fid, offset))
        if offset != EVERYWHERE:  # such a record may be about a chunk that was never here
            volume.delete_fid_max = max(volume.delete_fid_max, fid)


def _read_checkpoint(volume: Volume, path: Path) -> Checkpoint | None:
    content = path.read_bytes() if path.exists() else b""
    if len(content) < 128 or content[:8] != b"SPDYCKP1" or _u32(content, 8) != 1:
        return None
    if _u32(content, 124) != crc32c(content[:124]) or _u32(content, 96) != crc32c(content[128:]):
        return None
    if _u32(content, 12) != volume.id or content[16:32] != volume.uuid or len(content) != 128 + 32 * _u64(content, 48):
        return None
    entries = [struct.unpack_from("<QQIIII", content, start) for start in range(128, len(content), 32)]
    if any(before[0] >= after[0] for before, after in pairwise(entries)):
        return None
    return Checkpoint(
        tail=_u64(content, 32),
        next_seq=_u64(content, 40),
        fid_max=_u64(content, 56),
        pad_bytes=_u64(content, 64),
        entries=frozenset(entry[:4] for entry in entries),
    )


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")
