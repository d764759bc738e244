/* The volumes of a store: the table, making the next one, and what happens to one that fails. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "space.h"
#include "store.h"

/* Without a lock: every read asks. Places in the table never move, and a slot is filled before it is counted. */
struct volume *volumes_get(engine_store *store, uint32_t slot)
{
    if (slot >= atomic_load(&store->volume_count))
        return NULL;
    return store->volumes[slot / VOLUMES_PER_BLOCK][slot % VOLUMES_PER_BLOCK];
}

uint32_t volumes_count(engine_store *store)
{
    return (uint32_t)atomic_load(&store->volume_count);
}

int volumes_add(engine_store *store, struct volume *volume, engine_error *error)
{
    int status = ENGINE_OK;
    pthread_mutex_lock(&store->volumes_lock);
    uint32_t slot = volumes_count(store);
    if (slot > CHUNK_SLOT_MAX) {
        status = failure(error, ENGINE_FAILED, 0, "too many volumes");
        goto cleanup;
    }
    struct volume ***block = &store->volumes[slot / VOLUMES_PER_BLOCK];
    if (*block == NULL)
        *block = calloc(VOLUMES_PER_BLOCK, sizeof **block);
    if (*block == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
        goto cleanup;
    }
    volume->slot = slot;
    (*block)[slot % VOLUMES_PER_BLOCK] = volume;
    atomic_store(&store->volume_count, slot + 1);
cleanup:
    pthread_mutex_unlock(&store->volumes_lock);
    return status;
}

void volumes_free(engine_store *store)
{
    for (uint32_t slot = 0; slot < volumes_count(store); slot++)
        volume_free(volumes_get(store, slot));
    for (uint32_t block = 0; block < VOLUME_BLOCKS; block++)
        free(store->volumes[block]);
}

int volumes_take_id(engine_store *store, uint32_t *id, engine_error *error)
{
    int status = ENGINE_OK;
    pthread_mutex_lock(&store->volumes_lock);
    if (store->next_id > VOLUME_ID_MAX)
        status = failure(error, ENGINE_FAILED, 0, "no id is left for another volume");
    else if (store->volume_count > CHUNK_SLOT_MAX)
        status = failure(error, ENGINE_FAILED, 0, "too many volumes; reopen the store");
    else
        *id = store->next_id++;
    pthread_mutex_unlock(&store->volumes_lock);
    if (status != ENGINE_OK)
        atomic_store(&store->failed, true);
    return status;
}

int volumes_create(engine_store *store, uint64_t footprint, struct volume **created, engine_error *error)
{
    struct disk_space space;
    *created = NULL;
    if (atomic_load(&store->failed))
        return failure(error, ENGINE_FAILED, 0, "the store has failed");
    if (space_read(store, &space) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot ask the file system for its space");
    uint64_t needed = round_up(VOLUME_DATA_START + footprint + BLOCK_BYTES, VOLUME_ALLOCATION_UNIT);
    uint64_t size = space_volume_size(store, &space);
    uint64_t step = space_step(&space);
    if (needed > space.usable_bytes)
        return space_refuse(&space, needed, error);
    uint32_t id = 0;
    int status = volumes_take_id(store, &id, error);
    if (status != ENGINE_OK)
        return status;
    struct volume *volume = volume_new(store->io, store->directory, id);
    if (volume == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
    status = volume_create(volume, &store->identity, size < needed ? needed : size,
                               step < needed ? needed : step, BATCH_NEEDLES_MAX, error);
    if (status != ENGINE_OK) {
        volume_free(volume);
        if (status == ENGINE_FAILED && atomic_fetch_add(&store->volumes_failed_now, 1) + 1 >= VOLUME_FAILURES_MAX)
            atomic_store(&store->failed, true);
        return status;
    }
    struct manifest_volume row = {.id = id, .size = volume->size};
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

struct volume *volumes_standby(engine_store *store, uint64_t footprint)
{
    struct volume *found = NULL;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count && found == NULL; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        if (volume->state == VOLUME_STANDBY && footprint <= volume->size - round_up(volume->tail, BLOCK_BYTES))
            found = volume;
        pthread_mutex_unlock(&volume->lock);
    }
    return found;
}

void volumes_provide(struct volume *volume)
{
    engine_error ignored; /* delete_lacking */
    pthread_mutex_lock(&volume->lock);
    uint64_t chunks = volume->chunks;
    pthread_mutex_unlock(&volume->lock);
    (void)delete_log_reserve(volume, chunks, &ignored);
}

void volumes_fail(engine_store *store, struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    volume->state = VOLUME_FAILED;
    volume->changed = true;
    pthread_mutex_unlock(&volume->lock);
    pthread_mutex_lock(&store->volumes_lock);
    for (unsigned i = 0; i < store->active_count; i++)
        if (store->active[i] == volume)
            store->active[i] = store->active[--store->active_count];
    pthread_cond_broadcast(&store->volume_released);
    pthread_mutex_unlock(&store->volumes_lock);
    if (atomic_fetch_add(&store->volumes_failed_now, 1) + 1 >= VOLUME_FAILURES_MAX)
        atomic_store(&store->failed, true);
    keeper_wake(store);
}

int volumes_sync(engine_store *store, struct volume *volume, uint64_t next_seq, engine_error *error)
{
    int status = ENGINE_OK;
    pthread_mutex_lock(&volume->sync_lock);
    pthread_mutex_lock(&volume->lock);
    bool synced = volume->synced_seq + 1 >= next_seq;
    bool failed = volume->state == VOLUME_FAILED;
    pthread_mutex_unlock(&volume->lock);
    if (synced)
        goto cleanup;
    if (failed) {
        status = failure(error, ENGINE_FAILED, 0, "volume %u has failed with unsynced chunks", (unsigned)volume->id);
        goto cleanup;
    }
    atomic_fetch_add(&store->counters.syncs, 1);
    if (store->io->fdatasync(store->io->context, volume->file) != 0) {
        status = failure(error, ENGINE_FAILED, errno, "volume %u: sync failed", (unsigned)volume->id);
        volumes_fail(store, volume);
        goto cleanup;
    }
    pthread_mutex_lock(&volume->lock);
    if (volume->synced_seq + 1 < next_seq)
        volume->synced_seq = next_seq - 1;
    pthread_mutex_unlock(&volume->lock);
cleanup:
    pthread_mutex_unlock(&volume->sync_lock);
    return status;
}
