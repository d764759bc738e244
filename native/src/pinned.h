/* Pinning: what is found in the index stays where it is until whoever found it has read it. Internal. */
#ifndef SPEEDY_PINNED_H
#define SPEEDY_PINNED_H

#include <stdbool.h>
#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"
#include "volume.h"

/* The volume of a chunk, held so that the needle stays where it is. */
struct pinned {
    engine_store *store;
    struct volume *volume;
    unsigned epoch;
};

/* Finds the chunk and pins its volume; false, with nothing pinned, when there is none. */
bool pinned_find(engine_store *store, uint64_t fid, struct chunk_place *place, struct pinned *pinned);
void pinned_release(struct pinned *pinned);

#endif
