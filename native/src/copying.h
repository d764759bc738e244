/* Copying live needles out of volumes into one new volume that nobody else knows yet. */
#ifndef SPEEDY_COPYING_H
#define SPEEDY_COPYING_H

#include "store.h"

/* A needle on its way: its place before, and where its copy begins in the new volume. */
struct move {
    struct chunk_place from;
    uint64_t to; /* 0: not copied */
};

struct copying {
    engine_store *store;
    struct volume *target; /* prepared; its size suffices for all needles */
    uint64_t next_seq;     /* of the next copy */
    uint64_t tail;         /* where it goes */
    uint64_t flushed_bytes; /* of payload and headers, written */

    uint8_t *out;      /* owned; what is not written yet */
    uint64_t out_base; /* where it goes: a multiple of BLOCK_BYTES */
    size_t out_used;

    uint8_t *in; /* owned; a piece of the source */
    const struct volume *in_volume;
    uint64_t in_base;
    size_t in_length;

    /* Called after bytes have been written; false ends the copying. */
    bool (*go_on)(void *argument, uint64_t bytes);
    void *argument;
    bool stopped;
};

/* NO_MEMORY. End with copying_free. */
int copying_begin(struct copying *copying, engine_store *store, struct volume *target, engine_error *error);
/*
 * Copies what is still live of moves[0, count), which are needles of source, ascending by offset. A copy differs from its
 * needle in volume uuid, offset, seq and header CRC only, and every block was compared with its CRC on the way.
 * The caller has pinned source since before it found the needles in the index.
 * CORRUPT: a needle is damaged, *damaged says which; nothing of this source is in the new volume then, and another
 * source may follow. CLOSED: go_on said so. Others: the new volume is of no use.
 */
int copying_volume(struct copying *copying, struct volume *source, struct move *moves, size_t count,
                   struct chunk_place *damaged, engine_error *error);
/* Writes the rest and makes everything durable. */
int copying_end(struct copying *copying, engine_error *error);
void copying_free(struct copying *copying);

#endif
