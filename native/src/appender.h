/* Writing batches of puts: one write, one sync, then the index. Internal. */
#ifndef SPEEDY_APPENDER_H
#define SPEEDY_APPENDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "queue.h"

#define APPENDERS_MAX 8

/* One of those who write: a thread, or in its place a caller. For each batch it claims an active volume, so that
 * volumes stay without gaps. Several appenders keep a disk busy while one waits for a sync, and copy at once where a file
 * system lets only one thread write to a file. */
struct appender {
    engine_store *store;
    pthread_t thread;
    bool started;
    pthread_cond_t filled;
    /* The rest is guarded by store.queue.lock. */
    bool idle;           /* waits for filled, and nobody works in its place */
    bool led;            /* a caller works in its place */
    bool woken;          /* has been told of work and not looked yet */
    struct put *writing; /* the batch under way */
    uint64_t writing_bytes;
    pthread_cond_t written; /* handed has become 0 */
    unsigned handed;        /* puts of the batch under way that their own threads still write */
    int handed_errno;       /* what the first of them that failed met, or 0 */
};

int appender_start(engine_store *store, engine_error *error);
void appender_stop(engine_store *store);
/* Writes a batch that was taken for this appender and answers it. */
void appender_write(struct appender *appender, struct put *batch);
/* Writes a put that was handed to its own thread. queue.lock is held, but not while writing. */
void appender_write_own(engine_store *store, struct put *put);

#endif
