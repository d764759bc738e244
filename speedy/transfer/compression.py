"""Layers of a docker-archive are not compressed; registries are given gzip.

The same layer has to become the same bytes in each run, or an upload could not go on: zlib at a fixed level, without
name and time in gzip's header, is such a form. Besides, the compressed file stays in the cache until its push is
through, so that not even another zlib on the way makes a difference, and nothing is compressed twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from speedy.transfer.content import PIECE_BYTES, Content
from speedy.transfer.errors import Damaged, TransferError

LEVEL: Final = 6
_GZIP_FORM: Final = 31  # zlib's number for "gzip, with the largest window"
_ZSTD_TIMEOUT_S: Final = 30.0

Form = Literal["", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class Compressed:
    content: Content
    digest: str


def form_of(content: Content) -> Form:
    """By the first bytes; "" for what is not compressed."""
    head = next(content.pieces(0, min(4, content.size)), b"")
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if head == b"\x28\xb5\x2f\xfd" else ""


def compress(layer: Content, diff_id: str, directory: Path, tell_position: Callable[[int], None]) -> Compressed:
    """The layer as gzip, in `directory`, made there or left by an earlier run. `tell_position` gets the bytes read so
    far and may end it by an exception.

    Raises Damaged where the layer's own digest is not `diff_id`.
    """
    path = directory / f"{diff_id.replace(':', '-')}-{LEVEL}.gz"
    earlier = _earlier(path)
    if earlier is not None:
        return earlier
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    plain, packed = hashlib.new(diff_id.partition(":")[0]), hashlib.sha256()
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_FORM)
    position = 0
    try:
        with temporary.open("wb") as file:
            for piece in layer.pieces():
                tell_position(position)
                plain.update(piece)
                out = packer.compress(piece)
                packed.update(out)
                file.write(out)
                position += len(piece)
            out = packer.flush()
            packed.update(out)
            file.write(out)
            file.flush()
            os.fsync(file.fileno())
        found = f"{diff_id.partition(':')[0]}:{plain.hexdigest()}"
        if found != diff_id:
            raise Damaged(f"{layer.path} is damaged: a layer has the digest {found} instead of {diff_id}")
        digest = f"sha256:{packed.hexdigest()}"
        temporary.rename(path)
        path.with_suffix(".json").write_text(json.dumps({"digest": digest, "size": path.stat().st_size}))
    finally:
        temporary.unlink(missing_ok=True)
    return Compressed(Content.of_file(path), digest)


def forget(compressed: Compressed) -> None:
    """After the push."""
    compressed.content.path.with_suffix(".json").unlink(missing_ok=True)
    compressed.content.path.unlink(missing_ok=True)


def plain_pieces(content: Content) -> Iterator[bytes]:
    """The layer without its compression. Raises Damaged, and TransferError for zstd where there is no program zstd."""
    form = form_of(content)
    if form == "gzip":
        return _gunzip(content)
    return _unzstd(content) if form == "zstd" else content.pieces()


def _earlier(path: Path) -> Compressed | None:
    """What an earlier run has made; whether it is still right shows when it is sent."""
    try:
        says = json.loads(path.with_suffix(".json").read_text())
        content = Content.of_file(path)
        return Compressed(content, str(says["digest"])) if content.size == says["size"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gunzip(content: Content) -> Iterator[bytes]:
    """gzip of one member or of several, as zstd:chunked's older sisters make it."""
    unpacker = zlib.decompressobj(_GZIP_FORM)
    try:
        for piece in content.pieces():
            rest = piece
            while rest:
                if unpacker.eof:
                    rest = rest.lstrip(b"\0")  # padding, which gzip passes over too
                    if not rest:
                        break
                    unpacker = zlib.decompressobj(_GZIP_FORM)
                out = unpacker.decompress(rest, PIECE_BYTES)
                if out:
                    yield out
                rest = unpacker.unconsumed_tail or unpacker.unused_data
        while not unpacker.eof:
            out = unpacker.decompress(unpacker.unconsumed_tail, PIECE_BYTES)
            if not out:
                raise Damaged(f"{content.path}: the gzip in it ends too early")
            yield out
    except zlib.error as error:
        raise Damaged(f"{content.path}: not gzip: {error}") from error


def _unzstd(content: Content) -> Iterator[bytes]:
    if content.start or content.size != content.path.stat().st_size:
        raise TransferError(f"{content.path}: zstd inside an archive")
    try:
        process = subprocess.Popen(  # noqa: S603 - a fixed program on a file of ours
            ["zstd", "--decompress", "--stdout", "--quiet", str(content.path)],  # noqa: S607 - from the user's PATH
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        raise TransferError(
            "the image has layers in zstd, which docker's archives do not know; the program zstd, which could unpack "
            "them, is not installed. Pull into oci: or oci-archive: instead."
        ) from error
    assert process.stdout is not None
    try:
        while piece := process.stdout.read(PIECE_BYTES):
            yield piece
        if process.wait(_ZSTD_TIMEOUT_S) != 0:
            raise Damaged(f"{content.path}: zstd cannot unpack it")
    finally:
        process.kill()
        process.stdout.close()
        process.wait(_ZSTD_TIMEOUT_S)
