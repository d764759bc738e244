/* Chunks in ascending order of their fids. Internal. */
#ifndef SPEEDY_LISTING_H
#define SPEEDY_LISTING_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"

#define LISTING_WINDOW ENGINE_ITERATE_MAX

struct listing {
    pthread_mutex_t build; /* one builder at a time; guards fids */
    pthread_mutex_t lock;  /* guards the three below */
    uint64_t low;          /* fids holds every fid in (low, high] */
    uint64_t high;
    bool valid;
    uint64_t *fids; /* owned */
    size_t count;
};

/* As engine_iterate: chunks above after_fid, ascending. What is put meanwhile may be missing. */
int listing_read(engine_store *store, uint64_t after_fid, engine_chunk *chunks, size_t limit, size_t *count,
                 engine_error *error);
/* After a put of this fid was published. */
void listing_note(engine_store *store, uint64_t fid);

#endif
