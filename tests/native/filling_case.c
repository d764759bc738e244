/* Filling the index from two volumes of which the later one has copies of chunks of the earlier one, by several threads. */
#include <stdbool.h>
#include <string.h>

#include "bytes.h"
#include "engine_test.h"
#include "filling.h"
#include "needle.h"
#include "volumes.h"

#define FIDS 120000u        /* of a checkpoint: enough for two threads */
#define COPIED_FROM 60000u  /* the fids from here on are in both */
#define DELETED_EVERY 7u    /* of the later volume */
#define LENGTH 100u
#define CHECKPOINT_HEADER_BYTES 128u
#define CHECKPOINT_ENTRY_BYTES 32u

struct filled {
    engine_store *store;
    struct volume *volumes[2];
    struct checkpoint checkpoints[2];
    struct delete_set deleted;
    struct loser_list losers;
};

static uint64_t offset_of(size_t i)
{
    return VOLUME_DATA_START + i * needle_footprint(LENGTH, NEEDLE_HEADER_BYTES_MIN);
}

/* A checkpoint as it was loaded. */
static void make_checkpoint(struct checkpoint *checkpoint, uint64_t first_fid)
{
    checkpoint->count = FIDS;
    checkpoint->content = calloc(1, CHECKPOINT_HEADER_BYTES + (size_t)FIDS * CHECKPOINT_ENTRY_BYTES);
    CHECK(checkpoint->content != NULL);
    for (size_t i = 0; i < FIDS; i++) {
        uint8_t *entry = checkpoint->content + CHECKPOINT_HEADER_BYTES + i * CHECKPOINT_ENTRY_BYTES;
        store_u64(entry, first_fid + i);
        store_u64(entry + 8, offset_of(i));
        store_u32(entry + 16, LENGTH);
        store_u32(entry + 24, NEEDLE_HEADER_BYTES_MIN);
    }
}

/* A store in memory alone, with two volumes that nothing is known of yet. */
static void begin(struct filled *filled)
{
    engine_error error;
    memset(filled, 0, sizeof *filled);
    filled->store = calloc(1, sizeof *filled->store);
    CHECK(filled->store != NULL && pthread_mutex_init(&filled->store->volumes_lock, NULL) == 0);
    filled->store->index = chunk_index_new();
    CHECK(filled->store->index != NULL);
    for (uint32_t i = 0; i < 2; i++) {
        filled->volumes[i] = volume_new(io_system(), -1, i + 1);
        CHECK(filled->volumes[i] != NULL && volumes_add(filled->store, filled->volumes[i], &error) == ENGINE_OK);
        make_checkpoint(&filled->checkpoints[i], i == 0 ? 1 : COPIED_FROM);
    }
    filled->deleted.records = calloc(FIDS / DELETED_EVERY + 1, sizeof filled->deleted.records[0]);
    CHECK(filled->deleted.records != NULL);
    for (size_t i = 0; i < FIDS; i += DELETED_EVERY)
        filled->deleted.records[filled->deleted.count++] =
            (struct delete_record){.fid = COPIED_FROM + i, .offset = offset_of(i)};
}

static int fill_both(struct filled *filled, engine_error *error)
{
    const struct delete_set nothing = {NULL, 0, 0};
    bool any_deleted;
    int status = filling_add_checkpoint(filled->store, filled->volumes[0], &filled->checkpoints[0], &nothing,
                                        &filled->losers, &any_deleted, error);
    if (status != ENGINE_OK)
        return status;
    CHECK(!any_deleted);
    status = filling_add_checkpoint(filled->store, filled->volumes[1], &filled->checkpoints[1], &filled->deleted,
                                    &filled->losers, &any_deleted, error);
    CHECK(status != ENGINE_OK || any_deleted);
    return status;
}

static void end(struct filled *filled)
{
    free(filled->losers.places);
    free(filled->deleted.records);
    for (uint32_t i = 0; i < 2; i++)
        checkpoint_free(&filled->checkpoints[i]);
    volumes_free(filled->store);
    chunk_index_free(filled->store->index);
    pthread_mutex_destroy(&filled->store->volumes_lock);
    free(filled->store);
}

