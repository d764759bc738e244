/*
 * The appenders: the only writers of volumes, a thread each, in whose place a caller may work for one batch.
 *
 * An appender takes a batch off the queue, claims a volume, writes with one pwritev from the callers' memory, syncs once,
 * publishes in the index and wakes the callers. While it syncs, the next batch gathers.
 *
 * Several large needles in a batch are written by the threads that wait for them, each its own at its place, all at
 * once: one thread copying into the page cache is slower than the disk. The sync comes when all have written, and a
 * failure of one is the failure of the batch, so that on disk nothing differs from a batch that was cut by a crash.
 */
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "failure.h"
#include "store.h"

/* header, payload, padding per needle */
#define PARTS_PER_NEEDLE 3

static const uint8_t padding[NEEDLE_ALIGNMENT] = {0};

/* Lays the needles from batch up to end out behind each other from start; true when writing them together pays. */
static bool lay_out(const struct volume *volume, struct put *batch, const struct put *end, uint64_t start,
                    uint64_t seq, uint64_t synced_seq)
{
    unsigned handed = 0;
    uint64_t rest_bytes = 0;
    uint64_t at = start;
    for (struct put *put = batch; put != end; put = put->next) {
        needle_place(put->header, volume->uuid, at, seq++, synced_seq);
        put->file = volume->file;
        put->at = at;
        at += put->footprint;
        if (put->own_write)
            handed++;
        else
            rest_bytes += put->footprint;
    }
    return handed > 1 || (handed == 1 && rest_bytes >= OWN_WRITE_BYTES_MIN);
}

/* The parts of one needle; returns their number. */
static int parts_of(const struct put *put, struct iovec *parts)
{
    int count = 0;
    parts[count].iov_base = put->header;
    parts[count++].iov_len = put->header_length;
    if (put->length > 0) {
        parts[count].iov_base = (void *)(uintptr_t)put->payload;
        parts[count++].iov_len = put->length;
    }
    size_t rest = (size_t)(put->footprint - put->header_length - put->length);
    if (rest > 0) {
        parts[count].iov_base = (void *)(uintptr_t)padding;
        parts[count++].iov_len = rest;
    }
    return count;
}

/* Writes the needles from first up to end, which lie behind each other. */
static int write_run(const struct engine_io *io, const struct put *first, const struct put *end)
{
    struct iovec parts[BATCH_NEEDLES_MAX * PARTS_PER_NEEDLE];
    int count = 0;
    for (const struct put *put = first; put != end; put = put->next)
        count += parts_of(put, parts + count);
    return count == 0 ? 0 : io_writev(io, first->file, parts, count, first->at);
}

void appender_write_own(engine_store *store, struct put *put)
{
    struct appender *appender = put->appender;
    pthread_mutex_unlock(&store->queue.lock);
    struct iovec parts[PARTS_PER_NEEDLE];
    int failed = io_writev(store->io, put->file, parts, parts_of(put, parts), put->at) == 0 ? 0 : errno;
    pthread_mutex_lock(&store->queue.lock);
    put->state = PUT_WRITING;
    if (failed != 0 && appender->handed_errno == 0)
        appender->handed_errno = failed;
    if (--appender->handed == 0)
        pthread_cond_signal(&appender->written);
}

/* Hands the large needles to their threads, writes the others and waits until all are written; 0, or -1 and errno. */
static int write_together(struct appender *appender, struct put *batch, const struct put *end)
{
    pthread_mutex_t *lock = &appender->store->queue.lock;
    int failed = 0;
    pthread_mutex_lock(lock);
    appender->handed_errno = 0;
    for (struct put *put = batch; put != end; put = put->next)
        if (put->own_write) {
            put->state = PUT_HANDED;
            put->appender = appender;
            appender->handed++;
            pthread_cond_signal(&put->done);
        }
    pthread_mutex_unlock(lock);
    const struct put *first = batch;
    while (first != end) {
        const struct put *large = first;
        while (large != end && !large->own_write)
            large = large->next;
        if (failed == 0 && write_run(appender->store->io, first, large) != 0)
            failed = errno;
        first = large == end ? end : large->next;
    }
    /* Takes as long as any write: the threads are awake and do nothing else. Their memory is in use until then. */
    pthread_mutex_lock(lock);
    while (appender->handed > 0)
        pthread_cond_wait(&appender->written, lock);
    if (failed == 0)
        failed = appender->handed_errno;
    pthread_mutex_unlock(lock);
    errno = failed;
    return failed == 0 ? 0 : -1;
}

static void publish(engine_store *store, struct volume *volume, struct put *batch, const struct put *end,
                    uint64_t start, uint64_t bytes, unsigned needles)
{
    uint64_t at = start;
    uint64_t payload_bytes = 0;
    uint64_t fid_max = 0;
    for (struct put *put = batch; put != end; put = put->next) {
        payload_bytes += put->length;
        fid_max = put->fid > fid_max ? put->fid : fid_max;
    }
    /* Accounting first: a delete may follow the moment a chunk is in the index. */
    pthread_mutex_lock(&volume->lock);
    volume->live_bytes += bytes;
    volume->payload_bytes += payload_bytes;
    volume->chunks += needles;
    if (fid_max > volume->fid_max)
        volume->fid_max = fid_max;
    volume->changed = true;
    pthread_mutex_unlock(&volume->lock);
    for (struct put *put = batch; put != end; put = put->next) {
        struct chunk_place place = {
            .fid = put->fid,
            .offset = at,
            .slot = volume->slot,
            .header_length = put->header_length,
            .length = put->length,
            .crc32c = put->crc32c,
            .created_s = put->created_s,
        };
        put->replaced = chunk_index_put(store->index, &place, &put->before);
        listing_note(store, put->fid);
        at += put->footprint;
    }
    /* Tail and seq last and together: a checkpoint takes every indexed chunk before the tail, so all of those must be in
     * the index, and recovery expects next_seq at exactly that tail. */
    pthread_mutex_lock(&volume->lock);
    volume->changed = true; /* once more: a checkpoint that came between has the old tail */
    volume->pad_bytes += start - volume->tail;
    volume->tail = start + bytes;
    volume->next_seq += needles;
    if (store->options.sync)
        volume->synced_seq = volume->next_seq - 1;
    pthread_mutex_unlock(&volume->lock);
}

