/*
 * One needle, or one superblock, verified on the disk. What is verified is live: a needle is looked up again, and its
 * volume pinned in the same moment, so that blocks that a delete returns, or a volume that compaction replaces, are never
 * mistaken for damage.
 */
#include "clock.h"
#include "pinned.h"
#include "scrub.h"
#include "store.h"

static bool is_same_place(const struct chunk_place *one, const struct chunk_place *other)
{
    return one->slot == other->slot && one->offset == other->offset;
}

enum scrub_verdict scrub_check_needle(engine_store *store, struct scrub_reading *reading,
                                      const struct chunk_place *places, size_t count, bool in_round,
                                      engine_damage *found)
{
    struct chunk_place now;
    struct pinned pinned;
    *found = (engine_damage){
        .fid = places[0].fid,
        .offset = places[0].offset,
        .volume = reading->volume->id,
        .length = places[0].length,
    };
    /* Alive now, so alive when any byte in the window was read; and what is read from here on is pinned. */
    if (!pinned_find(store, places[0].fid, &now, &pinned))
        return SCRUB_GONE;
    enum scrub_verdict verdict = SCRUB_GONE;
    if (is_same_place(&places[0], &now)) {
        bool good = scrub_reading_verify(reading, places, count, found->what);
        found->found_s = clock_unix_us() / 1000000u;
        if (good)
            verdict = SCRUB_GOOD;
        else if (chunk_index_get(store->index, places[0].fid, &now, NULL, NULL) && is_same_place(&places[0], &now))
            verdict = SCRUB_DAMAGED;
    }
    pinned_release(&pinned);
    if (verdict == SCRUB_GOOD)
        scrub_forget(&store->scrub, found->volume, found->offset);
    if (verdict == SCRUB_DAMAGED)
        scrub_remember(&store->scrub, found, in_round);
    return verdict;
}

enum scrub_verdict scrub_check_superblock(engine_store *store, struct scrub_reading *reading, unsigned copy,
                                          bool in_round, engine_damage *found)
{
    *found = (engine_damage){
        .volume = reading->volume->id,
        .offset = (uint64_t)copy * BLOCK_BYTES,
        .found_s = clock_unix_us() / 1000000u,
    };
    bool good = scrub_reading_superblock(reading, copy, found->what);
    if (good)
        scrub_forget(&store->scrub, found->volume, found->offset);
    if (good)
        return SCRUB_GOOD;
    if (!volume_is_there(reading->volume)) /* compaction has removed it meanwhile */
        return SCRUB_GONE;
    scrub_remember(&store->scrub, found, in_round);
    return SCRUB_DAMAGED;
}
