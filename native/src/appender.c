/*
 * The appenders: the only writers of volumes, a thread and an active volume each.
 *
 * An appender takes what is queued (at most 16 MiB or 64 needles, without waiting for more), writes it with one pwritev from the
 * callers' memory, syncs once, publishes in the index and wakes the callers. While it syncs, the next batch gathers.
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

static void finish(struct put *put, int status, const engine_error *reason)
{
    put->status = status;
    put->state = PUT_DONE;
    if (status != ENGINE_OK)
        *put->error = *reason;
    pthread_cond_signal(&put->done);
}

/* appender.lock is held. Joined puts got the same bytes and get the same answer. */
static void finish_with_joined(struct put *put, int status, const engine_error *reason)
{
    struct put *joined = put->joined;
    while (joined != NULL) {
        struct put *next = joined->joined;
        finish(joined, status, reason);
        joined = next;
    }
    finish(put, status, reason);
}

/* appender.lock is held. Takes the next batch off the queue. */
static struct put *take_batch(struct appender *appender)
{
    struct put *first = appender->first;
    struct put *last = NULL;
    uint64_t bytes = 0;
    for (unsigned needles = 0; appender->first != NULL && needles < BATCH_NEEDLES_MAX; needles++) {
        struct put *put = appender->first;
        if (last != NULL && bytes + put->footprint > BATCH_BYTES_MAX)
            break;
        bytes += put->footprint;
        put->state = PUT_WRITING;
        appender->first = put->next;
        last = put;
    }
    if (appender->first == NULL)
        appender->last = NULL;
    if (last != NULL)
        last->next = NULL;
    appender->writing = first;
    return first;
}