static bool is_deleted(uint64_t fid)
{
    return fid >= COPIED_FROM && (fid - COPIED_FROM) % DELETED_EVERY == 0;
}

/* The places, the losers and the books, each told by the rule alone: the later copy that is not deleted wins. */
static void check_filled(struct filled *filled)
{
    static bool lost[FIDS + 1];
    uint64_t chunks[2] = {0, 0};
    uint64_t copies = 0;
    memset(lost, 0, sizeof lost);
    for (size_t i = 0; i < filled->losers.count; i++) {
        const struct chunk_place *place = &filled->losers.places[i];
        CHECK(place->slot == 0 && place->fid <= FIDS && place->offset == offset_of(place->fid - 1));
        CHECK(place->length == LENGTH && place->header_length == NEEDLE_HEADER_BYTES_MIN && !lost[place->fid]);
        lost[place->fid] = true;
    }
    for (uint64_t fid = 1; fid < COPIED_FROM + FIDS; fid++) {
        struct chunk_place place;
        bool later = fid >= COPIED_FROM && !is_deleted(fid);
        bool there = chunk_index_get(filled->store->index, fid, &place, NULL, NULL);
        CHECK(there == (later || fid <= FIDS));
        CHECK(fid > FIDS || lost[fid] == later);
        copies += later && fid <= FIDS;
        if (!there)
            continue;
        CHECK(place.slot == later && place.offset == offset_of(fid - (later ? COPIED_FROM : 1)));
        chunks[place.slot]++;
    }
    CHECK(filled->losers.count == copies && copies > 0);
    CHECK(chunk_index_count(filled->store->index) == chunks[0] + chunks[1]);
    for (int i = 0; i < 2; i++) {
        CHECK(filled->volumes[i]->chunks == chunks[i] && filled->volumes[i]->payload_bytes == chunks[i] * LENGTH);
        CHECK(filled->volumes[i]->live_bytes == chunks[i] * needle_footprint(LENGTH, NEEDLE_HEADER_BYTES_MIN));
    }
}

/* A copy within one volume, as a scan finds it: a checkpoint has none. */
static void check_copy_within(struct filled *filled)
{
    engine_error error;
    struct chunk_place place = {3 * FIDS, offset_of(FIDS), 1, NEEDLE_HEADER_BYTES_MIN, LENGTH, 0, 0};
    size_t losers = filled->losers.count;
    uint64_t chunks = filled->volumes[1]->chunks;
    CHECK(filling_add(filled->store, &place, &filled->losers, &error) == ENGINE_OK && filled->losers.count == losers);
    place.offset = offset_of(FIDS + 1);
    CHECK(filling_add(filled->store, &place, &filled->losers, &error) == ENGINE_OK && filled->losers.count == losers + 1);
    CHECK(filled->losers.places[losers].offset == offset_of(FIDS) && filled->volumes[1]->chunks == chunks + 1);
    CHECK(chunk_index_get(filled->store->index, place.fid, &place, NULL, NULL) && place.offset == offset_of(FIDS + 1));
}

void test_filling(const struct test *test)
{
    (void)test;
    for (int without_threads = 0; without_threads < 2; without_threads++) {
        struct filled filled;
        engine_error error;
        begin(&filled);
        refuse_threads(without_threads);
        CHECK(fill_both(&filled, &error) == ENGINE_OK);
        refuse_threads(false);
        check_filled(&filled);
        check_copy_within(&filled);
        end(&filled);
    }
}

/* Whichever thread it is for which there is no memory, the opening hears of it. */
void test_filling_without_memory(const struct test *test)
{
    bool fired = true;
    uint64_t stride = 1 + test->stride * test->stride; /* most are tables that grow */
    for (uint64_t after = 0; fired; after += after < 4 ? 1 : stride) {
        struct filled filled;
        engine_error error;
        begin(&filled);
        refuse_memory(after, after % 2 == 0);
        int status = fill_both(&filled, &error);
        fired = give_memory();
        CHECK(status == (fired ? ENGINE_NO_MEMORY : ENGINE_OK));
        if (!fired)
            check_filled(&filled);
        end(&filled);
    }
}
