/*
 * Ascending listing of an unordered index: the smallest 64 Ki fids above a point are gathered in one pass over the index
 * and serve the calls that follow, until a put lands among them.
 */
#include <stdlib.h>

#include "failure.h"
#include "smallest.h"
#include "store.h"

#define BUILDS_MAX 3

struct gathering {
    uint64_t after;
    struct smallest fids;
};

static const struct smallest_item fid_item = {.bytes = sizeof(uint64_t), .key_at = 0};

static void gather(void *argument, const struct chunk_place *place)
{
    struct gathering *gathering = argument;
    if (place->fid > gathering->after)
        smallest_offer(&gathering->fids, fid_item, &place->fid);
}

void listing_note(engine_store *store, uint64_t fid)
{
    struct listing *listing = &store->listing;
    pthread_mutex_lock(&listing->lock);
    if (fid > listing->low && fid <= listing->high)
        listing->valid = false;
    pthread_mutex_unlock(&listing->lock);
}

static bool covers(struct listing *listing, uint64_t after_fid)
{
    pthread_mutex_lock(&listing->lock);
    bool inside = listing->valid && after_fid >= listing->low &&
                  (after_fid < listing->high || listing->high == UINT64_MAX);
    pthread_mutex_unlock(&listing->lock);
    return inside;
}

/* listing.build is held. */
static int build(engine_store *store, uint64_t after_fid, engine_error *error)
{
    struct listing *listing = &store->listing;
    if (listing->fids == NULL)
        listing->fids = malloc(LISTING_WINDOW * sizeof listing->fids[0]);
    if (listing->fids == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a listing");
    for (int tries = 0; tries < BUILDS_MAX; tries++) {
        struct gathering gathering = {
            .after = after_fid,
            .fids = {.items = listing->fids, .limit = LISTING_WINDOW},
        };
        /* Declared valid before the pass: a put that the pass may have missed takes it back. */
        pthread_mutex_lock(&listing->lock);
        listing->low = after_fid;
        listing->high = UINT64_MAX;
        listing->valid = true;
        pthread_mutex_unlock(&listing->lock);
        chunk_index_visit(store->index, gather, &gathering);
        smallest_sort(&gathering.fids, fid_item);
        listing->count = gathering.fids.count;
        pthread_mutex_lock(&listing->lock);
        if (listing->count == LISTING_WINDOW)
            listing->high = listing->fids[LISTING_WINDOW - 1];
        bool valid = listing->valid;
        pthread_mutex_unlock(&listing->lock);
        if (valid)
            break;
        /* A put came between. What it put may be missing, which the contract allows; the window is used once. */
    }
    return ENGINE_OK;
}

static size_t first_above(const struct listing *listing, uint64_t after_fid)
{
    size_t low = 0;
    size_t high = listing->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (listing->fids[middle] <= after_fid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void store_describe(engine_store *store, const struct chunk_place *place, engine_chunk *chunk)
{
    const struct volume *volume = volumes_get(store, place->slot);
    chunk->fid = place->fid;
    chunk->offset = place->offset;
    chunk->volume = volume->id;
    chunk->length = place->length;
    chunk->crc32c = place->crc32c;
    chunk->created_s = place->created_s;
}

int listing_read(engine_store *store, uint64_t after_fid, engine_chunk *chunks, size_t limit, size_t *count,
                 engine_error *error)
{
    struct listing *listing = &store->listing;
    int status = ENGINE_OK;
    *count = 0;
    if (limit > ENGINE_ITERATE_MAX)
        limit = ENGINE_ITERATE_MAX;
    pthread_mutex_lock(&listing->build);
    /* Each round ends the listing, fills the answer, or moves after_fid past a whole window of deleted chunks. */
    while (*count < limit) {
        if (!covers(listing, after_fid)) {
            status = build(store, after_fid, error);
            if (status != ENGINE_OK)
                break;
        }
        for (size_t i = first_above(listing, after_fid); i < listing->count && *count < limit; i++) {
            struct chunk_place place;
            after_fid = listing->fids[i];
            if (chunk_index_get(store->index, after_fid, &place, NULL, NULL))
                store_describe(store, &place, &chunks[(*count)++]);
        }
        if (listing->count < LISTING_WINDOW)
            break;
    }
    pthread_mutex_unlock(&listing->build);
    return status;
}
