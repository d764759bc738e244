"""The registry over a MetaStore and an ImageStore, as both compositions use it: local rooms in one process, or clients
of a cluster's.

Starts threads: to be called in the process that serves, after any fork.
"""

from __future__ import annotations

from contextlib import ExitStack

from imageserver.interface import ImageStore
from metaserver.interface import MetaStore
from registry_driver.admission import Admission, AdmissionLimits, Patience
from registry_driver.app import BodyLimits, create_app
from registry_driver.chunked import ChunkedDriver, DriverLimits
from registry_driver.cors import CrossOrigin
from registry_driver.reclaim import Reclaimer
from registry_driver.registry import Registry, RegistryLimits
from wire.buffers import BufferPool, IdleTrim
from wire.checks import CachedCheck
from wire.server import RoomApp
from wire.settings import RegistrySettings


def compose(
    meta: MetaStore, images: ImageStore, settings: RegistrySettings, *, read_piece_bytes: int | None = None
) -> RoomApp:
    """The registry over the given rooms, which stay the caller's to close. Starts the threads that reclaim space, give
    memory back and end transfers that stall.

    `read_piece_bytes`: how much of a chunk is fetched at once (None: whole chunks, which saves round trips).
    """
    pool = BufferPool(settings.chunk_bytes, settings.buffer_count)
    driver = ChunkedDriver(
        images,
        pool,
        DriverLimits(
            chunk_bytes=settings.chunk_bytes,
            write_window=settings.write_window,
            read_window=settings.read_window,
            read_piece_bytes=read_piece_bytes,
        ),
    )
    limits = RegistryLimits(manifest_bytes_max=settings.manifest_bytes_max)
    writable = CachedCheck(images.check)
    registry = Registry(meta, driver, writable, limits)
    reclaimer = Reclaimer(meta, driver, min_age_s=settings.reclaim_after_s, upload_expires_s=settings.upload_expires_s)
    trimmer = IdleTrim(pool)
    admission = Admission(
        AdmissionLimits.within(
            settings.threads,
            uploads_max=settings.uploads_max,
            downloads_max=settings.downloads_max,
            requests_max=settings.requests_max,
            waiting_max=settings.waiting_max,
            stalled_after_s=settings.stalled_after_s,
        ),
        Patience(settings.stalled_after_s, settings.slow_bytes_per_s, settings.slow_window_s),
    )
    app = create_app(
        registry,
        # Only metadata decides whether this front end can serve: without ImageServers that take writes pulls go on, and
        # a balancer that looked elsewhere would find the same.
        ready=meta.check,
        writable=writable,
        admission=admission,
        body=BodyLimits(idle_s=settings.body_idle_s),
        cross_origin=CrossOrigin(settings.web_origins),
    )
    admission.start()
    reclaimer.start()
    trimmer.start()
    closing = ExitStack()
    closing.callback(driver.close)
    closing.callback(trimmer.close)
    closing.callback(reclaimer.close)
    closing.callback(admission.close)
    return RoomApp(app=app, close=closing.close)
