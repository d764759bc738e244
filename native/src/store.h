/*
 * The store: what the files of this folder have in common. Internal; engine.h is the public face.
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

#include "chunk_index.h"
#include "delete_log.h"
#include "engine.h"
#include "identity.h"
#include "io.h"
#include "io_read_only.h"
#include "manifest.h"
#include "needle.h"
#include "scrub.h"
#include "volume.h"

#define BATCH_BYTES_MAX ((uint64_t)16 << 20)
/* From this payload on a put's own thread writes it, beside the others of its batch: copying into the page cache, and
 * finding pages for it, takes longer than the disk does. */
#define OWN_WRITE_BYTES_MIN ((uint32_t)1 << 20)
#define BATCH_NEEDLES_MAX 64
#define APPENDERS_MAX 8
#define VOLUME_FAILURES_MAX 3 /* volumes that may fail in one process before the disk is given up */
#define SCRATCH_KEPT_MAX 8
#define VOLUMES_PER_BLOCK 1024u /* the table of volumes grows by such pieces, which never move */
#define VOLUME_BLOCKS ((CHUNK_SLOT_MAX + 1) / VOLUMES_PER_BLOCK)
#define LISTING_WINDOW ENGINE_ITERATE_MAX

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
};

/* One of those who write: a thread, or in its place a caller. For each batch it claims an active volume, so that volumes stay without gaps. Several
 * appenders keep a disk busy while one waits for a sync, and copy at once where a file system lets only one thread write
 * to a file. */
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

/* What the file system says, and what of it the store may use. */
struct disk_space {
    uint64_t free_bytes;
    uint64_t total_bytes;
    uint64_t reserve_bytes;
    uint64_t usable_bytes; /* free above the reserve */
};

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

struct keeper {
    pthread_mutex_t work; /* one at a time: punching, sealing, checkpointing */
    pthread_mutex_t lock; /* guards the flags below */
    pthread_cond_t wake;
    pthread_t thread;
    bool started;
    bool stopping;
    bool wanted;
    bool resting; /* everything that was wanted is done */
};

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

struct listing {
    pthread_mutex_t build; /* one builder at a time; guards fids */
    pthread_mutex_t lock;  /* guards the three below */
    uint64_t low;          /* fids holds every fid in (low, high] */
    uint64_t high;
    bool valid;
    uint64_t *fids; /* owned */
    size_t count;
};

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

/* opening.c: everything between the lock and the threads. */
int opening_read(engine_store *store, engine_error *error);

/* volumes.c */
struct volume *volumes_get(engine_store *store, uint32_t slot);
uint32_t volumes_count(engine_store *store);
/* Gives the volume its slot; the table owns it from then on. */
int volumes_add(engine_store *store, struct volume *volume, engine_error *error);
void volumes_free(engine_store *store);
/* An empty prepared volume with room for the footprint, or NULL. */
struct volume *volumes_standby(engine_store *store, uint64_t footprint);
/* An id that no volume ever had, for one that will need a slot too. FAILED when there is none. */
int volumes_take_id(engine_store *store, uint32_t *id, engine_error *error);
/* Makes a volume with room for a needle of this footprint, in state standby. volumes_create is locked. */
int volumes_create(engine_store *store, uint64_t footprint, struct volume **volume, engine_error *error);
/* Makes every needle before next_seq durable. Only without options.sync is there anything to do. */
int volumes_sync(engine_store *store, struct volume *volume, uint64_t next_seq, engine_error *error);
/* Sets space aside for the delete records of all that is live in the volume. What the disk does not have now is asked
 * for again later. */
void volumes_provide(struct volume *volume);
/* The volume is written by nobody any more; whoever has claimed it still releases it. */
void volumes_fail(engine_store *store, struct volume *volume);

/* space.c */
/* 0, or -1 and errno. */
int space_read(engine_store *store, struct disk_space *space);
/* The size that a volume made now gets. */
uint64_t space_volume_size(engine_store *store, const struct disk_space *space);
/* How much is taken from the disk at once: VOLUME_ALLOCATION_STEP_MAX, or less on a disk that has little left. */
uint64_t space_step(const struct disk_space *space);
/* Takes space above the reserve for the volume up to end, and for the delete records of so many more needles. DISK_FULL with
 * nothing lost. */
