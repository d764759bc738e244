"""What goes into the storage engine and what it tells. Sizes in bytes, times in seconds."""

from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A stored chunk: payload ``length`` and CRC32C, and where its needle begins (``offset`` in ``volume``)."""

    fid: int
    length: int
    crc32c: int
    volume: int
    offset: int
    created_s: float


@dataclass(frozen=True, slots=True)
class EngineStat:
    """State and accounting, in bytes; live + dead + pad + volume_free == volume_bytes.

    ``free_bytes`` is usable for new chunks (in volumes, and of the file system above the reserve), of ``total_bytes``.
    ``state`` is "rw", "ro_full" or "failed". The counters are of this process. Fields are explained in engine.h.
    """

    chunks: int
    payload_bytes: int
    live_bytes: int
    dead_bytes: int
    pad_bytes: int
    volume_free_bytes: int
    volume_bytes: int
    allocated_bytes: int
    punched_bytes: int
    free_bytes: int
    total_bytes: int
    reserve_bytes: int
    fid_max: int
    appends: int
    batches: int
    syncs: int
    deletes: int
    reads: int
    corrupt_reads: int
    scrubbed_bytes: int
    scrub_damaged: int
    scrub_rounds: int
    scrub_volume: int
    scrub_offset: int
    checkpoints: int
    checkpoint_failures: int
    compactions: int
    compaction_failures: int
    compacted_bytes: int
    given_back_bytes: int
    queued_bytes: int
    index_bytes: int
    volumes: int
    volumes_failed: int
    volumes_quarantined: int
    unknown_files: int
    damaged_records: int
    state: str


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


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far the scrub is in the round under way (``active``), or in the last one.

    ``round`` counts from 1 (0: there was none yet). ``started_s`` and ``ended_s`` (of the last whole round) are Unix
    time, 0.0 for never. ``checked_bytes`` (of ``total_bytes`` live ones), ``checked_chunks`` and ``damaged`` are of
    this round. What comes next lies at ``offset`` of ``volume`` or behind. ``wait_s``: until the rate allows another
    step.
    """

    round: int
    active: bool
    started_s: float
    ended_s: float
    total_bytes: int
    checked_bytes: int
    checked_chunks: int
    damaged: int
    volume: int
    offset: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where the scrub found stored bytes to be bad: a chunk's needle, or with fid 0 a volume's superblock.

    ``what`` says in words what is wrong, ``found_s`` is Unix time, ``length`` the chunk's payload bytes.
    """

    fid: int
    volume: int
    offset: int
    length: int
    what: str
    found_s: float


@dataclass(frozen=True, slots=True)
class Verification:
    """What one ``Engine.verify`` has done: the next goes on at ``offset``, unless the volume has ``ended``."""

    offset: int
    read_bytes: int
    checked_bytes: int
    checked_chunks: int
    damage: tuple[Damage, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What ``Engine.compact`` has done.

    ``bytes_copied`` were written into ``volumes_made`` new volumes; the file system got ``bytes_given_back`` more than
    these take. ``volumes_damaged`` hold a damaged chunk and stay until it is replaced or deleted. ``stopped``: it ended
    before everything was done.
    """

    chunks_copied: int
    bytes_copied: int
    bytes_given_back: int
    volumes_removed: int
    volumes_made: int
    volumes_damaged: int
    stopped: bool
