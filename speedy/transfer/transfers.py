"""The two transfers from end to end: places are opened, and what was only needed on the way is removed."""

from __future__ import annotations

import os
import platform as machine
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from speedy.transfer.cache import Cache, default_directory
from speedy.transfer.connection import Connection, Tls
from speedy.transfer.credentials import Login, config_file
from speedy.transfer.daemon import image_id, load, save
from speedy.transfer.docker_archive import ArchivedImage, ManifestForm, prepare
from speedy.transfer.documents import Platform, parse_platform
from speedy.transfer.layout import Layout
from speedy.transfer.outcome import Outcome
from speedy.transfer.packing import write_docker_archive, write_oci_archive
from speedy.transfer.patience import RetryLimits, Stop
from speedy.transfer.places import LocalPlace, RemotePlace, parse_destination, parse_remote, parse_source
from speedy.transfer.progress import Progress
from speedy.transfer.pulling import Pull, PullOptions
from speedy.transfer.pushing import Push, PushOptions
from speedy.transfer.remote import Reach, connect
from speedy.transfer.repository import Repository
from speedy.transfer.sources import ImageSource, LayoutArchive, LayoutSource
from speedy.transfer.staging import staging
from speedy.transfer.uploading import UploadLimits

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """What the command line says. `environment` is asked for docker's configuration and the place of the cache."""

    jobs: int
    platform: str | None
    referrers: bool
    username: str
    password: str
    tls_verify: bool
    ca_file: Path | None
    plain_http: bool | None
    allow_http_credentials: bool
    retries: int
    state_dir: Path | None
    environment: Mapping[str, str]
    piece: int = 64 << 20
    mount_from: str = ""
    form: ManifestForm = "docker"
    no_compression: bool = False


def push(src: str, dest: str, options: TransferOptions, progress: Progress) -> Outcome:
    """Raises PlaceError for SRC or DEST that cannot be understood, TransferError for everything else."""
    place, source_place = parse_remote(dest), parse_source(src)
    push_options = PushOptions(
        jobs=options.jobs,
        limits=UploadLimits(max(1, options.piece), RetryLimits(failures_max=options.retries)),
        platform=_platform(options),
        mount_from=options.mount_from,
        with_referrers=options.referrers,
    )
    cache, stop = _cache(options), Stop()
    with ExitStack() as stack:
        stack.enter_context(progress)
        connection = stack.enter_context(_connected(place, options))
        repository = Repository(connection, place.repository, may_write=True)
        run = Push(repository, place, cache=cache, options=push_options, progress=progress, stop=stop)
        source = _open_layout(source_place)
        if source is None:
            run.greet()
            return _push_image(run, source_place, options, cache, progress=progress, stop=stop, stack=stack)
        return run.run(source)


def pull(src: str, dest: str, options: TransferOptions, progress: Progress) -> Outcome:
    """As `push`."""
    place, target = parse_remote(src), parse_destination(dest)
    for_docker = target.kind in ("docker-archive", "docker-daemon")
    pull_options = PullOptions(
        jobs=options.jobs,
        retries=RetryLimits(failures_max=options.retries),
        platform=_platform(options),
        # docker's forms hold one image: the one for this machine, unless another is asked for.
        prefers=_own_platform() if for_docker else None,
        with_referrers=options.referrers and not for_docker,
    )
    cache, stop = _cache(options), Stop()
    with ExitStack() as stack:
        stack.enter_context(progress)
        connection = stack.enter_context(_connected(place, options))
        repository = Repository(connection, place.repository, may_write=False)
        run = Pull(repository, place, cache=cache, options=pull_options, progress=progress, stop=stop)
        run.find()  # first: nothing is made here for what is not there
        if target.kind == "oci":
            run.run(Layout.create(target.path), _tag(target, place))
        else:
            _pull_archive(run, place, target, cache, stop)
        return run.outcome


def _pull_archive(run: Pull, place: RemotePlace, target: LocalPlace, cache: Cache, stop: Stop) -> None:
    """Through a layout of its own, which stays for the next run when this one is cut off."""
    if target.kind == "docker-daemon":
        directory = cache.pull_directory(str(place))
        archive = directory / "image.tar"
        names = [target.name if ":" in target.name.rpartition("/")[2] else f"{target.name}:latest"]
    else:
        directory = target.path.with_name(f"{target.path.name}.partial")
        archive = target.path
        names = [] if place.digest else [f"{place.host}/{place.repository}:{target.tag or place.reference}"]
    with staging(directory) as layout:
        image = run.run(layout, _tag(target, place))
        if target.kind == "oci-archive":
            write_oci_archive(layout, run.digests, archive, stop)
        else:
            write_docker_archive(layout, image, archive, names, stop)
        if target.kind == "docker-daemon":
            load(archive, stop)


def _open_layout(place: LocalPlace) -> ImageSource | None:
    if place.kind == "oci":
        return LayoutSource(Layout.open(place.path), place.tag, str(place.path))
    if place.kind == "oci-archive":
        return LayoutSource(LayoutArchive(place.path), place.tag, str(place.path))
    return None


def _push_image(
    run: Push,
    place: LocalPlace,
    options: TransferOptions,
    cache: Cache,
    *,
    progress: Progress,
    stop: Stop,
    stack: ExitStack,
) -> Outcome:
    """Of docker: its layers are packed. An image of the daemon that was pushed before is neither saved nor packed where
    the registry has its layers: docker's id of it tells that it is the same."""
    path, form = place.path, (options.form, "plain" if options.no_compression else "gzip")
    known_id = None
    if place.kind == "docker-daemon":
        known_id = image_id(place.name, stop)
        made = None if known_id is None or options.platform else cache.made(known_id, *form)
        outcome = None if made is None else run.run_again(made)
        if outcome is not None:
            return outcome
        path = cache.layers / f"saved-{os.getpid()}.tar"
        stack.callback(path.unlink, missing_ok=True)
        progress.tell(f"docker save {place.name}")
        # By its id: the name may lead elsewhere by now.
        save(known_id or place.name, path, stop)
    image = _open_image(path, place, options, cache, progress=progress, stop=stop)
    outcome = run.run(image)
    image.forget()
    if known_id is not None:
        cache.remember_made(image.top(), known_id, *form)
    return outcome


def _open_image(
    path: Path, place: LocalPlace, options: TransferOptions, cache: Cache, *, progress: Progress, stop: Stop
) -> ArchivedImage:
    return prepare(
        path,
        place.tag,
        form=options.form,
        compresses=not options.no_compression,
        directory=cache.layers,
        jobs=options.jobs,
        progress=progress,
        stop=stop,
    )


def _connected(place: RemotePlace, options: TransferOptions) -> closing[Connection]:
    return closing(
        connect(
            place,
            Reach(
                plain_http=options.plain_http,
                tls=Tls(options.tls_verify, options.ca_file),
                http_credentials=options.allow_http_credentials,
                login=Login(options.username, options.password) if options.username else None,
                docker_config=config_file(options.environment),
                pool_max=options.jobs + 1,
            ),
        )
    )


def _cache(options: TransferOptions) -> Cache:
    return Cache(options.state_dir or default_directory(options.environment))


def _platform(options: TransferOptions) -> Platform | None:
    return None if options.platform is None else parse_platform(options.platform)


def _own_platform() -> Platform:
    name = machine.machine()
    return Platform("linux", _MACHINES.get(name, name))


def _tag(target: LocalPlace, place: RemotePlace) -> str:
    """What was pulled by digest has a name only where one is given."""
    return target.tag or ("" if place.digest else place.reference)
