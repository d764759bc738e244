/*
 * Space on the disk: how much of it the store may use, how large volumes become, and taking it for them.
 *
 * Everything here follows the disk: on a small one volumes, the reserve and the pieces taken ahead are small, too, so
 * that what is set aside stays a small part of it.
 */
#include <errno.h>

#include "failure.h"
#include "space.h"
#include "store.h"

#define DISK_SHARE 16   /* neither a volume nor the reserve is more than this part of the disk, unless it is set */
#define STEP_SHARE 64   /* of what is usable, taken at once */
#define RESERVE_PERCENT 1
#define RESERVE_VOLUMES 2

uint64_t space_volume_size(engine_store *store, const struct disk_space *space)
{
    uint64_t largest = round_down(space->total_bytes / DISK_SHARE, VOLUME_ALLOCATION_UNIT);
    if (largest < VOLUME_ALLOCATION_UNIT)
        largest = VOLUME_ALLOCATION_UNIT;
    if (largest > store->options.volume_size_max)
        largest = store->options.volume_size_max;
    /* Volumes double from the first size to the largest, so that a small store stays small. */
    uint64_t size = store->options.volume_size_first;
    for (uint32_t i = volumes_count(store); i > 0 && size < largest; i--)
        size *= 2;
    return size < largest ? size : largest;
}

/* Enough for checkpoints, logs and the copies of a compaction. */
static uint64_t default_reserve(engine_store *store, const struct disk_space *space)
{
    uint64_t volumes = RESERVE_VOLUMES * space_volume_size(store, space);
    uint64_t percent = space->total_bytes / 100 * RESERVE_PERCENT;
    if (volumes > space->total_bytes / DISK_SHARE)
        volumes = space->total_bytes / DISK_SHARE;
    return volumes > percent ? volumes : percent;
}

int space_read(engine_store *store, struct disk_space *space)
{
    *space = (struct disk_space){0};
    if (store->io->space(store->io->context, store->directory, &space->free_bytes, &space->total_bytes) != 0)
        return -1;
    space->reserve_bytes = store->options.reserve_bytes;
    if (space->reserve_bytes == UINT64_MAX)
        space->reserve_bytes = default_reserve(store, space);
    if (space->free_bytes > space->reserve_bytes)
        space->usable_bytes = space->free_bytes - space->reserve_bytes;
    atomic_store(&store->step_bytes, space_step(space));
    return 0;
}

uint64_t space_step(const struct disk_space *space)
{
    uint64_t step = round_down(space->usable_bytes / STEP_SHARE, VOLUME_ALLOCATION_UNIT);
    if (step < VOLUME_ALLOCATION_UNIT)
        return VOLUME_ALLOCATION_UNIT;
    return step < VOLUME_ALLOCATION_STEP_MAX ? step : VOLUME_ALLOCATION_STEP_MAX;
}

int space_refuse(const struct disk_space *space, uint64_t wanted_bytes, engine_error *error)
{
    return failure(error, ENGINE_DISK_FULL, 0,
                   "no space for %llu bytes: %llu are free, %llu are kept in reserve (reserve_bytes)",
                   (unsigned long long)wanted_bytes, (unsigned long long)space->free_bytes,
                   (unsigned long long)space->reserve_bytes);
}

int space_take(engine_store *store, struct volume *volume, uint64_t end, unsigned needles, engine_error *error)
{
    struct disk_space space;
    pthread_mutex_lock(&volume->lock);
    uint64_t allocated = volume->allocated;
    uint64_t records = volume->chunks + needles;
    bool has_room = records <= volume->delete_room;
    pthread_mutex_unlock(&volume->lock);
    if (end <= allocated && has_room)
        return ENGINE_OK;
    if (space_read(store, &space) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot ask the file system for its space");
    /* A chunk is taken in only when its delete will not meet a full disk. */
    if (!has_room && space.usable_bytes < BLOCK_BYTES)
        return space_refuse(&space, BLOCK_BYTES, error);
    int status = has_room ? ENGINE_OK : delete_log_reserve(volume, records, error);
    if (status != ENGINE_OK || end <= allocated)
        return status;
    uint64_t needed = round_up(end, VOLUME_ALLOCATION_UNIT);
    uint64_t target = round_up(allocated + space_step(&space), VOLUME_ALLOCATION_UNIT);
    if (target < needed || target - allocated > space.usable_bytes)
        target = needed;
    if (target > volume->size)
        target = volume->size;
    if (target - allocated > space.usable_bytes)
        return space_refuse(&space, target - allocated, error);
    if (volume_allocate(volume, target) != 0)
        return failure_os(error, errno, "volume %u: cannot take space", (unsigned)volume->id);
    return ENGINE_OK;
}
