"""What a push reads from: an OCI layout, as a directory or in a tar file."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from speedy.transfer.content import Content
from speedy.transfer.documents import DOCUMENT_BYTES_MAX, Descriptor, Document, parse_descriptor, parse_document
from speedy.transfer.errors import Damaged, TransferError
from speedy.transfer.layout import Named, tag_of

_MEMBERS_MAX: Final = 100_000


class ImageSource(Protocol):
    """One image, or several under one index. Contents are verified by whoever sends them."""

    def top(self) -> Document:
        """The manifest or index that is pushed under the name."""
        ...

    def document(self, descriptor: Descriptor) -> Document: ...

    def content(self, blob: Descriptor) -> Content: ...

    def untagged(self) -> list[Document]:
        """Manifests without a name: where the referrers are."""
        ...


class Reader(Protocol):
    """A layout, whichever form it has."""

    def names(self) -> list[Named]: ...
    def document(self, descriptor: Descriptor) -> Document: ...
    def content(self, blob: Descriptor) -> Content: ...


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """`tag` "" takes the only image that there is, or the one named latest."""

    layout: Reader
    tag: str
    where: str

    def top(self) -> Document:
        return self.layout.document(self._chosen())

    def document(self, descriptor: Descriptor) -> Document:
        return self.layout.document(descriptor)

    def content(self, blob: Descriptor) -> Content:
        return self.layout.content(blob)

    def untagged(self) -> list[Document]:
        found = [named.descriptor for named in self.layout.names() if not named.tag]
        return [self.layout.document(descriptor) for descriptor in found if descriptor.is_document]

    def _chosen(self) -> Descriptor:
        names = self.layout.names()
        if self.tag:
            found = [named for named in names if named.tag == self.tag]
        else:
            tagged = [named for named in names if named.tag] or names
            found = tagged if len(tagged) == 1 else [named for named in tagged if named.tag == "latest"]
        if len(found) == 1 or (found and self.tag):
            return found[-1].descriptor
        offered = ", ".join(named.tag or named.descriptor.digest for named in names)
        asked = f"has nothing named {self.tag}" if self.tag else "holds several images, or none: say which by :TAG"
        raise TransferError(f"{self.where} {asked}; there is {offered or 'nothing'}")


class LayoutArchive:
    """An OCI layout in a tar file that is not compressed: blobs are read where they lie in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members = read_members(path)

    def names(self) -> list[Named]:
        try:
            entries = json.loads(self._member("index.json").read(DOCUMENT_BYTES_MAX))["manifests"]
            return [Named(tag_of(entry), parse_descriptor(entry)) for entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{self.path}: its index.json is malformed: {error}") from error

    def document(self, descriptor: Descriptor) -> Document:
        content = self.content(descriptor).read(DOCUMENT_BYTES_MAX)
        return parse_document(content, descriptor.media_type, descriptor.digest)

    def content(self, blob: Descriptor) -> Content:
        content = self._member(f"blobs/{blob.digest.replace(':', '/')}")
        if content.size != blob.size:
            raise Damaged(f"{self.path}: {blob.digest} has {content.size} bytes instead of {blob.size}")
        return content

    def _member(self, name: str) -> Content:
        if name not in self._members:
            raise TransferError(f"{self.path} does not have {name}")
        return self._members[name]


def read_members(path: Path) -> dict[str, Content]:
    """Files of a tar and where their bytes lie; links to files inside it are followed. Raises TransferError."""
    found: dict[str, Content] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MEMBERS_MAX:
                    raise TransferError(f"{path} has more than {_MEMBERS_MAX} members")
                name = _plain(member.name)
                if member.isreg() and not member.issparse():
                    found[name] = Content(path, member.offset_data, member.size)
                elif member.islnk():
                    links[name] = _plain(member.linkname)
                elif member.issym():
                    links[name] = _plain(f"{name.rpartition('/')[0]}/{member.linkname}")
    except (tarfile.TarError, OSError) as error:
        raise TransferError(
            f"{path} cannot be read as a tar file: {error}. Compressed archives have to be unpacked first (gunzip)."
        ) from error
    for name, target in links.items():
        if target in found:
            found.setdefault(name, found[target])
    return found


def _plain(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)
