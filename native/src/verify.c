/*
 * engine_verify: one named volume, needle by needle, for whoever asks; the round of the scrub goes on apart from it.
 *
 * The caller keeps where it is. The store only keeps the needles that were gathered last, because each gathering is a pass
 * over the whole index: whoever goes on where the last call has stopped finds them there, anybody else gathers anew.
 * Needles are looked up again before they are judged, so a batch that has grown old does no harm.
 */
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "inspect.h"
#include "store.h"

static void drop_batch(struct verifying *verifying)
{
    free(verifying->places);
    verifying->places = NULL;
    verifying->volume = NULL;
    verifying->count = 0;
    verifying->next = 0;
}

static uint64_t behind(const struct chunk_place *place)
{
    return place->offset + NEEDLE_ALIGNMENT;
}

/* verifying.work is held. The needles of the volume from *offset on; none are left when next is count. */
static int gather(engine_store *store, struct volume *volume, uint64_t offset, engine_error *error)
{
    struct verifying *verifying = &store->verifying;
    bool goes_on = verifying->volume == volume && verifying->offset == offset;
    if (goes_on && (verifying->next < verifying->count || verifying->count < SCRUB_BATCH_MAX))
        return ENGINE_OK;
    if (verifying->places == NULL)
        verifying->places = malloc(SCRUB_BATCH_MAX * sizeof *verifying->places);
    if (verifying->places == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory or descriptors to verify a volume");
    verifying->volume = volume;
    verifying->next = 0;
    verifying->count = inspect_gather(store, volume->slot, offset, verifying->places, SCRUB_BATCH_MAX);
    return ENGINE_OK;
}

static void superblocks(engine_store *store, struct scrub_reading *reading, engine_verification *told,
                        engine_damage *damage)
{
    for (unsigned copy = 0; copy < SUPERBLOCKS; copy++)
        if (scrub_check_superblock(store, reading, copy, false, &damage[told->damaged]) == SCRUB_DAMAGED)
            told->damaged++;
    told->offset = VOLUME_DATA_START;
}

static void needle(engine_store *store, struct scrub_reading *reading, engine_verification *told,
                   engine_damage *damage)
{
    struct verifying *verifying = &store->verifying;
    const struct chunk_place *place = &verifying->places[verifying->next];
    enum scrub_verdict verdict = scrub_check_needle(store, reading, place, verifying->count - verifying->next, false,
                                                    &damage[told->damaged]);
    if (verdict != SCRUB_GONE) {
        told->checked_chunks++;
        told->checked_bytes += needle_footprint(place->length, place->header_length);
    }
    if (verdict == SCRUB_DAMAGED)
        told->damaged++;
    told->offset = verifying->offset = behind(place);
    verifying->next++;
}

/* What was read ahead would have to be read again by the next call. */
static bool is_read_already(const struct scrub_reading *reading, const struct verifying *verifying)
{
    if (verifying->next >= verifying->count || verifying->volume != reading->volume)
        return false;
    const struct chunk_place *place = &verifying->places[verifying->next];
    return place->offset >= reading->base && place->offset + needle_footprint(place->length, place->header_length) <=
                                                 reading->base + reading->length;
}

/* verifying.work is held. */
static int verify(engine_store *store, struct volume *volume, uint64_t bytes_max, engine_verification *told,
                  engine_damage *damage, size_t limit, engine_error *error)
{
    struct verifying *verifying = &store->verifying;
    struct scrub_reading reading = {.direct = -1, .file = -1};
    int status = scrub_reading_open(&reading, volume) ? ENGINE_OK : ENGINE_NO_MEMORY;
    if (status != ENGINE_OK)
        (void)failure(error, status, 0, "no memory or descriptors to verify a volume");
    if (status == ENGINE_OK && told->offset < VOLUME_DATA_START)
        superblocks(store, &reading, told, damage);
    while (status == ENGINE_OK && told->damaged < limit && !store_is_closing(store) &&
           (reading.read_bytes < bytes_max || is_read_already(&reading, verifying))) {
        status = gather(store, volume, told->offset, error);
        if (status == ENGINE_OK && verifying->next == verifying->count) {
            told->ended = 1;
            break;
        }
        if (status == ENGINE_OK)
            needle(store, &reading, told, damage);
    }
    told->read_bytes = reading.read_bytes;
    scrub_reading_end(&reading);
    if (told->ended || status != ENGINE_OK)
        drop_batch(verifying);
    return status;
}

int engine_verify(engine_store *store, uint32_t volume_id, uint64_t bytes_max, engine_verification *told,
                  engine_damage *damage, size_t limit, engine_error *error)
{
    uint64_t offset = told->offset;
    memset(told, 0, sizeof *told);
    told->offset = offset;
    if (limit < SUPERBLOCKS)
        return failure(error, ENGINE_INVALID, 0, "room for %u damaged places is needed", SUPERBLOCKS);
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    pthread_mutex_lock(&store->verifying.work);
    struct volume *volume = inspect_find(store, volume_id);
    if (volume == NULL)
        status = failure(error, ENGINE_NOT_FOUND, 0, "no volume %u", (unsigned)volume_id);
    else
        status = verify(store, volume, bytes_max, told, damage, limit, error);
    pthread_mutex_unlock(&store->verifying.work);
    return store_leave(store, status);
}
