#include "flips.h"

#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "disk.h"
#include "engine_test.h"
#include "needle.h"
#include "store.h"
#include "volume.h"

#define CHUNKS_KEPT 7
#define DELETED 6 /* 3,000 bytes: nothing of it is punched, so it would be whole if it came back */
#define CAPACITY ((uint64_t)64 << 20)
#define FILLER_FROM 128u /* of a superblock and of DISK: behind the fields only zeros, up to the CRC */

/* Empty, tiny, and up to two blocks of the file system. */
static const uint64_t kept[CHUNKS_KEPT] = {14, 1, 2, 8, 10, 11, 3};

struct flips {
    const struct contents *contents;
    engine_options options;
    engine_chunk places[CHUNKS_KEPT];
    char *label;
    size_t label_bytes;
};

static engine_store *open_store(const struct flips *flips, struct sim_disk *disk)
{
    engine_store *store;
    engine_error error;
    CHECK(store_open_on(sim_disk_table(disk), "", &flips->options, &store, &error) == ENGINE_OK);
    return store;
}

static struct sim_disk *make_store(struct flips *flips)
{
    struct sim_disk *disk = sim_disk_new(CAPACITY);
    engine_store *store = open_store(flips, disk);
    engine_error error;
    int removed;
    CHECK(contents_put(flips->contents, store, DELETED) == ENGINE_OK);
    for (size_t i = 0; i < CHUNKS_KEPT; i++) {
        CHECK(contents_put(flips->contents, store, kept[i]) == ENGINE_OK);
        CHECK(engine_info(store, kept[i], &flips->places[i], &error) == ENGINE_OK);
        CHECK(flips->places[i].volume == 1);
    }
    CHECK(engine_delete(store, DELETED, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    engine_free(store);
    return disk;
}

/* Index of the chunk whose header or payload has this byte of the volume, or -1. */
static int owner_of(const struct flips *flips, uint64_t at)
{
    for (int i = 0; i < CHUNKS_KEPT; i++) {
        uint64_t start = flips->places[i].offset;
        if (at >= start && at < start + needle_header_length(flips->places[i].length, 0) + flips->places[i].length)
            return i;
    }
    return -1;
}

static uint64_t scrubbed_damage(engine_store *store)
{
    engine_scrub told;
    engine_error error;
    CHECK(engine_scrub_start(store, &error) == ENGINE_OK);
    do
        CHECK(engine_scrub_step(store, 1 << 20, 0, &told, &error) == ENGINE_OK);
    while (told.active);
    return told.damaged;
}

/* A whole chunk is compared with the index's CRC: a damaged header is the scrub's to find. */
static bool harm_is_seen(const struct flips *flips, engine_store *store, uint64_t fid)
{
    int status = contents_get(flips->contents, store, fid);
    if (status == ENGINE_OK)
        return scrubbed_damage(store) == 1;
    return status == ENGINE_CORRUPT || status == ENGINE_NOT_FOUND;
}

/* owner: the chunk that must be harmed, or -1. may_return: the deleted one may be back. */
static void check_one(const struct flips *flips, const struct sim_disk *good, const char *name, uint64_t bit, int owner,
                      bool may_return, bool must_report)
{
    engine_stats stats;
    engine_error error;
    struct sim_disk *disk = sim_disk_copy(good);
    sim_disk_flip(disk, name, bit);
    engine_store *store = open_store(flips, disk);
    for (int i = 0; i < CHUNKS_KEPT; i++) {
        bool right = i == owner ? harm_is_seen(flips, store, kept[i])
                                : contents_get(flips->contents, store, kept[i]) == ENGINE_OK;
        if (!right)
            fprintf(stderr, "%s, bit %u: fid %u is wrong\n", name, (unsigned)bit, (unsigned)kept[i]);
        CHECK(right);
    }
    CHECK(may_return || contents_get(flips->contents, store, DELETED) == ENGINE_NOT_FOUND);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.live_bytes + stats.dead_bytes + stats.pad_bytes + stats.volume_free_bytes == stats.volume_bytes);
    CHECK(!must_report || stats.damaged_records > 0);
    CHECK(contents_put(flips->contents, store, FIDS + 1) == ENGINE_OK);
    CHECK(contents_get(flips->contents, store, FIDS + 1) == ENGINE_OK);
    engine_free(store);
    sim_disk_free(disk);
}

static uint64_t flip_range(struct flips *flips, const struct sim_disk *good, const char *name, uint64_t start, uint64_t end,
                           uint64_t stride, bool may_return, bool must_report)
{
    uint64_t count = 0;
    for (uint64_t bit = 8 * start; bit < 8 * end; bit += stride, count++) {
        int owner = strcmp(name, "v00000001.dat") == 0 ? owner_of(flips, bit / 8) : -1;
        (void)snprintf(flips->label, flips->label_bytes, "flips (%s, bit %u)", name, (unsigned)bit);
        check_one(flips, good, name, bit, owner, may_return, must_report);
    }
    return count;
}

/* Two blocks that are alike and mostly zeros. */
static uint64_t flip_copies(struct flips *flips, const struct sim_disk *good, const char *name, uint64_t stride)
{
    uint64_t count = 0;
    for (uint64_t copy = 0; copy < 2 * BLOCK_BYTES; copy += BLOCK_BYTES) {
        count += flip_range(flips, good, name, copy, copy + FILLER_FROM, 1, false, false);
        count += flip_range(flips, good, name, copy + FILLER_FROM, copy + BLOCK_BYTES - 4, stride, false, false);
        count += flip_range(flips, good, name, copy + BLOCK_BYTES - 4, copy + BLOCK_BYTES, 1, false, false);
    }
    return count;
}

/* Every record of a log is at the start of a block and is length bytes long. */
static uint64_t flip_log(struct flips *flips, struct sim_disk *good, const char *name, uint64_t length, bool may_return)
{
    uint64_t size = 0;
    uint64_t count = 0;
    uint8_t block[BLOCK_BYTES];
    CHECK(sim_disk_read(good, name, 0, block, 0, &size));
    for (uint64_t at = 0; at < size; at += BLOCK_BYTES) {
        CHECK(sim_disk_read(good, name, at, block, sizeof block, &size));
        if (!all_zero(block, sizeof block))
            count += flip_range(flips, good, name, at, at + length, 1, may_return, true);
    }
    return count;
}

uint64_t flips_check(const struct contents *contents, uint64_t stride, char *label, size_t label_bytes)
{
    static const char volume[] = "v00000001.dat";
    struct flips flips = {.contents = contents, .options = options_of(), .label = label, .label_bytes = label_bytes};
    struct sim_disk *good = make_store(&flips);
    struct sim_disk *bare = sim_disk_copy(good);
    const engine_chunk *last = &flips.places[CHUNKS_KEPT - 1];
    uint64_t end = last->offset + needle_footprint(last->length, needle_header_length(last->length, 0)) + 64;
    uint64_t size = 0;
    uint64_t count = 0;
    sim_disk_remove(bare, "v00000001.ckp");
    sim_disk_remove(bare, "v00000001.ckp.old");
    count += flip_copies(&flips, good, volume, stride);
    count += flip_copies(&flips, good, "DISK", stride);
    count += flip_log(&flips, good, "MANIFEST", 256, false);
    /* While the checkpoint is whole it knows of the delete too. */
    count += flip_log(&flips, good, "v00000001.del", 64, false);
    count += flip_log(&flips, bare, "v00000001.del", 64, true);
    CHECK(sim_disk_read(good, "v00000001.ckp", 0, NULL, 0, &size));
    count += flip_range(&flips, good, "v00000001.ckp", 0, size, 1, false, false);
    for (int i = 0; i < CHUNKS_KEPT; i++) {
        uint64_t start = flips.places[i].offset;
        uint64_t behind = start + needle_footprint(flips.places[i].length, needle_header_length(flips.places[i].length, 0));
        /* The large one is like the others behind its header. */
        uint64_t step = flips.places[i].length > 1000 ? stride : 1;
        count += flip_range(&flips, good, volume, start, start + 128, 1, false, false);
        count += flip_range(&flips, good, volume, start + 128, behind, step, false, false);
        count += flip_range(&flips, bare, volume, start, start + 128, 1, false, false);
        count += flip_range(&flips, bare, volume, start + 128, behind, step, false, false);
    }
    count += flip_range(&flips, bare, volume, end - 64, end, 1, false, false);
    sim_disk_free(bare);
    sim_disk_free(good);
    return count;
}
