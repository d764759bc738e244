/* The volumes of a store: the table, making the next one, and moving on from one that is full or has failed. */
#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store.h"

struct volume *volumes_get(engine_store *store, uint32_t slot)
{
    pthread_mutex_lock(&store->volumes_lock);
    struct volume *volume = slot < store->volume_count ? store->volumes[slot] : NULL;
    pthread_mutex_unlock(&store->volumes_lock);
    return volume;
}

uint32_t volumes_count(engine_store *store)
{
    pthread_mutex_lock(&store->volumes_lock);
    uint32_t count = store->volume_count;
    pthread_mutex_unlock(&store->volumes_lock);
    return count;
}

int volumes_add(engine_store *store, struct volume *volume, engine_error *error)
{
    int status = ENGINE_OK;
    pthread_mutex_lock(&store->volumes_lock);
    if (store->volume_count > CHUNK_SLOT_MAX) {
        status = failure(error, ENGINE_FAILED, 0, "too many volumes");
        goto cleanup;
    }
    if (store->volume_count == store->volume_capacity) {
        uint32_t capacity = store->volume_capacity == 0 ? 64 : 2 * store->volume_capacity;
        struct volume **volumes = realloc(store->volumes, capacity * sizeof *volumes);
        if (volumes == NULL) {
            status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
            goto cleanup;
        }
        store->volumes = volumes;
        store->volume_capacity = capacity;
    }
    volume->slot = store->volume_count;
    store->volumes[store->volume_count++] = volume;
cleanup:
    pthread_mutex_unlock(&store->volumes_lock);
    return status;
}

/* Volumes double from the first size to the largest, so that a small store stays small. */
static uint64_t next_size(engine_store *store)
{
    uint64_t size = store->options.volume_size_first;
    for (uint32_t i = volumes_count(store); i > 0 && size < store->options.volume_size_max; i--)
        size *= 2;
    return size < store->options.volume_size_max ? size : store->options.volume_size_max;
}

int volumes_space(engine_store *store, uint64_t *usable_bytes, uint64_t *reserve_bytes)
{
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
    *usable_bytes = 0;
    *reserve_bytes = store->options.reserve_bytes;
    if (store->io->space(store->io->context, store->directory, &free_bytes, &total_bytes) != 0)
        return -1;
    if (*reserve_bytes == UINT64_MAX) {
        *reserve_bytes = 2 * next_size(store);
        if (*reserve_bytes < total_bytes / 100)
            *reserve_bytes = total_bytes / 100;
    }
    *usable_bytes = free_bytes > *reserve_bytes ? free_bytes - *reserve_bytes : 0;
    return 0;
}

/* The next size, or the largest smaller one that the disk has space for; 0 when there is none. */
static uint64_t affordable_size(engine_store *store, uint64_t needed)
{
    uint64_t usable;
    uint64_t reserve;
    uint64_t size = next_size(store);
    if (volumes_space(store, &usable, &reserve) != 0)
        return 0;
    if (size < needed)
        size = needed;
    while (size > usable && size / 2 >= needed && size / 2 >= VOLUME_ALLOCATION_UNIT)
        size /= 2;
    return size <= usable ? size : 0;
}

