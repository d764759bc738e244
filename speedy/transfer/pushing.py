"""speedy push: blobs, then manifests, then the name. Data first, name last: no name ever lacks its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from speedy.transfer.cache import Cache
from speedy.transfer.closure import Closure, check_platform, for_platform, gather
from speedy.transfer.documents import DOCUMENT_BYTES_MAX, Descriptor, Document, Platform
from speedy.transfer.errors import TransferError
from speedy.transfer.outcome import Outcome
from speedy.transfer.parallel import run_all
from speedy.transfer.patience import Stop, patiently
from speedy.transfer.places import RemotePlace
from speedy.transfer.progress import Bar, Progress, short
from speedy.transfer.referrers import push_referrer, referring
from speedy.transfer.repository import Repository
from speedy.transfer.sources import ImageSource
from speedy.transfer.uploading import Upload, UploadLimits

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PushOptions:
    jobs: int
    limits: UploadLimits
    platform: Platform | None = None
    #: repository of the same registry that may have the blobs already
    mount_from: str = ""
    with_referrers: bool = False


class Push:
    """Of one image or index to `place`. Used once."""

    def __init__(
        self,
        repository: Repository,
        place: RemotePlace,
        *,
        cache: Cache,
        options: PushOptions,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._repository, self._place, self._cache = repository, place, cache
        self._options, self._progress, self._stop = options, progress, stop
        self.outcome = Outcome(str(place))

    def greet(self) -> None:
        """Before layers are packed, which may take long: whether the registry is there and lets us in."""
        self._patiently(self._repository.greet)

    def run(self, source: ImageSource) -> Outcome:
        """Raises TransferError; what was sent until then is kept for the next run."""
        top = source.top()
        if self._options.platform is not None:
            if not top.descriptor.is_index:
                check_platform(
                    top, self._options.platform, lambda config: source.content(config).read(DOCUMENT_BYTES_MAX)
                )
            top = for_platform(top, self._options.platform, source.document)
        self._check_digest(top)
        closure = gather([top], source.document)
        referrers = referring(closure.documents, source.untagged()) if self._options.with_referrers else []
        everything = gather([top, *referrers], source.document)
        self._tell_foreign(everything)
        self._push_blobs(source, everything.blobs)
        for document in everything.documents:
            if document is not top and document not in referrers:
                self._put(document.descriptor.digest, document)
        self._put(self._place.reference, top)
        for document in referrers:
            push_referrer(self._repository, document, self._options.limits.retries, self._stop)
        self.outcome.digest = top.descriptor.digest
        return self.outcome

    def run_again(self, image: Document) -> Outcome | None:
        """Of an image that was pushed from here before: by its manifest alone, where the registry has all its blobs in
        this repository. None where it has not. Raises TransferError."""
        self._check_digest(image)
        blobs = gather([image], _no_children).blobs
        if not all(self._patiently(partial(self._repository.has_blob, blob.digest, blob.size)) for blob in blobs):
            return None
        self._put(self._place.reference, image)
        for _ in blobs:
            self.outcome.add("exists", 0)
        self.outcome.digest = image.descriptor.digest
        return self.outcome

    def _check_digest(self, top: Document) -> None:
        if self._place.digest and self._place.digest != top.descriptor.digest:
            raise TransferError(f"the image has the digest {top.descriptor.digest}, not {self._place.digest}")

    def _push_blobs(self, source: ImageSource, blobs: tuple[Descriptor, ...]) -> None:
        waiting = [(blob, self._progress.bar(short(blob.digest), blob.size)) for blob in blobs]

        def task(blob: Descriptor, bar: Bar) -> None:
            how, sent = self._push_blob(source, blob, bar)
            self.outcome.add(how, sent)

        run_all(
            [partial(task, blob, bar) for blob, bar in waiting],
            self._options.jobs,
            self._stop,
            self._progress.tell,
        )

    def _push_blob(self, source: ImageSource, blob: Descriptor, bar: Bar) -> tuple[str, int]:
        host, name = self._place.host, self._repository.name
        others = [self._options.mount_from, *self._cache.repositories(host, blob.digest)]
        with self._cache.session(host, name, blob.digest) as saved:
            upload = Upload(
                self._repository,
                blob,
                source.content(blob),
                saved=saved,
                mount_from=[other for other in dict.fromkeys(others) if other and other != name],
                limits=self._options.limits,
                bar=bar,
                stop=self._stop,
                tell=self._progress.tell,
            )
            how = upload.run()
        self._cache.remember(host, name, blob.digest)
        bar.done(how)
        return how, upload.bytes_sent

    def _put(self, reference: str, document: Document) -> None:
        self._patiently(partial(self._repository.put_manifest, reference, document))

    def _patiently(self, action: Callable[[], _Result]) -> _Result:
        return patiently(action, self._options.limits.retries, self._stop, self._progress.tell)

    def _tell_foreign(self, closure: Closure) -> None:
        for layer in closure.foreign:
            self._progress.tell(f"{short(layer.digest)}: a foreign layer, which no registry needs to have; left out")


def _no_children(descriptor: Descriptor) -> Document:
    raise TransferError(f"{descriptor.digest}: an image of docker names no other manifests")
