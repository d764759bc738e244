/* What waits to be written: puts, from their callers to an appender and back. Internal. */
#ifndef SPEEDY_QUEUE_H
#define SPEEDY_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"

#define BATCH_BYTES_MAX ((uint64_t)16 << 20)
/* From this payload on a put's own thread writes it, beside the others of its batch: copying into the page cache, and
 * finding pages for it, takes longer than the disk does. */
#define OWN_WRITE_BYTES_MIN ((uint32_t)1 << 20)
#define BATCH_NEEDLES_MAX 64
/* So many waiting bytes are worth a sync of their own where syncs are short: such a disk takes several at once. */
#define OWN_SYNC_BYTES_MIN ((uint64_t)96 << 10)
#define SYNC_SHORT_NS 3000000u

struct appender;

/* PUT_HANDED: the put's own thread is to write it, at `file` and `at`. */
enum put_state { PUT_QUEUED, PUT_WRITING, PUT_HANDED, PUT_DONE };

/* One engine_put; lives on its caller's stack until done. */
struct put {
    struct put *next;
    struct put *joined; /* puts of the same fid and bytes that wait for this one */
    const void *payload;
    uint8_t *header; /* complete but for place and CRC; owned by the caller */
    uint64_t fid;
    uint64_t footprint;
    uint32_t header_length;
    uint32_t length;
    uint32_t crc32c;
    uint32_t created_s;
    enum put_state state;
    struct appender *appender; /* whose batch it belongs to, once handed */
    uint64_t deadline_ns; /* of its turn, monotonic */
    int file; /* where its needle goes, known once it is being written */
    uint64_t at;
    int status;
    bool in_group;  /* its thread waits for others too, and so cannot write it */
    bool leads;     /* its thread works in an appender's place; guarded by queue.lock */
    bool own_write; /* its thread is to write it, if that pays; known once it is being written */
    bool replaced; /* the fid was there before, at: */
    struct chunk_place before;
    engine_error *error;
    pthread_cond_t done;
};

/* What waits for the appenders, which all take from here: so a fid is never in flight twice. */
struct put_queue {
    pthread_mutex_t lock; /* guards what follows, the state of every put and what the appenders do */
    struct put *first;
    struct put *last;
    uint64_t waiting_bytes; /* from first to last */
    bool stopping;
    /* What the sync of a small batch takes, of late. Not guarded: a value that is lost is the next one's. */
    atomic_uint_fast64_t sync_ns;
};

/* Queues put and waits until it is durable or has failed. Returns its status; EXISTS without an error's code for a fid that
 * the index has, unless it is to be replaced. */
int queue_put(engine_store *store, struct put *put, bool replace);
/* The two halves of queue_put. What was submitted with OK must be waited for before put goes away. */
int queue_submit(engine_store *store, struct put *put, bool replace);
int queue_wait(engine_store *store, struct put *put);
/* The next batch for this appender, which waits for one; NULL when the store is closed and nothing is left. */
struct put *queue_take(struct appender *appender);
/* Answers a batch: each its own status, or all the same. */
void queue_complete(struct appender *appender, struct put *batch, int status, bool each, const engine_error *reason);

#endif
