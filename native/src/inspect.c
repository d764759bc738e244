/*
 * What is in the store, told from memory: its volumes, and the live needles of one volume in the order of their places.
 *
 * The index has no order, so a listing by place is gathered in one pass over it that keeps the smallest offsets found;
 * memory is bounded by what the caller asked for, not by the volume.
 */
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "inspect.h"
#include "smallest.h"
#include "store.h"

struct gathering {
    uint32_t slot;
    uint64_t from;
    struct smallest places;
};

static const struct smallest_item place_item = {
    .bytes = sizeof(struct chunk_place),
    .key_at = offsetof(struct chunk_place, offset),
};

static void gather(void *argument, const struct chunk_place *place)
{
    struct gathering *gathering = argument;
    if (place->slot == gathering->slot && place->offset >= gathering->from)
        smallest_offer(&gathering->places, place_item, place);
}

size_t inspect_gather(engine_store *store, uint32_t slot, uint64_t from, struct chunk_place *places, size_t limit)
{
    struct gathering gathering = {.slot = slot, .from = from, .places = {.items = places, .limit = limit}};
    if (limit == 0)
        return 0;
    chunk_index_visit(store->index, gather, &gathering);
    smallest_sort(&gathering.places, place_item);
    return gathering.places.count;
}

static uint32_t public_state(enum volume_state state)
{
    switch (state) {
    case VOLUME_STANDBY:
        return ENGINE_VOLUME_STANDBY;
    case VOLUME_ACTIVE:
        return ENGINE_VOLUME_ACTIVE;
    case VOLUME_CLOSING:
        return ENGINE_VOLUME_CLOSING;
    case VOLUME_SEALED:
        return ENGINE_VOLUME_SEALED;
    case VOLUME_FAILED:
        return ENGINE_VOLUME_FAILED;
    case VOLUME_QUARANTINED:
    case VOLUME_GONE:
        break;
    }
    return ENGINE_VOLUME_QUARANTINED;
}

static void describe(struct volume *volume, engine_volume *told)
{
    memset(told, 0, sizeof *told);
    pthread_mutex_lock(&volume->lock);
    bool takes_chunks = volume_is_writable(volume);
    uint64_t used = volume->live_bytes + volume->pad_bytes + VOLUME_DATA_START;
    told->id = volume->id;
    told->state = public_state(volume->state);
    memcpy(told->uuid, volume->uuid, sizeof told->uuid);
    told->size_bytes = volume->size;
    told->tail = volume->tail;
    told->chunks = volume->chunks;
    told->payload_bytes = volume->payload_bytes;
    told->live_bytes = volume->live_bytes;
    /* While a batch is published its needles are live a moment before the tail has moved over them. */
    told->dead_bytes = volume->tail > used ? volume->tail - used : 0;
    told->pad_bytes = volume->pad_bytes + VOLUME_DATA_START + (takes_chunks ? 0 : volume->size - volume->tail);
    told->free_bytes = takes_chunks ? volume->size - volume->tail : 0;
    told->allocated_bytes = volume->allocated;
    told->punched_bytes = volume->punched_bytes;
    told->fid_max = volume->fid_max;
    pthread_mutex_unlock(&volume->lock);
}

struct volume *inspect_find(engine_store *store, uint32_t id)
{
    uint32_t slots = volumes_count(store);
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct volume *volume = volumes_get(store, slot);
        if (volume != NULL && volume->id == id && volume_is_there(volume))
            return volume;
    }
    return NULL;
}

static int list_needles(engine_store *store, uint32_t volume_id, uint64_t after_offset, engine_chunk *chunks,
                        size_t limit, size_t *count, engine_error *error)
{
    const struct volume *volume = inspect_find(store, volume_id);
    if (volume == NULL)
        return failure(error, ENGINE_NOT_FOUND, 0, "no volume %u", (unsigned)volume_id);
    if (limit > ENGINE_ITERATE_MAX)
        limit = ENGINE_ITERATE_MAX;
    if (after_offset == UINT64_MAX || limit == 0)
        return ENGINE_OK;
    struct chunk_place *places = malloc(limit * sizeof *places);
    if (places == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a listing");
    *count = inspect_gather(store, volume->slot, after_offset + 1, places, limit);
    for (size_t i = 0; i < *count; i++)
        store_describe(store, &places[i], &chunks[i]);
    free(places);
    return ENGINE_OK;
}

int engine_needles(engine_store *store, uint32_t volume, uint64_t after_offset, engine_chunk *chunks, size_t limit,
                   size_t *count, engine_error *error)
{
    *count = 0;
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, list_needles(store, volume, after_offset, chunks, limit, count, error));
}

int engine_volumes(engine_store *store, engine_volume *volumes, size_t limit, size_t *count, engine_error *error)
{
    *count = 0;
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    uint32_t slots = volumes_count(store);
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct volume *volume = volumes_get(store, slot);
        if (volume == NULL || !volume_is_there(volume))
            continue;
        if (*count < limit)
            describe(volume, &volumes[*count]);
        (*count)++;
    }
    return store_leave(store, ENGINE_OK);
}
