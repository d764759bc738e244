"""What a ChunkServer's settings mean to its engine and its scrubber; no server comes with the import."""

from __future__ import annotations

from chunkserver.scrubbing import ScrubLimits
from native.engine import EngineOptions
from wire.settings import ChunkServerSettings


def engine_options(own: ChunkServerSettings, cluster_id: str) -> EngineOptions:
    """For the embedded server too."""
    return EngineOptions(
        cluster_id=cluster_id,
        volume_size_first=own.volume_bytes_first,
        volume_size_max=own.volume_bytes_max,
        reserve_bytes=own.reserve_bytes,
        sync=own.sync == "group",
        appenders=own.appenders,
        compact_below=own.compact_below,
        compact_bytes_s=own.compact_bytes_s,
    )


def scrub_limits(own: ChunkServerSettings) -> ScrubLimits:
    return ScrubLimits(bytes_s=own.scrub_bytes_s, every_s=own.scrub_every_s)
