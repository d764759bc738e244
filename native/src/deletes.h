/* Deleting chunks: recorded together, durable before they are answered. Internal. */
#ifndef SPEEDY_DELETES_H
#define SPEEDY_DELETES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"

struct delete_request;

/* A chunk that is being written anew over a damaged copy. Lives on the stack of who does it. */
struct repair {
    struct repair *next;
    uint64_t fid;
};

struct delete_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct delete_request *first;
    bool led;     /* some caller is working for the others, or holds them back */
    unsigned holds; /* under way or wanted: nobody else begins to work */
    bool blocked; /* a superseded needle could not be recorded as dead: a delete might bring it back */
    struct repair *repairs; /* under way; few */
    /* Deletes that failed and may hold all the same after the next opening: such a chunk is not acknowledged again. */
    uint64_t *doubted; /* fids; owned */
    size_t doubted_count;
    bool all_doubted; /* there was no memory to keep them apart */
};

int deletes_remove(engine_store *store, uint64_t fid, int *removed, engine_error *error);
/* Records as dead a needle whose fid now lives elsewhere. */
int deletes_supersede(engine_store *store, const struct chunk_place *place, engine_error *error);
/* Around both: deletes of repair->fid wait meanwhile. */
void deletes_repair_begins(engine_store *store, struct repair *repair);
void deletes_repair_ends(engine_store *store, struct repair *repair);

/* Around a change of which volumes count: the deletes under way end first, and those that come meanwhile wait. */
void deletes_hold(engine_store *store);
void deletes_resume(engine_store *store);
/* True when a delete of this chunk failed and may turn out to have happened. */
bool deletes_doubt(engine_store *store, uint64_t fid);
/* From now on deletes are refused: one of them might not last. */
void deletes_block(engine_store *store);

#endif
