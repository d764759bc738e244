/*
 * Ascending listing of an unordered index: the smallest 64 Ki fids above a point are gathered in one pass over the index
 * and serve the calls that follow, until a put lands among them.
 */
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store.h"

#define BUILDS_MAX 3

/* A binary heap with the largest of the smallest on top. */
struct gathering {
    uint64_t after;
    uint64_t *fids;
    size_t count;
};

static void sift_down(uint64_t *heap, size_t count, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && heap[child + 1] > heap[child])
            child++;
        if (heap[at] >= heap[child])
            return;
        uint64_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

static void gather(void *argument, const struct chunk_place *place)
{
    struct gathering *gathering = argument;
    if (place->fid <= gathering->after)
        return;
    if (gathering->count < LISTING_WINDOW) {
        gathering->fids[gathering->count++] = place->fid;
        if (gathering->count == LISTING_WINDOW)
            for (size_t i = LISTING_WINDOW / 2; i-- > 0;)
                sift_down(gathering->fids, LISTING_WINDOW, i);
    } else if (place->fid < gathering->fids[0]) {
        gathering->fids[0] = place->fid;
        sift_down(gathering->fids, LISTING_WINDOW, 0);
    }
}

static int ascending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
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
        struct gathering gathering = {.after = after_fid, .fids = listing->fids};
        /* Declared valid before the pass: a put that the pass may have missed takes it back. */
        pthread_mutex_lock(&listing->lock);
        listing->low = after_fid;
        listing->high = UINT64_MAX;
        listing->valid = true;
        pthread_mutex_unlock(&listing->lock);
        chunk_index_visit(store->index, gather, &gathering);
        listing->count = gathering.count;
        qsort(listing->fids, listing->count, sizeof listing->fids[0], ascending);
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
