"""A real embedded server with a little content in it, and what can be seen to change in it."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.registry.client import Client
from tests.registry.documents import encoded, image, index, sha256
from tests.speedy.embedded import EmbeddedServer

REPOSITORY = "seed/one"
OTHER_REPOSITORY = "seed/two"
LAYER = b"layer " * 1000
CONFIG = b"{}"
IMAGE = encoded(image(CONFIG, LAYER))
INDEX = encoded(index(IMAGE))
MISSING_DIGEST = "sha256:" + "0" * 64

#: what has a name: rows that no refused request may touch
_NAMED = (
    "SELECT repository, '' FROM repositories",
    "SELECT repository, digest FROM repository_blobs",
    "SELECT repository, digest || media_type FROM repository_manifests",
    "SELECT repository, tag || ' ' || digest FROM tags",
    "SELECT manifest, digest || kind FROM manifest_references",
    "SELECT digest, file_id FROM blobs",
    "SELECT digest, file_id FROM manifests",
)


#: a line of the log that tells of a fault of ours, or what follows such a line
_DEFECT = re.compile(r"^(\S+ (error|critical) |\S+ warning speedy\.registry request failed|Traceback )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class State:
    """`named`: everything that has a name. `uploads`: session -> bytes. `files`: number of files, named or not."""

    named: frozenset[tuple[int, str, str]]
    uploads: dict[str, int]
    files: int


class World:
    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedServer(directory / "data")
        self.server.wait_ready()
        address = urlsplit(self.server.url)
        assert address.port is not None
        self.port = address.port
        self.client = Client("127.0.0.1", self.port, directory)
        self.worker_pid = self.server.worker_pid()
        self._database = sqlite3.connect(f"file:{directory}/data/metadata.db?mode=ro", uri=True)

    def close(self) -> None:
        self._database.close()
        self.client.close()
        self.server.kill()

    def seed(self) -> None:
        """Put everything in its place that requests refer to."""
        client = self.client
        for repository in (REPOSITORY, OTHER_REPOSITORY):
            for blob in (LAYER, CONFIG):
                client.push(repository, blob)
        for tag, document in (("v1", IMAGE), ("all", INDEX)):
            assert client.put_manifest(REPOSITORY, tag, document).status == 201

    def open_session(self) -> str:
        """Id of a session with three bytes in it."""
        location = self.client.open_upload(REPOSITORY)
        assert self.client.send("PATCH", location, b"abc").status == 202
        return location.rpartition("/")[2]

    def state(self) -> State:
        rows = self._database.execute
        named = frozenset(
            (kind, str(one), str(other)) for kind, query in enumerate(_NAMED) for one, other in rows(query)
        )
        uploads = dict(rows("SELECT upload_id, size FROM uploads JOIN files USING (file_id)"))
        ((files,),) = rows("SELECT count(*) FROM files")
        return State(named, uploads, files)

    def check_sound(self) -> None:
        """The server is the one that was started, and nothing in it met a defect."""
        assert self.server.process.poll() is None
        assert self.server.worker_pid() == self.worker_pid
        assert self.client.send("GET", "/readyz").status == 200
        log = self.server.log_text()
        for found in _DEFECT.finditer(log):
            raise AssertionError(log[max(0, found.start() - 2000) : found.end() + 2000])


DIGESTS = {name: sha256(content) for name, content in (("layer", LAYER), ("config", CONFIG), ("image", IMAGE))}
