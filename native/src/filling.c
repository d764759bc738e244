/*
 * Filling the index. A checkpoint of millions is shared out among threads by the index's shards: each goes through all of
 * it and takes what belongs to its own shards, so that no lock is needed. It sorts them by shard first: the places of
 * one shard lie in one or two megabytes, which a processor keeps near; those of all lie anywhere in hundreds.
 */
#include "filling.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "failure.h"

#define PREFETCHED 16u /* chunks ahead whose place in the index is on its way into the processor's cache */
#define THREADS_MAX 4u
#define SORTED_AT_ONCE ((size_t)1 << 18) /* 10 MiB, and a thousand chunks of each shard */
#define CHUNKS_PER_THREAD_MIN 50000u /* fewer are filled in faster than a thread starts */

struct filler {
    engine_store *store;
    uint32_t slot;
    const struct checkpoint *checkpoint;
    const struct delete_set *deleted;
    uint32_t part;
    uint32_t parts;
    pthread_t thread;
    bool started;
    /* What comes of it. */
    struct loser_list losers;
    uint64_t live_bytes;
    uint64_t payload_bytes;
    uint64_t chunks;
    bool any_deleted;
    bool no_memory;
};

static bool reserve_losers(struct loser_list *losers, size_t more)
{
    if (losers->count + more <= losers->capacity)
        return true;
    size_t capacity = losers->capacity == 0 ? 16 : 2 * losers->capacity;
    if (capacity < losers->count + more)
        capacity = losers->count + more;
    struct chunk_place *places = realloc(losers->places, capacity * sizeof *places);
    if (places == NULL)
        return false;
    losers->places = places;
    losers->capacity = capacity;
    return true;
}

void filling_book(engine_store *store, const struct chunk_place *place)
{
    struct volume *volume = volumes_get(store, place->slot);
    volume->live_bytes += needle_footprint(place->length, place->header_length);
    volume->payload_bytes += place->length;
    volume->chunks++;
}

void filling_unbook(engine_store *store, const struct chunk_place *place)
{
    struct volume *volume = volumes_get(store, place->slot);
    volume->live_bytes -= needle_footprint(place->length, place->header_length);
    volume->payload_bytes -= place->length;
    volume->chunks--;
}

/* The books of the volumes are not touched here: others fill in beside. */
static void fill_in(struct filler *filler, const struct chunk_place *place)
{
    struct chunk_place before;
    bool replaced = false;
    if (filler->no_memory || !chunk_index_fill(filler->store->index, place, &replaced, &before)) {
        filler->no_memory = true;
        return;
    }
    filler->live_bytes += needle_footprint(place->length, place->header_length);
    filler->payload_bytes += place->length;
    filler->chunks++;
    if (!replaced)
        return;
    if (reserve_losers(&filler->losers, 1))
        filler->losers.places[filler->losers.count++] = before;
    else
        filler->no_memory = true;
}

/* Where each shard's chunks of a piece begin when they lie shard by shard; the last is how many there are. */
static void count_by_shard(const struct filler *filler, size_t first, size_t end, size_t *starts)
{
    memset(starts, 0, (CHUNK_INDEX_SHARDS + 1) * sizeof starts[0]);
    for (size_t i = first; i < end; i++) {
        uint32_t shard = chunk_index_shard(checkpoint_fid(filler->checkpoint, i));
        starts[shard + 1] += shard % filler->parts == filler->part;
    }
    for (size_t shard = 0; shard < CHUNK_INDEX_SHARDS; shard++)
        starts[shard + 1] += starts[shard];
}

/* Own chunks of [first, end), shard by shard; returns how many. */
static size_t sort_by_shard(const struct filler *filler, size_t first, size_t end, struct chunk_place *sorted)
{
    size_t starts[CHUNK_INDEX_SHARDS + 1];
    count_by_shard(filler, first, end, starts);
    for (size_t i = first; i < end; i++) {
        uint32_t shard = chunk_index_shard(checkpoint_fid(filler->checkpoint, i));
        if (shard % filler->parts != filler->part)
            continue;
        struct chunk_place *place = &sorted[starts[shard]++];
        checkpoint_place(filler->checkpoint, i, place);
        place->slot = filler->slot;
    }
    return starts[CHUNK_INDEX_SHARDS];
}