/* volumes_create is locked. */
static int create_locked(engine_store *store, uint64_t footprint, struct volume **created, engine_error *error)
{
    *created = NULL;
    if (atomic_load(&store->failed))
        return failure(error, ENGINE_FAILED, 0, "the store has failed");
    uint64_t size = affordable_size(store, round_up(VOLUME_DATA_START + footprint + BLOCK_BYTES, VOLUME_ALLOCATION_UNIT));
    if (size == 0)
        return failure(error, ENGINE_DISK_FULL, ENOSPC, "no space for a volume above the reserve");
    pthread_mutex_lock(&store->volumes_lock);
    uint32_t id = store->next_id++;
    pthread_mutex_unlock(&store->volumes_lock);
    struct volume *volume = volume_new(store->io, store->directory, id);
    if (volume == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
    int status = volume_create(volume, &store->identity, size, error);
    if (status != ENGINE_OK) {
        volume_free(volume);
        if (status == ENGINE_FAILED && atomic_fetch_add(&store->volumes_failed_now, 1) + 1 >= VOLUME_FAILURES_MAX)
            atomic_store(&store->failed, true);
        return status;
    }
    struct manifest_volume row = {.id = id, .size = size};
    memcpy(row.uuid, volume->uuid, sizeof row.uuid);
    status = manifest_append(&store->manifest, MANIFEST_CREATE, &row, error);
    if (status == ENGINE_OK)
        status = volumes_add(store, volume, error);
    else if (status == ENGINE_FAILED)
        atomic_store(&store->failed, true); /* without MANIFEST no volume can be acknowledged into existence */
    if (status != ENGINE_OK) {
        /* The file stays: nothing is in it, and the next open adopts it. */
        volume_free(volume);
        return status;
    }
    *created = volume;
    return ENGINE_OK;
}

int volumes_create(engine_store *store, uint64_t footprint, struct volume **volume, engine_error *error)
{
    pthread_mutex_lock(&store->volumes_create);
    int status = create_locked(store, footprint, volume, error);
    pthread_mutex_unlock(&store->volumes_create);
    return status;
}

int volumes_allocate(engine_store *store, struct volume *volume, uint64_t end, engine_error *error)
{
    uint64_t usable = 0;
    uint64_t reserve = 0;
    pthread_mutex_lock(&volume->lock);
    uint64_t allocated = volume->allocated;
    pthread_mutex_unlock(&volume->lock);
    if (end <= allocated)
        return ENGINE_OK;
    uint64_t needed = round_up(end, VOLUME_ALLOCATION_UNIT);
    uint64_t target = allocated + VOLUME_ALLOCATION_STEP > needed ? allocated + VOLUME_ALLOCATION_STEP : needed;
    if (volumes_space(store, &usable, &reserve) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot ask the file system for its space");
    if (target - allocated > usable)
        target = needed;
    if (target > volume->size)
        target = volume->size;
    if (target - allocated > usable)
        return failure(error, ENGINE_DISK_FULL, ENOSPC, "no space above the reserve");
    if (volume_allocate(volume, target) != 0)
        return failure_os(error, errno, "volume %u: cannot take space", (unsigned)volume->id);
    return ENGINE_OK;
}

static bool has_room(struct volume *volume, uint64_t footprint)
{
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    bool room = volume_is_writable(volume) && start <= volume->size && footprint <= volume->size - start;
    pthread_mutex_unlock(&volume->lock);
    return room;
}

static struct volume *find_standby(engine_store *store, uint64_t footprint)
{
    struct volume *found = NULL;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count && found == NULL; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        bool standby = volume->state == VOLUME_STANDBY;
        pthread_mutex_unlock(&volume->lock);
        if (standby && has_room(volume, footprint))
            found = volume;
    }
    return found;
}

int volumes_activate(struct appender *appender, uint64_t footprint, struct volume **volume, engine_error *error)
{
    engine_store *store = appender->store;
    int status = ENGINE_OK;
    pthread_mutex_lock(&store->volumes_lock);
    struct volume *before = appender->active;
    pthread_mutex_unlock(&store->volumes_lock);
    *volume = before;
    /* Not behind volumes_create: preparing the next volume takes long, and only its appender moves on. */
    if (before != NULL && has_room(before, footprint))
        return ENGINE_OK;
    pthread_mutex_lock(&store->volumes_create);
    *volume = find_standby(store, footprint);
    if (*volume == NULL)
        status = create_locked(store, footprint, volume, error);
    if (status != ENGINE_OK)
        goto cleanup; /* the active volume stays: something smaller may fit */
    if (before != NULL) {
        pthread_mutex_lock(&before->lock);
        if (before->state == VOLUME_ACTIVE)
            before->state = VOLUME_CLOSING;
        pthread_mutex_unlock(&before->lock);
        keeper_wake(store);
    }
    pthread_mutex_lock(&(*volume)->lock);
    (*volume)->state = VOLUME_ACTIVE;
    pthread_mutex_unlock(&(*volume)->lock);
    pthread_mutex_lock(&store->volumes_lock);
    appender->active = *volume;
    pthread_mutex_unlock(&store->volumes_lock);
cleanup:
    pthread_mutex_unlock(&store->volumes_create);
    return status;
}

/* The active volume of the appender with this number, or NULL. */
static struct volume *active_of(engine_store *store, unsigned number)
{
    pthread_mutex_lock(&store->volumes_lock);
    struct volume *active = store->appenders[number].active;
    pthread_mutex_unlock(&store->volumes_lock);
    return active;
}

void volumes_allocate_ahead(engine_store *store)
{
    for (unsigned i = 0; i < store->appender_count; i++) {
        engine_error ignored;
        struct volume *active = active_of(store, i);
        if (active == NULL)
            continue;
        pthread_mutex_lock(&active->lock);
        uint64_t wanted = active->tail + VOLUME_ALLOCATION_STEP / 2;
        uint64_t end = wanted < active->size ? wanted : active->size;
        pthread_mutex_unlock(&active->lock);
        /* Without success the appender tries itself when it must, and reports. */
        (void)volumes_allocate(store, active, end, &ignored);
    }
}

bool volumes_need_care(engine_store *store)
{
    for (unsigned i = 0; i < store->appender_count; i++) {
        struct volume *active = active_of(store, i);
        if (active == NULL)
            continue;
        pthread_mutex_lock(&active->lock);
        bool soon = active->allocated < active->size && active->allocated < active->tail + VOLUME_ALLOCATION_STEP / 2;
        pthread_mutex_unlock(&active->lock);
        if (soon)
            return true;
    }
    return volumes_need_standby(store);
}

bool volumes_need_standby(engine_store *store)
{
    if (atomic_load(&store->failed))
        return false;
    for (unsigned i = 0; i < store->appender_count; i++) {
        struct volume *active = active_of(store, i);
        if (active == NULL)
            continue;
        pthread_mutex_lock(&active->lock);
        bool half_full = active->tail - VOLUME_DATA_START > (active->size - VOLUME_DATA_START) / 2;
        pthread_mutex_unlock(&active->lock);
        if (half_full)
            return find_standby(store, 0) == NULL;
    }
    return false;
}

void volumes_fail(engine_store *store, struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    volume->state = VOLUME_FAILED;
    volume->changed = true;
    pthread_mutex_unlock(&volume->lock);
    pthread_mutex_lock(&store->volumes_lock);
    for (unsigned i = 0; i < store->appender_count; i++)
        if (store->appenders[i].active == volume)
            store->appenders[i].active = NULL;
    pthread_mutex_unlock(&store->volumes_lock);
    if (atomic_fetch_add(&store->volumes_failed_now, 1) + 1 >= VOLUME_FAILURES_MAX)
        atomic_store(&store->failed, true);
    keeper_wake(store);
}

int volumes_sync(engine_store *store, struct volume *volume, uint64_t next_seq, engine_error *error)
{
    pthread_mutex_lock(&volume->lock);
    bool synced = volume->synced_seq + 1 >= next_seq;
    bool failed = volume->state == VOLUME_FAILED;
    pthread_mutex_unlock(&volume->lock);
    if (synced)
        return ENGINE_OK;
    if (failed)
        return failure(error, ENGINE_FAILED, 0, "volume %u has failed with unsynced chunks", (unsigned)volume->id);
    atomic_fetch_add(&store->counters.syncs, 1);
    if (store->io->fdatasync(store->io->context, volume->file) != 0) {
        int reason = errno;
        volumes_fail(store, volume);
        return failure(error, ENGINE_FAILED, reason, "volume %u: sync failed", (unsigned)volume->id);
    }
    pthread_mutex_lock(&volume->lock);
    if (volume->synced_seq + 1 < next_seq)
        volume->synced_seq = next_seq - 1;
    pthread_mutex_unlock(&volume->lock);
    return ENGINE_OK;
}
