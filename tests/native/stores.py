"""What tests do to stores and to their files."""

from pathlib import Path

from native.checksum import crc32c
from native.engine import Engine
from native.errors import ChunkCorrupt, ChunkNotFound


def put(engine: Engine, fid: int, payload: bytes) -> None:
    engine.put(fid, payload, crc32c(payload))


def read(engine: Engine, fid: int) -> bytes:
    """The verified payload."""
    buffer = bytearray(engine.info(fid).length)
    engine.read_into(fid, 0, buffer)
    return bytes(buffer)


def get(engine: Engine, fid: int) -> bytes | None:
    """The verified payload, or None when this copy is missing or known to be bad."""
    try:
        return read(engine, fid)
    except (ChunkNotFound, ChunkCorrupt):
        return None


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def accounted(engine: Engine) -> bool:
    stat = engine.stat()
    return stat.live_bytes + stat.dead_bytes + stat.pad_bytes + stat.volume_free_bytes == stat.volume_bytes


def drop_checkpoints(directory: Path) -> None:
    for path in directory.glob("*.ckp*"):
        path.unlink()
