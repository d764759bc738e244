/*
 * The store: what the files of this folder have in common; the header of each says what it does for the others. Internal;
 * engine.h is the public face.
 *
 * Order of locks, outermost first: scrub.work or verifying.work, compactor.work, keeper.work, volumes_create, queue.lock,
 * deletes.lock, scrub.lock | volume.sync_lock, index shard, volumes_lock, volume.delete_lock, volume.space_lock,
 * volume.lock, counters.lock, compactor.lock. No index or volume lock is held during I/O; sync_lock, delete_lock,
 * space_lock, volumes_create, keeper.work, compactor.work, scrub.work and verifying.work are. Whoever holds deletes back
 * (deletes_hold) is as if between keeper.work and volumes_create.
 */
#ifndef SPEEDY_STORE_H
#define SPEEDY_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "active.h"
#include "appender.h"
#include "chunk_index.h"
#include "compactor.h"
#include "delete_log.h"
#include "deletes.h"
#include "engine.h"
#include "identity.h"
#include "io.h"
#include "io_read_only.h"
#include "keeper.h"
#include "listing.h"
#include "manifest.h"
#include "needle.h"
#include "queue.h"
#include "scrub.h"
#include "volume.h"
#include "volumes.h"

#define VOLUME_FAILURES_MAX 3 /* volumes that may fail in one process before the disk is given up */
#define SCRATCH_KEPT_MAX 8

struct scratch {
    struct scratch *next;
};

struct counters {
    atomic_uint_fast64_t appends, batches, syncs, deletes, reads, corrupt_reads, checkpoints, checkpoint_failures;
    atomic_uint_fast64_t compactions, compaction_failures, compacted_bytes, given_back_bytes;
};

struct engine_store {
    const struct engine_io *io; /* of read_only, if options.read_only */
    struct io_read_only read_only;
    engine_options options;
    struct identity identity;
    int directory;
    int lock_file;
    struct manifest manifest;
    struct chunk_index *index;

    pthread_mutex_t volumes_create; /* one volume at a time */
    pthread_mutex_t volumes_lock;   /* guards additions to the table, next_id, the active volumes and who has claimed one */
    pthread_cond_t volume_released;
    struct volume *active[APPENDERS_MAX]; /* at most one for each appender */
    unsigned active_count;
    struct volume **volumes[VOLUME_BLOCKS]; /* owned; entries never move or go while the store is open */
    atomic_uint_fast32_t volume_count;
    uint32_t next_id;

    struct put_queue queue;
    struct appender appenders[APPENDERS_MAX];
    unsigned appender_count;
    atomic_uint_fast64_t queued_bytes; /* waiting or being written, over all appenders */
    struct delete_queue deletes;
    struct keeper keeper;
    struct compactor compactor;
    struct listing listing;
    struct scrub scrub;
    struct verifying verifying;
    struct counters counters;

    pthread_mutex_t scratch_lock;
    struct scratch *scratch;
    unsigned scratch_kept;

    atomic_uint_fast64_t calls; /* in progress: may end once the store is closing, while new ones are refused */
    atomic_bool closing;
    pthread_mutex_t calls_lock; /* guards closed; held to wait for calls_ended and to tell of it */
    pthread_cond_t calls_ended;
    bool closed;

    atomic_uint_fast64_t step_bytes; /* space_step, as last seen */
    atomic_bool failed;           /* no volume can be made any more */
    atomic_uint_fast64_t refused_bytes; /* what the last batch asked for, when there was no space for it; else 0 */
    atomic_uint volumes_failed_now; /* in this process */
    atomic_uint_fast64_t replaced_fid_max; /* of volumes that were removed */
    uint32_t unknown_files;
    uint32_t damaged_records;
    struct volume **unreadable; /* unreadable.c; fixed once the store is open */
    uint32_t unreadable_count;
};

/* As engine_open, on a table of the caller's, who keeps it alive until engine_free. */
int store_open_on(const struct engine_io *io, const char *directory, const engine_options *options,
                  engine_store **store, engine_error *error);

/* Around every public call, so that closing waits for it. CLOSED when it comes too late. */
int store_enter(engine_store *store, engine_error *error);
/* Calls that take long end early. */
bool store_is_closing(engine_store *store);
/* As store_enter, for calls that change something: INVALID when the store is open for reading only. */
int store_enter_to_write(engine_store *store, engine_error *error);
/* Returns status. Only after an OK of either. */
int store_leave(engine_store *store, int status);

/* What engine.h tells of a chunk. */
void store_describe(engine_store *store, const struct chunk_place *place, engine_chunk *chunk);

#endif
