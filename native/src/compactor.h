/* When and for whom volumes are compacted; how is compaction.h. Internal. */
#ifndef SPEEDY_COMPACTOR_H
#define SPEEDY_COMPACTOR_H

#include <pthread.h>
#include <stdbool.h>

#include "engine.h"

struct compactor {
    pthread_mutex_t work; /* one compaction at a time */
    pthread_mutex_t lock; /* guards the flags below */
    pthread_cond_t wake;
    pthread_t thread;
    bool started;
    bool stopping;
    bool called;    /* engine_compact has come: the thread makes way */
    bool cancelled; /* the call shall end */
    bool broken;    /* guarded by work: whether the last compaction holds is open until the next open */
};

int compactor_start(engine_store *store, engine_error *error);
/* Tells the thread and engine_compact to end soon. */
void compactor_end(engine_store *store);
/* Also waits for the thread. */
void compactor_stop(engine_store *store);
int compactor_call(engine_store *store, const engine_compaction_terms *wanted, engine_compaction *report,
                   engine_error *error);
void compactor_cancel(engine_store *store);
/* False, at once, when the store is being closed. */
bool compactor_pause(engine_store *store, double seconds);

#endif
