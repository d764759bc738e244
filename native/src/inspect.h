/* What is in a volume, told from memory. Internal. */
#ifndef SPEEDY_INSPECT_H
#define SPEEDY_INSPECT_H

#include <stddef.h>
#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"
#include "volume.h"

/* NULL when there is none. */
struct volume *inspect_find(engine_store *store, uint32_t id);
/* The live needles of a volume that begin at `from` or behind, ascending, at most limit of them; returns how many. */
size_t inspect_gather(engine_store *store, uint32_t slot, uint64_t from, struct chunk_place *places, size_t limit);

#endif
