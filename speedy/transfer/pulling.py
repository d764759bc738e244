"""speedy pull: everything into an OCI layout, which the destination is or is made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from speedy.transfer.cache import Cache
from speedy.transfer.closure import Closure, check_platform, for_platform, gather
from speedy.transfer.documents import Descriptor, Document, Platform
from speedy.transfer.downloading import Download
from speedy.transfer.layout import Layout
from speedy.transfer.outcome import Outcome
from speedy.transfer.parallel import run_all
from speedy.transfer.patience import RetryLimits, Stop, patiently
from speedy.transfer.places import RemotePlace
from speedy.transfer.progress import Bar, Progress, short
from speedy.transfer.referrers import find_referrers
from speedy.transfer.repository import Repository


@dataclass(frozen=True, slots=True)
class PullOptions:
    jobs: int
    retries: RetryLimits
    platform: Platform | None = None
    #: which one of several is taken where no platform is asked for
    prefers: Platform | None = None
    with_referrers: bool = False


class Pull:
    """Of what `place` names, into a layout. Used once."""

    def __init__(
        self,
        repository: Repository,
        place: RemotePlace,
        *,
        cache: Cache,
        options: PullOptions,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self._repository, self._place, self._cache = repository, place, cache
        self._options, self._progress, self._stop = options, progress, stop
        self.outcome = Outcome(str(place))
        self._top: Document | None = None
        self._everything = Closure((), (), ())
        self._referrers: list[Document] = []
        #: of everything that was pulled, manifests included
        self.digests: set[str] = set()

    def find(self) -> None:
        """The manifests, before `run`. Raises TransferError."""
        top = self._manifest(self._place.reference)
        asked = self._options.platform
        if asked is not None and not top.descriptor.is_index:
            check_platform(top, asked, self._config)
        wanted = asked or self._options.prefers
        if wanted is not None:
            top = for_platform(top, wanted, self._document)
        closure = gather([top], self._document)
        if self._options.with_referrers:
            self._referrers = self._find_referrers(closure.documents)
        self._everything = gather([top, *self._referrers], self._document)
        self._top = top

    def run(self, layout: Layout, tag: str) -> Document:
        """The manifest or index that the layout then has as `tag` ("": without a name). Raises TransferError; what came
        until then is kept for the next run."""
        top, everything = self._top, self._everything
        assert top is not None, "it was found before"
        for layer in everything.foreign:
            self._progress.tell(f"{short(layer.digest)}: a foreign layer, which no registry needs to have; left out")
        self._pull_blobs(layout, everything.blobs)
        self.digests = {blob.digest for blob in everything.blobs}
        self.digests |= {document.descriptor.digest for document in everything.documents}
        for document in everything.documents:
            layout.put(document.descriptor.digest, document.content, self._stop)
        for document in self._referrers:
            layout.add(document.descriptor, "", self._stop)
        layout.add(top.descriptor, tag, self._stop)
        self.outcome.digest = top.descriptor.digest
        return top

    def _pull_blobs(self, layout: Layout, blobs: tuple[Descriptor, ...]) -> None:
        waiting = [(blob, self._progress.bar(short(blob.digest), blob.size)) for blob in blobs]

        def task(blob: Descriptor, bar: Bar) -> None:
            download = Download(
                self._repository,
                blob,
                layout,
                retries=self._options.retries,
                bar=bar,
                stop=self._stop,
                tell=self._progress.tell,
            )
            how = download.run()
            self._cache.remember(self._place.host, self._repository.name, blob.digest)
            bar.done(how)
            self.outcome.add(how, download.bytes_received)

        run_all(
            [partial(task, blob, bar) for blob, bar in waiting],
            self._options.jobs,
            self._stop,
            self._progress.tell,
        )

    def _find_referrers(self, documents: tuple[Document, ...]) -> list[Document]:
        found: dict[str, Document] = {}
        waiting = [document.descriptor.digest for document in documents]
        while waiting:
            subject = waiting.pop()
            for descriptor in patiently(
                partial(find_referrers, self._repository, subject),
                self._options.retries,
                self._stop,
            ):
                if descriptor.digest not in found:
                    found[descriptor.digest] = self._document(descriptor)
                    waiting.append(descriptor.digest)
        return list(found.values())

    def _config(self, config: Descriptor) -> bytes:
        return patiently(
            lambda: self._repository.small_blob(config), self._options.retries, self._stop, self._progress.tell
        )

    def _document(self, descriptor: Descriptor) -> Document:
        return self._manifest(descriptor.digest)

    def _manifest(self, reference: str) -> Document:
        return patiently(
            lambda: self._repository.manifest(reference), self._options.retries, self._stop, self._progress.tell
        )
