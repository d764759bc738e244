/*
 * The keeper: a thread that does what nobody waits for. Prepares the next volume, records failures, seals full volumes,
 * returns the blocks of dead needles, and checkpoints what has changed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "clock.h"
#include "failure.h"
#include "store.h"

#define ROUND_S 1.0

struct collection {
    uint32_t slot;
    uint64_t tail;
    struct chunk_place *places;
    size_t count;
    size_t capacity;
    bool failed;
};

static void collect(void *argument, const struct chunk_place *place)
{
    struct collection *collection = argument;
    if (place->slot != collection->slot || place->offset >= collection->tail || collection->failed)
        return;
    if (collection->count == collection->capacity) {
        size_t capacity = collection->capacity == 0 ? 1024 : 2 * collection->capacity;
        struct chunk_place *places = realloc(collection->places, capacity * sizeof *places);
        if (places == NULL) {
            collection->failed = true;
            return;
        }
        collection->places = places;
        collection->capacity = capacity;
    }
    collection->places[collection->count++] = *place;
}

/* keeper.work is held. */
static int checkpoint_volume(engine_store *store, struct volume *volume, engine_error *error)
{
    struct checkpoint checkpoint;
    memset(&checkpoint, 0, sizeof checkpoint);
    pthread_mutex_lock(&volume->lock);
    checkpoint.tail = volume->tail;
    checkpoint.next_seq = volume->next_seq;
    checkpoint.fid_max = volume->fid_max;
    checkpoint.pad_bytes = volume->pad_bytes;
    checkpoint.punched_seq = volume->punched_seq;
    checkpoint.punched_bytes = volume->punched_bytes;
    volume->changed = false;
    pthread_mutex_unlock(&volume->lock);

    struct collection collection = {.slot = volume->slot, .tail = checkpoint.tail};
    int status = volumes_sync(store, volume, checkpoint.next_seq, error);
    if (status == ENGINE_OK) {
        chunk_index_visit(store->index, collect, &collection);
        checkpoint.places = collection.places;
        checkpoint.count = collection.count;
        if (collection.failed)
            status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for a checkpoint");
        else
            status = checkpoint_write(volume, &checkpoint, error);
    }
    free(collection.places);

    pthread_mutex_lock(&volume->lock);
    volume->checkpoint_ns = clock_monotonic_ns();
    if (status == ENGINE_OK)
        volume->checkpoint_tail = checkpoint.tail;
    else
        volume->changed = true; /* tried again after the next interval */
    pthread_mutex_unlock(&volume->lock);
    atomic_fetch_add(status == ENGINE_OK ? &store->counters.checkpoints : &store->counters.checkpoint_failures, 1);
    return status;
}

static void fill_row(struct volume *volume, struct manifest_volume *row)
{
    memset(row, 0, sizeof *row);
    row->id = volume->id;
    memcpy(row->uuid, volume->uuid, sizeof row->uuid);
    row->size = volume->size;
    row->tail = volume->tail;
    row->fid_max = volume->fid_max;
}

/* keeper.work is held. A full volume: checkpoint, MANIFEST, and its unused end goes back to the file system. */
static int seal_volume(engine_store *store, struct volume *volume, engine_error *error)
{
    struct manifest_volume row;
    int status = checkpoint_volume(store, volume, error);
    pthread_mutex_lock(&volume->lock);
    bool closing = volume->state == VOLUME_CLOSING;
    bool empty = volume->chunks == 0;
    fill_row(volume, &row);
    pthread_mutex_unlock(&volume->lock);
    /* A full disk has no space for a checkpoint, but gets some when an empty volume is given up. */
    if (status == ENGINE_DISK_FULL && empty)
        status = no_failure(error);
    if (status != ENGINE_OK || !closing)
        return status;
    status = manifest_append(&store->manifest, MANIFEST_SEAL, &row, error);
    if (status != ENGINE_OK)
        return status;
    volume_give_back(volume);
    pthread_mutex_lock(&volume->lock);
    volume->state = VOLUME_SEALED;
    pthread_mutex_unlock(&volume->lock);
    return ENGINE_OK;
}

/* Best effort: what is not recorded is found by the scan after the next open, which looks past the page cache. */
static void record_failure(engine_store *store, struct volume *volume)
{
    struct manifest_volume row;
    engine_error ignored;
    pthread_mutex_lock(&volume->lock);
    bool record = volume->state == VOLUME_FAILED && !volume->failure_recorded;
    volume->failure_recorded = volume->failure_recorded || record;
    fill_row(volume, &row);
    pthread_mutex_unlock(&volume->lock);
    if (record)
        (void)manifest_append(&store->manifest, MANIFEST_FAIL, &row, &ignored);
}

