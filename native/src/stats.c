/* engine_stat: sums over the volumes, and what the file system still has. */
#include <errno.h>
#include <string.h>

#include "failure.h"
#include "space.h"
#include "stats.h"
#include "store.h"
#include "unreadable.h"

/* After a refusal the disk counts as full until there is room for as much as was refused, or for this: what is larger
 * may be refused while others fit. */
#define FULL_BELOW_BYTES ((uint64_t)8 << 20)

static void add_volume(struct volume *volume, engine_stats *stats)
{
    pthread_mutex_lock(&volume->lock);
    if (volume->state == VOLUME_GONE) {
        pthread_mutex_unlock(&volume->lock);
        return;
    }
    uint64_t used = volume->live_bytes + volume->pad_bytes + VOLUME_DATA_START;
    bool takes_chunks = volume_is_writable(volume);
    stats->chunks += volume->chunks;
    stats->payload_bytes += volume->payload_bytes;
    stats->live_bytes += volume->live_bytes;
    stats->pad_bytes += volume->pad_bytes + VOLUME_DATA_START;
    /* While a batch is published its needles are live a moment before the tail has moved over them. */
    stats->dead_bytes += volume->tail > used ? volume->tail - used : 0;
    if (takes_chunks)
        stats->volume_free_bytes += volume->size - volume->tail;
    else
        stats->pad_bytes += volume->size - volume->tail;
    stats->volume_bytes += volume->size;
    stats->allocated_bytes += volume->allocated;
    if (takes_chunks && volume->allocated > volume->tail)
        stats->free_bytes += volume->allocated - volume->tail;
    stats->punched_bytes += volume->punched_bytes;
    if (volume->fid_max > stats->fid_max)
        stats->fid_max = volume->fid_max;
    stats->volumes++;
    if (volume->state == VOLUME_FAILED)
        stats->volumes_failed++;
    if (volume->state == VOLUME_QUARANTINED)
        stats->volumes_quarantined++;
    pthread_mutex_unlock(&volume->lock);
}

static void add_counters(engine_store *store, engine_stats *stats)
{
    struct counters *counters = &store->counters;
    stats->appends = atomic_load(&counters->appends);
    stats->batches = atomic_load(&counters->batches);
    stats->syncs = atomic_load(&counters->syncs);
    stats->deletes = atomic_load(&counters->deletes);
    stats->reads = atomic_load(&counters->reads);
    stats->corrupt_reads = atomic_load(&counters->corrupt_reads);
    stats->checkpoints = atomic_load(&counters->checkpoints);
    stats->checkpoint_failures = atomic_load(&counters->checkpoint_failures);
    stats->compactions = atomic_load(&counters->compactions);
    stats->compaction_failures = atomic_load(&counters->compaction_failures);
    stats->compacted_bytes = atomic_load(&counters->compacted_bytes);
    stats->given_back_bytes = atomic_load(&counters->given_back_bytes);
}

int stats_fill(engine_store *store, engine_stats *stats, engine_error *error)
{
    struct disk_space space;
    memset(stats, 0, sizeof *stats);
    stats->fid_max = atomic_load(&store->replaced_fid_max);
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count; slot++)
        add_volume(volumes_get(store, slot), stats);
    add_counters(store, stats);
    scrub_fill_stats(store, stats);
    if (space_read(store, &space) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot ask the file system for its space");
    stats->reserve_bytes = space.reserve_bytes;
    stats->free_bytes += space.usable_bytes;
    stats->total_bytes = stats->allocated_bytes - stats->punched_bytes + space.usable_bytes;
    stats->volumes += unreadable_count(store);
    stats->volumes_quarantined += unreadable_count(store);
    stats->unknown_files = store->unknown_files;
    stats->damaged_records = store->damaged_records;
    stats->index_bytes = chunk_index_bytes(store->index);
    stats->queued_bytes = atomic_load(&store->queued_bytes);
    /* What was taken ahead counts: it is given back before a batch is refused (active.c). */
    uint64_t obtainable = space.free_bytes + (stats->free_bytes - space.usable_bytes);
    obtainable = obtainable > space.reserve_bytes ? obtainable - space.reserve_bytes : 0;
    uint64_t refused = atomic_load(&store->refused_bytes);
    if (refused > FULL_BELOW_BYTES)
        refused = FULL_BELOW_BYTES;
    if (atomic_load(&store->failed))
        stats->state = ENGINE_STATE_FAILED;
    else if (stats->free_bytes == 0 || (refused > 0 && obtainable < refused + VOLUME_ALLOCATION_UNIT))
        stats->state = ENGINE_STATE_RO_FULL;
    else
        stats->state = ENGINE_STATE_RW;
    return ENGINE_OK;
}
