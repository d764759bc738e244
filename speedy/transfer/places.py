"""What SRC and DEST may be, in the words of a command line.

oci:DIR[:TAG]              an OCI layout directory
oci-archive:FILE[:TAG]     such a layout as a tar file
docker-archive:FILE[:TAG]  what `docker save` writes
docker-daemon:NAME         an image of the local docker
[docker://]HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]   a registry; http:// and https:// say how it is reached
"""

from __future__ import annotations

import ipaddress
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from speedy.transfer.errors import TransferError

Kind = Literal["oci", "oci-archive", "docker-archive", "docker-daemon"]
_KINDS: Final[tuple[Kind, ...]] = ("oci", "oci-archive", "docker-archive", "docker-daemon")

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HUB: Final = frozenset({"docker.io", "index.docker.io"})


class PlaceError(TransferError):
    """SRC or DEST cannot be understood: a mistake of the command line."""


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """`path` of the directory or file, or the image's `name` in docker; `tag` "" where none was said."""

    kind: Kind
    path: Path
    name: str = ""
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name or self.path}{':' if self.tag else ''}{self.tag}"


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """`host` as written ("registry.example:5000"); `scheme` "" where none was said; a tag, a digest or neither."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""
    scheme: str = ""

    @property
    def reference(self) -> str:
        """What a manifest is asked by."""
        return self.digest or self.tag or "latest"

    @property
    def endpoint(self) -> str:
        """Host and port that are connected to."""
        return "registry-1.docker.io" if self.host in _HUB else self.host

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{'@' if self.digest else ':'}{self.reference}"


def is_loopback(host: str) -> bool:
    """Of "host" or "host:port", "[::1]:port"."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def parse_source(text: str) -> LocalPlace:
    """SRC of a push. Without a prefix: a directory is an OCI layout, a file an archive of the form it has, anything
    else an image of the local docker, save what ends in .tar or begins as a path does."""
    place = _prefixed(text)
    if place is not None:
        if place.kind != "docker-daemon" and not place.path.exists():
            raise PlaceError(f"{place.path}: there is no such file or directory")
        return place
    path, tag = _path_and_tag(text)
    if path.is_dir():
        return LocalPlace("oci", path, tag=tag)
    if path.is_file():
        return LocalPlace(_archive_kind(path), path, tag=tag)
    if path.suffix == ".tar" or ("/" in text and text.startswith((".", "/"))):
        raise PlaceError(f"{text}: there is no such file or directory")
    return LocalPlace("docker-daemon", Path(), name=text)


def parse_destination(text: str) -> LocalPlace:
    """DEST of a pull. Without a prefix: FILE.tar is a docker-archive, anything else an OCI layout directory."""
    place = _prefixed(text)
    if place is not None:
        return place
    path, tag = _path_and_tag(text)
    if path.suffix == ".tar":
        return LocalPlace("docker-archive", path, tag=tag)
    if path.is_file():
        raise PlaceError(f"{text} is a file: say docker-archive:{text} or oci-archive:{text}")
    return LocalPlace("oci", path, tag=tag)


def parse_remote(text: str) -> RemotePlace:
    """Raises PlaceError for what is no repository of a registry."""
    if text.partition(":")[0] in _KINDS:
        raise PlaceError(f"{text} is a place on this machine; here belongs a registry: HOST[:PORT]/NAME[:TAG]")
    scheme, rest = "", text
    for prefix in ("docker://", "http://", "https://"):
        if text.startswith(prefix):
            scheme, rest = prefix.removesuffix("://").replace("docker", ""), text.removeprefix(prefix)
    head, slash, tail = rest.partition("/")
    is_host = slash and ("." in head or ":" in head or head == "localhost")
    host, name = (head, tail) if is_host else ("docker.io", rest)
    found = _HOST.fullmatch(host)
    if not found or int(found[1] or 1) not in range(1, 65536):
        raise PlaceError(f"{text}: {host!r} is not HOST or HOST:PORT")
    name, _, digest = name.partition("@")
    name, _, tag = name.partition(":")
    if host in _HUB and "/" not in name:
        name = f"library/{name}"
    if digest and not _DIGEST.fullmatch(digest):
        raise PlaceError(f"{text}: {digest!r} is not a digest")
    if tag and not _TAG.fullmatch(tag):
        raise PlaceError(f"{text}: {tag!r} is not a tag")
    if not _REPOSITORY.fullmatch(name) or len(name) > 255:
        raise PlaceError(f"{text}: {name!r} is not the name of a repository (HOST[:PORT]/NAME[:TAG], in lower case)")
    return RemotePlace(host, name, "" if digest else tag, digest, scheme)


def _prefixed(text: str) -> LocalPlace | None:
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _KINDS:
        return None
    known = next(each for each in _KINDS if each == kind)
    if not rest:
        raise PlaceError(f"{text}: something has to follow {kind}:")
    if known == "docker-daemon":
        return LocalPlace(known, Path(), name=rest)
    path, tag = _path_and_tag(rest)
    return LocalPlace(known, path, tag=tag)


def _path_and_tag(text: str) -> tuple[Path, str]:
    """A colon may belong to the path: what exists as it is written is taken so."""
    head, colon, tail = text.rpartition(":")
    if colon and head and _TAG.fullmatch(tail) and not Path(text).exists():
        return Path(head), tail
    return Path(text), ""


def _archive_kind(path: Path) -> Kind:
    """By what is in the tar. Newer docker writes both forms into one file: then it is docker's."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = {member.name.removeprefix("./") for member in archive}
    except (tarfile.TarError, OSError) as error:
        raise PlaceError(
            f"{path} cannot be read as a tar file: {error}. Compressed archives have to be unpacked first (gunzip)."
        ) from error
    if "manifest.json" in names:
        return "docker-archive"
    if "oci-layout" in names or "index.json" in names:
        return "oci-archive"
    raise PlaceError(f"{path} is neither a docker-archive nor an oci-archive")