/* Notes how long a small batch's sync takes: what large ones take says more of their bytes than of the disk. */
static int sync_batch(engine_store *store, const struct volume *volume, uint64_t bytes)
{
    uint64_t begin_ns = clock_monotonic_ns();
    if (store->io->fdatasync(store->io->context, volume->file) != 0)
        return -1;
    if (bytes < OWN_WRITE_BYTES_MIN) {
        uint64_t before_ns = atomic_load(&store->queue.sync_ns);
        atomic_store(&store->queue.sync_ns, before_ns - before_ns / 8 + (clock_monotonic_ns() - begin_ns) / 8);
    }
    return 0;
}

/* The volume is claimed and has space for all of the bytes. */
static int write_to(struct appender *appender, struct volume *volume, struct put *batch, const struct put *end,
                    uint64_t bytes, unsigned needles, engine_error *error)
{
    engine_store *store = appender->store;
    const struct engine_io *io = store->io;
    int status = ENGINE_OK;
    /* Only this thread changes tail, seq and synced_seq of the volume while sync is on; without sync, a checkpoint raises
     * synced_seq. */
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    uint64_t seq = volume->next_seq;
    uint64_t synced_seq = volume->synced_seq;
    pthread_mutex_unlock(&volume->lock);
    bool together = lay_out(volume, batch, end, start, seq, synced_seq);
    if ((together ? write_together(appender, batch, end) : write_run(io, batch, end)) != 0) {
        status = failure_os(error, errno, "volume %u: write failed", (unsigned)volume->id);
        /* Fail-stop also without space: behind the tail now stand bytes that no later batch may overwrite halfway. */
        volumes_fail(store, volume);
        return status;
    }
    if (store->options.sync) {
        atomic_fetch_add(&store->counters.syncs, 1);
        if (sync_batch(store, volume, bytes) != 0) {
            status = failure(error, ENGINE_FAILED, errno, "volume %u: sync failed", (unsigned)volume->id);
            volumes_fail(store, volume);
            return status;
        }
    }
    publish(store, volume, batch, end, start, bytes, needles);
    atomic_fetch_add(&store->counters.appends, needles);
    atomic_fetch_add(&store->counters.batches, 1);
    return ENGINE_OK;
}

/* Everything from batch up to end (NULL: all). The list itself stays whole: others look for their fid in it. */
static int write_batch(struct appender *appender, struct put *batch, const struct put *end, engine_error *error)
{
    engine_store *store = appender->store;
    struct volume *volume = NULL;
    uint64_t bytes = 0;
    unsigned needles = 0;
    for (const struct put *put = batch; put != end; put = put->next) {
        bytes += put->footprint;
        needles++;
    }
    int status = active_claim(store, bytes, needles, &volume, error);
    if (status == ENGINE_OK) {
        status = write_to(appender, volume, batch, end, bytes, needles, error);
        active_release(store, volume);
    }
    atomic_store(&store->refused_bytes, status == ENGINE_DISK_FULL ? bytes : 0);
    return status;
}

/* A full disk may still have room for the smaller ones of a batch. */
static void write_one_by_one(struct appender *appender, struct put *batch)
{
    for (struct put *put = batch; put != NULL; put = put->next) {
        engine_error reason;
        (void)no_failure(&reason);
        put->status = write_batch(appender, put, put->next, &reason);
        if (put->status != ENGINE_OK)
            *put->error = reason;
    }
}

void appender_write(struct appender *appender, struct put *batch)
{
    engine_store *store = appender->store;
    engine_error reason;
    (void)no_failure(&reason);
    int status = write_batch(appender, batch, NULL, &reason);
    bool each = status == ENGINE_DISK_FULL && batch->next != NULL;
    if (each)
        write_one_by_one(appender, batch);
    queue_complete(appender, batch, status, each, &reason);
    if (active_needs_care(store))
        keeper_wake(store);
}

static void *run(void *argument)
{
    struct appender *appender = argument;
    struct put *batch;
    while ((batch = queue_take(appender)) != NULL)
        appender_write(appender, batch);
    return NULL;
}

int appender_start(engine_store *store, engine_error *error)
{
    for (unsigned i = 0; i < store->appender_count; i++) {
        struct appender *appender = &store->appenders[i];
        int failed = pthread_create(&appender->thread, NULL, run, appender);
        if (failed != 0)
            return failure(error, ENGINE_FAILED, failed, "cannot start an appender");
        appender->started = true;
    }
    return ENGINE_OK;
}

void appender_stop(engine_store *store)
{
    pthread_mutex_lock(&store->queue.lock);
    store->queue.stopping = true;
    for (unsigned i = 0; i < store->appender_count; i++)
        pthread_cond_signal(&store->appenders[i].filled);
    pthread_mutex_unlock(&store->queue.lock);
    for (unsigned i = 0; i < store->appender_count; i++) {
        struct appender *appender = &store->appenders[i];
        if (!appender->started)
            continue;
        pthread_join(appender->thread, NULL);
        appender->started = false;
    }
}
