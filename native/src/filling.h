/* Filling the index while a store is opened: chunks, and the copies that lost to a later one. */
#ifndef SPEEDY_FILLING_H
#define SPEEDY_FILLING_H

#include "checkpoint.h"
#include "delete_log.h"
#include "store.h"

/* Chunks that were found twice: the copies that lost, to be recorded as dead. */
struct loser_list {
    struct chunk_place *places; /* owned */
    size_t count;
    size_t capacity;
};

/* One chunk of the volume that its slot names. Volumes are read in ascending order of id and needles of offset, so the
 * later copy of a fid, which was written to replace a damaged one, wins. NO_MEMORY. */
int filling_add(engine_store *store, const struct chunk_place *place, struct loser_list *losers, engine_error *error);

/* All chunks of a loaded checkpoint but the deleted ones, of which *any_deleted tells. NO_MEMORY. */
int filling_add_checkpoint(engine_store *store, struct volume *volume, const struct checkpoint *checkpoint,
                           const struct delete_set *deleted, struct loser_list *losers, bool *any_deleted,
                           engine_error *error);

/* A chunk more, or one less, in the books of its volume. */
void filling_book(engine_store *store, const struct chunk_place *place);
void filling_unbook(engine_store *store, const struct chunk_place *place);

#endif