/* Lays the needles from batch up to end out behind each other from start; returns how many are large. */
static unsigned lay_out(const struct volume *volume, struct put *batch, const struct put *end, uint64_t start,
                        uint64_t seq, uint64_t synced_seq)
{
    unsigned large = 0;
    uint64_t at = start;
    for (struct put *put = batch; put != end; put = put->next) {
        needle_place(put->header, volume->uuid, at, seq++, synced_seq);
        put->file = volume->file;
        put->at = at;
        at += put->footprint;
        if (put->length >= OWN_WRITE_BYTES_MIN)
            large++;
    }
    return large;
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

/* In the put's own thread; appender.lock is held, but not while writing. */
static void write_own(struct appender *appender, struct put *put)
{
    pthread_mutex_unlock(&appender->lock);
    struct iovec parts[PARTS_PER_NEEDLE];
    int failed = io_writev(appender->store->io, put->file, parts, parts_of(put, parts), put->at) == 0 ? 0 : errno;
    pthread_mutex_lock(&appender->lock);
    put->state = PUT_WRITING;
    if (failed != 0 && appender->handed_errno == 0)
        appender->handed_errno = failed;
    if (--appender->handed == 0)
        pthread_cond_signal(&appender->written);
}

/* Hands the large needles to their threads, writes the others and waits until all are written; 0, or -1 and errno. */
static int write_together(struct appender *appender, struct put *batch, const struct put *end)
{
    int failed = 0;
    pthread_mutex_lock(&appender->lock);
    appender->handed_errno = 0;
    for (struct put *put = batch; put != end; put = put->next)
        if (put->length >= OWN_WRITE_BYTES_MIN) {
            put->state = PUT_HANDED;
            appender->handed++;
            pthread_cond_signal(&put->done);
        }
    pthread_mutex_unlock(&appender->lock);
    const struct put *first = batch;
    while (first != end) {
        const struct put *large = first;
        while (large != end && large->length < OWN_WRITE_BYTES_MIN)
            large = large->next;
        if (failed == 0 && write_run(appender->store->io, first, large) != 0)
            failed = errno;
        first = large == end ? end : large->next;
    }
    /* Takes as long as any write: the threads are awake and do nothing else. Their memory is in use until then. */
    pthread_mutex_lock(&appender->lock);
    while (appender->handed > 0)
        pthread_cond_wait(&appender->written, &appender->lock);
    if (failed == 0)
        failed = appender->handed_errno;
    pthread_mutex_unlock(&appender->lock);
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
    volume->pad_bytes += start - volume->tail;
    volume->tail = start + bytes;
    volume->next_seq += needles;
    if (store->options.sync)
        volume->synced_seq = volume->next_seq - 1;
    pthread_mutex_unlock(&volume->lock);
}

/* Everything from batch up to end (NULL: all). The list itself stays whole: others look for their fid in it. */
static int write_batch(struct appender *appender, struct put *batch, const struct put *end, engine_error *error)
{
    engine_store *store = appender->store;
    const struct engine_io *io = store->io;
    uint64_t bytes = 0;
    unsigned needles = 0;
    for (const struct put *put = batch; put != end; put = put->next) {
        bytes += put->footprint;
        needles++;
    }
    struct volume *volume = NULL;
    int status = volumes_activate(appender, bytes, &volume, error);
    if (status != ENGINE_OK)
        return status;
    /* Only this thread changes tail, seq and synced_seq of the active volume while sync is on; without sync, a
     * checkpoint raises synced_seq. */
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    uint64_t seq = volume->next_seq;
    uint64_t synced_seq = volume->synced_seq;
    pthread_mutex_unlock(&volume->lock);
    status = volumes_allocate(store, volume, start + bytes, error);
    if (status != ENGINE_OK)
        return status;
    unsigned large = lay_out(volume, batch, end, start, seq, synced_seq);
    if ((large > 1 ? write_together(appender, batch, end) : write_run(io, batch, end)) != 0) {
        status = failure_os(error, errno, "volume %u: write failed", (unsigned)volume->id);
        /* Fail-stop also without space: behind the tail now stand bytes that no later batch may overwrite halfway. */
        volumes_fail(store, volume);
        return status;
    }
    if (store->options.sync) {
        atomic_fetch_add(&store->counters.syncs, 1);
        if (io->fdatasync(io->context, volume->file) != 0) {
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

static void complete(struct appender *appender, struct put *batch, int status, bool each, const engine_error *reason)
{
    pthread_mutex_lock(&appender->lock);
    appender->writing = NULL;
    while (batch != NULL) {
        struct put *next = batch->next; /* before its owner wakes up and takes its stack away */
        int own_status = each ? batch->status : status;
        engine_error own_reason = each ? *batch->error : *reason;
        atomic_fetch_sub(&appender->store->queued_bytes, batch->footprint);
        if (own_status != ENGINE_OK)
            chunk_index_unreserve(appender->store->index, batch->fid); /* a published one has used its reservation */
        finish_with_joined(batch, own_status, &own_reason);
        batch = next;
    }
    pthread_mutex_unlock(&appender->lock);
}

static void *run(void *argument)
{
    struct appender *appender = argument;
    engine_store *store = appender->store;
    for (;;) {
        pthread_mutex_lock(&appender->lock);
        while (appender->first == NULL && !appender->stopping)
            pthread_cond_wait(&appender->filled, &appender->lock);
        struct put *batch = take_batch(appender);
        pthread_mutex_unlock(&appender->lock);
        if (batch == NULL)
            return NULL; /* stopping, and nothing is left */
        engine_error reason;
        (void)no_failure(&reason);
        int status = write_batch(appender, batch, NULL, &reason);
        bool each = status == ENGINE_DISK_FULL && batch->next != NULL;
        if (each)
            write_one_by_one(appender, batch);
        atomic_store(&store->full, status == ENGINE_DISK_FULL);
        complete(appender, batch, status, each, &reason);
        if (volumes_need_care(store))
            keeper_wake(store);
    }
}

/* appender.lock is held. The put of this fid that is queued or being written, or NULL. */
static struct put *find_in_flight(struct appender *appender, uint64_t fid)
{
    for (struct put *put = appender->writing; put != NULL; put = put->next)
        if (put->fid == fid)
            return put;
    for (struct put *put = appender->first; put != NULL; put = put->next)
        if (put->fid == fid)
            return put;
    return NULL;
}

/* appender.lock is held. */
static void unlink_queued(struct appender *appender, struct put *put)
{
    struct put **at = &appender->first;
    appender->last = NULL;
    while (*at != NULL) {
        if (*at == put) {
            *at = put->next;
            continue;
        }
        appender->last = *at;
        at = &(*at)->next;
    }
    atomic_fetch_sub(&appender->store->queued_bytes, put->footprint);
}

/* appender.lock is held. Once its batch is being written a put cannot be taken back: the kernel reads its memory. */
static void wait_until_done(struct appender *appender, struct put *put)
{
    struct timespec deadline = clock_timespec(clock_deadline(appender->store->options.queue_timeout_s));
    bool timed = true;
    while (put->state != PUT_DONE) {
        if (put->state == PUT_HANDED) {
            write_own(appender, put);
        } else if (!timed) {
            pthread_cond_wait(&put->done, &appender->lock);
        } else if (pthread_cond_timedwait(&put->done, &appender->lock, &deadline) == ETIMEDOUT) {
            timed = false;
            if (put->state == PUT_QUEUED && find_in_flight(appender, put->fid) == put) {
                engine_error reason;
                (void)failure(&reason, ENGINE_BUSY, 0, "waited too long for its turn");
                unlink_queued(appender, put);
                chunk_index_unreserve(appender->store->index, put->fid);
                finish_with_joined(put, ENGINE_BUSY, &reason);
            }
        }
    }
}

/* appender.lock is held. Decides without waiting whether put can be queued. */
static int admit(struct appender *appender, struct put *put, bool replace)
{
    engine_store *store = appender->store;
    struct chunk_place place;
    struct put *ahead = find_in_flight(appender, put->fid);
    if (ahead != NULL) {
        if (ahead->length != put->length || ahead->crc32c != put->crc32c)
            return failure(put->error, ENGINE_EXISTS, 0, "other bytes are being stored under this fid");
        put->joined = ahead->joined;
        ahead->joined = put;
        return ENGINE_OK;
    }
    /* Asked with the queue locked: what leaves the batch under way is in the index before. */
    if (!replace && chunk_index_get(store->index, put->fid, &place, NULL, NULL))
        return ENGINE_EXISTS;
    if (appender->stopping)
        return failure(put->error, ENGINE_CLOSED, 0, "the store is closed");
    if (atomic_load(&store->failed))
        return failure(put->error, ENGINE_FAILED, 0, "the store has failed");
    uint64_t queued_bytes = atomic_load(&store->queued_bytes);
    if (queued_bytes > 0 && queued_bytes + put->footprint > store->options.queue_bytes_max)
        return failure(put->error, ENGINE_BUSY, 0, "too many bytes wait to be written");
    if (!chunk_index_reserve(store->index, put->fid))
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no memory for the index");
    put->next = NULL;
    if (appender->last != NULL)
        appender->last->next = put;
    else
        appender->first = put;
    appender->last = put;
    atomic_fetch_add(&store->queued_bytes, put->footprint);
    pthread_cond_signal(&appender->filled);
    return ENGINE_OK;
}

int appender_put(engine_store *store, struct put *put, bool replace)
{
    struct appender *appender = &store->appenders[put->fid % store->appender_count];
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no condition variable");
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&put->done, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (failed != 0)
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no condition variable");
    put->state = PUT_QUEUED;
    pthread_mutex_lock(&appender->lock);
    int status = admit(appender, put, replace);
    if (status == ENGINE_OK) {
        wait_until_done(appender, put);
        status = put->status;
    }
    pthread_mutex_unlock(&appender->lock);
    (void)pthread_cond_destroy(&put->done);
    return status;
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
    for (unsigned i = 0; i < store->appender_count; i++) {
        struct appender *appender = &store->appenders[i];
        if (!appender->started)
            continue;
        pthread_mutex_lock(&appender->lock);
        appender->stopping = true;
        pthread_cond_signal(&appender->filled);
        pthread_mutex_unlock(&appender->lock);
        pthread_join(appender->thread, NULL);
        appender->started = false;
    }
}