/* keeper.work is held. Does for one volume what is due; all: also what is not due yet. Returns whether punches wait. */
static bool care_for(engine_store *store, struct volume *volume, bool all, int *status, engine_error *error)
{
    const uint64_t interval_ns = (uint64_t)(store->options.checkpoint_s * 1e9);
    pthread_mutex_lock(&volume->lock);
    bool gone = volume->state == VOLUME_GONE;
    pthread_mutex_unlock(&volume->lock);
    if (gone) {
        (void)volume_release(volume);
        return false;
    }
    record_failure(store, volume);
    /* Twice: what was deleted later waited for those that go now, and may have no readers of its own. */
    bool waits = volume_punch(volume) && volume_punch(volume);
    pthread_mutex_lock(&volume->lock);
    enum volume_state state = volume->state;
    bool changed = volume->changed && volume->file >= 0;
    bool recent = clock_monotonic_ns() - volume->checkpoint_ns < interval_ns;
    bool due = volume->tail - volume->checkpoint_tail >= store->options.checkpoint_bytes || !recent;
    bool retry = state != VOLUME_CLOSING || changed || !recent;
    pthread_mutex_unlock(&volume->lock);
    int result = ENGINE_OK;
    if (state == VOLUME_CLOSING && (all || retry))
        result = seal_volume(store, volume, error);
    else if (changed && state != VOLUME_QUARANTINED && (all || due))
        result = checkpoint_volume(store, volume, error);
    if (result != ENGINE_OK && *status == ENGINE_OK)
        *status = result;
    return waits;
}

/* What an open or a put did not get from a full disk. Last: what went before may have given space back. */
static void provide(engine_store *store)
{
    uint32_t count = volumes_count(store);
    manifest_provide(&store->manifest);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        bool gone = volume->state == VOLUME_GONE;
        pthread_mutex_unlock(&volume->lock);
        pthread_mutex_lock(&volume->delete_lock);
        bool lacking = volume->delete_lacking;
        pthread_mutex_unlock(&volume->delete_lock);
        if (lacking && !gone)
            volumes_provide(volume);
    }
}

static bool round_of_care(engine_store *store, bool all, int *status, engine_error *error)
{
    bool waits = false;
    pthread_mutex_lock(&store->keeper.work);
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count; slot++) {
        engine_error own;
        int before = *status;
        (void)no_failure(&own);
        waits = care_for(store, volumes_get(store, slot), all, status, &own) || waits;
        if (before == ENGINE_OK && *status != ENGINE_OK)
            *error = own;
    }
    provide(store);
    pthread_mutex_unlock(&store->keeper.work);
    return waits;
}

int keeper_checkpoint(engine_store *store, engine_error *error)
{
    int status = ENGINE_OK;
    (void)round_of_care(store, true, &status, error);
    return status;
}

static void *run(void *argument)
{
    engine_store *store = argument;
    struct keeper *keeper = &store->keeper;
    pthread_mutex_lock(&keeper->lock);
    while (!keeper->stopping) {
        struct timespec until = clock_timespec(clock_deadline(ROUND_S));
        keeper->resting = true;
        while (!keeper->wanted && !keeper->stopping)
            if (pthread_cond_timedwait(&keeper->wake, &keeper->lock, &until) == ETIMEDOUT)
                break;
        keeper->resting = false;
        keeper->wanted = false;
        if (keeper->stopping)
            break;
        pthread_mutex_unlock(&keeper->lock);
        int status = ENGINE_OK;
        engine_error ignored;
        active_prepare(store);
        (void)round_of_care(store, false, &status, &ignored);
        pthread_mutex_lock(&keeper->lock);
    }
    pthread_mutex_unlock(&keeper->lock);
    return NULL;
}

int keeper_start(engine_store *store, engine_error *error)
{
    int failed = pthread_create(&store->keeper.thread, NULL, run, store);
    if (failed != 0)
        return failure(error, ENGINE_FAILED, failed, "cannot start the keeper");
    store->keeper.started = true;
    return ENGINE_OK;
}

void keeper_stop(engine_store *store)
{
    if (!store->keeper.started)
        return;
    pthread_mutex_lock(&store->keeper.lock);
    store->keeper.stopping = true;
    pthread_cond_signal(&store->keeper.wake);
    pthread_mutex_unlock(&store->keeper.lock);
    pthread_join(store->keeper.thread, NULL);
    store->keeper.started = false;
}

void keeper_wake(engine_store *store)
{
    pthread_mutex_lock(&store->keeper.lock);
    store->keeper.wanted = true;
    pthread_cond_signal(&store->keeper.wake);
    pthread_mutex_unlock(&store->keeper.lock);
}