static void fill_sorted(struct filler *filler, const struct chunk_place *sorted, size_t count)
{
    for (size_t i = 0; i < count && !filler->no_memory; i++) {
        if (i + PREFETCHED < count)
            chunk_index_prefetch(filler->store->index, sorted[i + PREFETCHED].fid);
        if (filler->deleted->count > 0 && delete_set_find(filler->deleted, sorted[i].offset, sorted[i].fid) != NULL)
            filler->any_deleted = true;
        else
            fill_in(filler, &sorted[i]);
    }
}

static void *fill_part(void *argument)
{
    struct filler *filler = argument;
    size_t all = filler->checkpoint->count;
    size_t piece = all < SORTED_AT_ONCE ? all : SORTED_AT_ONCE;
    struct chunk_place *sorted = malloc((piece + 1) * sizeof *sorted);
    if (sorted == NULL) {
        filler->no_memory = true;
        return NULL;
    }
    for (size_t first = 0; first < all; first += piece) {
        size_t end = all - first < piece ? all : first + piece;
        fill_sorted(filler, sorted, sort_by_shard(filler, first, end, sorted));
    }
    free(sorted);
    return NULL;
}

static uint32_t parts_for(size_t count)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t parts = count / CHUNKS_PER_THREAD_MIN;
    if (cores < 1 || parts < 2)
        return 1;
    if (parts > THREADS_MAX)
        parts = THREADS_MAX;
    return parts < (size_t)cores ? (uint32_t)parts : (uint32_t)cores;
}

/* Books what a filler has done; its losers go to the others'. */
static int book(engine_store *store, struct filler *filler, struct loser_list *losers, engine_error *error)
{
    struct volume *volume = volumes_get(store, filler->slot);
    volume->live_bytes += filler->live_bytes;
    volume->payload_bytes += filler->payload_bytes;
    volume->chunks += filler->chunks;
    for (size_t i = 0; i < filler->losers.count; i++)
        filling_unbook(store, &filler->losers.places[i]);
    if (filler->losers.count > 0 && reserve_losers(losers, filler->losers.count)) {
        memcpy(losers->places + losers->count, filler->losers.places,
               filler->losers.count * sizeof losers->places[0]);
        losers->count += filler->losers.count;
    } else if (filler->losers.count > 0) {
        filler->no_memory = true;
    }
    free(filler->losers.places);
    return filler->no_memory ? failure(error, ENGINE_NO_MEMORY, 0, "no memory for the index") : ENGINE_OK;
}

int filling_add_checkpoint(engine_store *store, struct volume *volume, const struct checkpoint *checkpoint,
                           const struct delete_set *deleted, struct loser_list *losers, bool *any_deleted,
                           engine_error *error)
{
    struct filler fillers[THREADS_MAX];
    uint32_t parts = parts_for(checkpoint->count);
    int status = ENGINE_OK;
    for (uint32_t part = 0; part < parts; part++)
        fillers[part] = (struct filler){.store = store,
                                        .slot = volume->slot,
                                        .checkpoint = checkpoint,
                                        .deleted = deleted,
                                        .part = part,
                                        .parts = parts};
    for (uint32_t part = 1; part < parts; part++)
        fillers[part].started = pthread_create(&fillers[part].thread, NULL, fill_part, &fillers[part]) == 0;
    for (uint32_t part = 0; part < parts; part++)
        if (!fillers[part].started) /* the first, and those for which there was no thread */
            (void)fill_part(&fillers[part]);
    *any_deleted = false;
    for (uint32_t part = 0; part < parts; part++) {
        if (fillers[part].started)
            (void)pthread_join(fillers[part].thread, NULL);
        int own = book(store, &fillers[part], losers, error);
        if (own != ENGINE_OK)
            status = own;
        *any_deleted |= fillers[part].any_deleted;
    }
    return status;
}

int filling_add(engine_store *store, const struct chunk_place *place, struct loser_list *losers, engine_error *error)
{
    struct filler filler = {.store = store, .slot = place->slot};
    fill_in(&filler, place);
    return book(store, &filler, losers, error);
}
