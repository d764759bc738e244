"""Archives made from an OCI layout: oci-archive, and docker-archive as `docker load` takes it.

Written to a temporary file, synced, renamed: an archive is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from speedy.transfer.compression import plain_pieces
from speedy.transfer.content import Content
from speedy.transfer.documents import DOCUMENT_BYTES_MAX, Document, check_digest
from speedy.transfer.errors import Damaged, TransferError
from speedy.transfer.layout import Layout
from speedy.transfer.patience import Stop

_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'


def write_oci_archive(layout: Layout, digests: Collection[str], path: Path, stop: Stop) -> None:
    """What index.json names, and the blobs of these digests; an earlier image may have left others."""
    with _whole(path) as file:
        _add_bytes(file, "oci-layout", _VERSION)
        _add_bytes(file, "index.json", (layout.path / "index.json").read_bytes())
        for digest in sorted(digests):
            content = Content.of_file(layout.blob_path(digest))
            file.write(_header(f"blobs/{digest.replace(':', '/')}", content.size))
            for piece in content.pieces():
                stop.check()
                file.write(piece)
            _pad(file, content.size)


def write_docker_archive(layout: Layout, image: Document, path: Path, names: Sequence[str], stop: Stop) -> None:
    """`image` as docker loads it, under `names` ("host/repository:tag"). Raises TransferError for what is no image,
    Damaged for a layer that is not what the configuration says."""
    if image.config is None or image.descriptor.is_index or image.foreign:
        raise TransferError(f"{image.descriptor.digest} is not an image that docker's archives can hold")
    config = layout.content(image.config).read(DOCUMENT_BYTES_MAX)
    try:
        diff_ids = [check_digest(each) for each in json.loads(config)["rootfs"]["diff_ids"] or []]
    except (ValueError, KeyError, TypeError) as error:
        raise TransferError(f"{image.descriptor.digest} is an artifact and no image: docker cannot load it") from error
    if len(diff_ids) != len(image.layers):
        raise Damaged(f"{image.descriptor.digest}: manifest and configuration do not agree on the layers")
    config_name = f"{image.config.digest.partition(':')[2]}.json"
    layer_names = [f"{diff_id.partition(':')[2]}/layer.tar" for diff_id in diff_ids]
    entry = {"Config": config_name, "RepoTags": list(names) or None, "Layers": layer_names}
    with _whole(path) as file:
        written: set[str] = set()
        for layer, diff_id, name in zip(image.layers, diff_ids, layer_names, strict=True):
            if name not in written:
                _add_layer(file, name, layout.content(layer), diff_id, stop)
                written.add(name)
        _add_bytes(file, config_name, config)
        _add_bytes(file, "manifest.json", json.dumps([entry], separators=(",", ":")).encode())


def _add_layer(file: BinaryIO, name: str, content: Content, diff_id: str, stop: Stop) -> None:
    """Its size is known when it is unpacked: the header is written last."""
    start = file.tell()
    file.write(_header(name, 0))
    algorithm = diff_id.partition(":")[0]
    running = hashlib.new(algorithm)
    size = 0
    for piece in plain_pieces(content):
        stop.check()
        file.write(piece)
        running.update(piece)
        size += len(piece)
    found = f"{algorithm}:{running.hexdigest()}"
    if found != diff_id:
        raise Damaged(f"a layer has the digest {found} when unpacked, and the image's configuration says {diff_id}")
    _pad(file, size)
    file.seek(start)
    file.write(_header(name, size))
    file.seek(0, os.SEEK_END)


def _add_bytes(file: BinaryIO, name: str, content: bytes) -> None:
    file.write(_header(name, len(content)) + content)
    _pad(file, len(content))


def _header(name: str, size: int) -> bytes:
    """Without owner and time: the same image makes the same archive. One block, or three for the long name of a
    sha512: what the size is does not matter."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _pad(file: BinaryIO, size: int) -> None:
    file.write(bytes(-size % tarfile.BLOCKSIZE))


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b", buffering=io.DEFAULT_BUFFER_SIZE) as file:
            yield file
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