int space_take(engine_store *store, struct volume *volume, uint64_t end, unsigned needles, engine_error *error);
/* DISK_FULL, with the numbers and the option that belong to it. */
int space_refuse(const struct disk_space *space, uint64_t wanted_bytes, engine_error *error);

/* active.c */
/* An active volume with room and space for the footprint, which only the caller writes until active_release. DISK_FULL
 * when neither the disk nor any active or prepared volume has the space. */
int active_claim(engine_store *store, uint64_t footprint, unsigned needles, struct volume **volume, engine_error *error);
void active_release(engine_store *store, struct volume *volume);
/* Closes it unless somebody writes to it; the keeper seals it. False when it goes on. */
bool active_close(engine_store *store, struct volume *volume);
/* Takes space for the active volumes before the appenders have to, and prepares the volume after them. */
void active_prepare(engine_store *store);
/* True when there is something to prepare. */
bool active_needs_care(engine_store *store);

/* appender.c */
int appender_start(engine_store *store, engine_error *error);
void appender_stop(engine_store *store);
/* Writes a batch that was taken for this appender and answers it. */
void appender_write(struct appender *appender, struct put *batch);
/* Writes a put that was handed to its own thread. queue.lock is held, but not while writing. */
void appender_write_own(engine_store *store, struct put *put);

/* queue.c */
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

/* pinned.c */
/* The volume of a chunk, held so that the needle stays where it is. */
struct pinned {
    engine_store *store;
    struct volume *volume;
    unsigned epoch;
};
/* Finds the chunk and pins its volume; false, with nothing pinned, when there is none. */
bool pinned_find(engine_store *store, uint64_t fid, struct chunk_place *place, struct pinned *pinned);
void pinned_release(struct pinned *pinned);

/* reader.c */
int reader_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, uint32_t *crc32c,
                engine_error *error);
/* Reads and verifies the whole chunk without keeping it. */
int reader_verify(engine_store *store, uint64_t fid, engine_error *error);
void reader_free_scratch(engine_store *store);

/* deletes.c */
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

/* unreadable.c */
/* Takes the volume, which has no place in the table; row may be NULL; newer: of a format that is to be left alone. */
int unreadable_keep(engine_store *store, struct volume *volume, const struct manifest_volume *row, bool newer,
                    engine_error *error);
/* Notes a volume of the table of which a part could not be read. */
int unreadable_note(engine_store *store, struct volume *volume, engine_error *error);
/* Those without a place in the table. */
uint32_t unreadable_count(const engine_store *store);
/* Before the table goes. */
void unreadable_free(engine_store *store);
/* Makes durable that these chunks are deleted in whichever volume cannot be read now. FAILED: it cannot be recorded. */
int unreadable_record(engine_store *store, const uint64_t *fids, size_t count, engine_error *error);

/* compactor.c */
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

/* keeper.c */
int keeper_start(engine_store *store, engine_error *error);
void keeper_stop(engine_store *store);
void keeper_wake(engine_store *store);
/* Punches and checkpoints every changed volume now. */
int keeper_checkpoint(engine_store *store, engine_error *error);

/* stats.c */
int stats_fill(engine_store *store, engine_stats *stats, engine_error *error);

/* inspect.c */
/* NULL when there is none. */
struct volume *inspect_find(engine_store *store, uint32_t id);
/* The live needles of a volume that begin at `from` or behind, ascending, at most limit of them; returns how many. */
size_t inspect_gather(engine_store *store, uint32_t slot, uint64_t from, struct chunk_place *places, size_t limit);

/* listing.c */
int listing_read(engine_store *store, uint64_t after_fid, engine_chunk *chunks, size_t limit, size_t *count,
                 engine_error *error);
void listing_note(engine_store *store, uint64_t fid);
void store_describe(engine_store *store, const struct chunk_place *place, engine_chunk *chunk);

#endif
