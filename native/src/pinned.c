/* Pinning: what is found in the index stays on the disk until whoever found it has read it. */
#include "pinned.h"

#include "store.h"

/* The index still holds the entry: what it names cannot be punched before the volume is pinned. */
static void pin(void *argument, const struct chunk_place *place)
{
    struct pinned *pinned = argument;
    pinned->volume = volumes_get(pinned->store, place->slot);
    volume_pin(pinned->volume, &pinned->epoch);
}

bool pinned_find(engine_store *store, uint64_t fid, struct chunk_place *place, struct pinned *pinned)
{
    pinned->store = store;
    return chunk_index_get(store->index, fid, place, pin, pinned);
}

void pinned_release(struct pinned *pinned)
{
    if (volume_unpin(pinned->volume, pinned->epoch))
        keeper_wake(pinned->store);
}
