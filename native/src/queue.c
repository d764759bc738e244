/*
 * The queue of puts: who is let in, who waits for whom, and which appender takes what.
 *
 * A batch is at most 16 MiB or 64 needles, without waiting for more. Small needles wait for the appender that is writing
 * small ones, because one sync for all of them is faster than a sync for each. Only what is large, or a queue that is
 * worth a sync of its own, sets further appenders to work, and what is large is shared out among them. What is worth one
 * depends on the disk: flash takes several syncs at once, a disk that turns does them one by one.
 *
 * A put that would wake an appender works in its place instead, for one batch: on a disk that syncs in 0.1 ms, handing
 * over and back is a third of the time. What has gathered meanwhile is the appender's own thread's.
 */
#include <errno.h>

#include "clock.h"
#include "failure.h"
#include "store.h"

static void finish(struct put *put, int status, const engine_error *reason)
{
    put->status = status;
    put->state = PUT_DONE;
    if (status != ENGINE_OK)
        *put->error = *reason;
    pthread_cond_signal(&put->done);
}

/* queue.lock is held. Joined puts got the same bytes and get the same answer. */
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

static uint64_t worth_a_sync(const struct put_queue *queue)
{
    return atomic_load(&queue->sync_ns) < SYNC_SHORT_NS ? OWN_SYNC_BYTES_MIN : OWN_WRITE_BYTES_MIN;
}

/* queue.lock is held. True when there is a batch for this appender. */
static bool has_work(const struct appender *appender)
{
    const engine_store *store = appender->store;
    const struct put_queue *queue = &store->queue;
    if (queue->first == NULL)
        return false;
    if (queue->stopping || queue->waiting_bytes >= worth_a_sync(queue))
        return true;
    for (unsigned i = 0; i < store->appender_count; i++) {
        const struct appender *other = &store->appenders[i];
        bool writes_small = other->writing_bytes > 0 && other->writing_bytes < OWN_WRITE_BYTES_MIN;
        if (other != appender && (writes_small || other->woken))
            return false; /* it comes soon, and takes all that is there by then */
    }
    return true;
}

/* queue.lock is held. An appender that has nothing to do and for which there is a batch, or NULL. */
static struct appender *idle_with_work(engine_store *store)
{
    for (unsigned i = 0; i < store->appender_count; i++)
        if (store->appenders[i].idle)
            return has_work(&store->appenders[i]) ? &store->appenders[i] : NULL; /* the others see the same */
    return NULL;
}

/* queue.lock is held. Wakes one more appender if there is a batch for it. */
static void wake_another(engine_store *store)
{
    struct appender *appender = idle_with_work(store);
    if (appender == NULL)
        return;
    appender->idle = false;
    appender->woken = true;
    pthread_cond_signal(&appender->filled);
}

/* queue.lock is held. How much of the queue is for one appender: large needles are shared out among those who have
 * nothing to do, since each of them writes to another file. */
static uint64_t share_of(const struct appender *appender)
{
    const engine_store *store = appender->store;
    unsigned takers = 1;
    for (unsigned i = 0; i < store->appender_count; i++) {
        const struct appender *other = &store->appenders[i];
        if (other != appender && (other->idle || other->woken))
            takers++;
    }
    uint64_t share = store->queue.waiting_bytes / takers;
    if (share < OWN_WRITE_BYTES_MIN)
        return OWN_WRITE_BYTES_MIN;
    return share < BATCH_BYTES_MAX ? share : BATCH_BYTES_MAX;
}

/* queue.lock is held. Takes the next batch off the queue. */
static struct put *take_batch(struct appender *appender)
{
    struct put_queue *queue = &appender->store->queue;
    struct put *first = queue->first;
    struct put *last = NULL;
    uint64_t bytes_max = share_of(appender);
    uint64_t bytes = 0;
    for (unsigned needles = 0; queue->first != NULL && needles < BATCH_NEEDLES_MAX; needles++) {
        struct put *put = queue->first;
        if (last != NULL && bytes + put->footprint > bytes_max)
            break;
        bytes += put->footprint;
        put->state = PUT_WRITING;
        /* Not one whose thread works in an appender's place: two such could wait for each other. */
        put->own_write = put->length >= OWN_WRITE_BYTES_MIN && !put->in_group && !put->leads;
        queue->first = put->next;
        last = put;
    }
    if (queue->first == NULL)
        queue->last = NULL;
    if (last != NULL)
        last->next = NULL;
    queue->waiting_bytes -= bytes;
    appender->writing = first;
    appender->writing_bytes = bytes;
    return first;
}

void queue_complete(struct appender *appender, struct put *batch, int status, bool each, const engine_error *reason)
{
    pthread_mutex_lock(&appender->store->queue.lock);
    appender->writing = NULL;
    appender->writing_bytes = 0;
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
    pthread_mutex_unlock(&appender->store->queue.lock);
}

struct put *queue_take(struct appender *appender)
{
    struct put_queue *queue = &appender->store->queue;
    pthread_mutex_lock(&queue->lock);
    while (appender->led || (!has_work(appender) && !queue->stopping)) {
        appender->idle = !appender->led;
        appender->woken = false;
        pthread_cond_wait(&appender->filled, &queue->lock);
    }
    appender->idle = false;
    appender->woken = false;
    struct put *batch = take_batch(appender);
    wake_another(appender->store); /* what was left may be for someone else */
    pthread_mutex_unlock(&queue->lock);
    return batch;
}

/* queue.lock is held. The put of this fid that is queued or being written, or NULL. */
static struct put *find_in_flight(engine_store *store, uint64_t fid)
{
    for (unsigned i = 0; i < store->appender_count; i++)
        for (struct put *put = store->appenders[i].writing; put != NULL; put = put->next)
            if (put->fid == fid)
                return put;
    for (struct put *put = store->queue.first; put != NULL; put = put->next)
        if (put->fid == fid)
            return put;
    return NULL;
}

/* queue.lock is held. */
static void unlink_queued(engine_store *store, struct put *put)
{
    struct put **at = &store->queue.first;
    store->queue.last = NULL;
    while (*at != NULL) {
        if (*at == put) {
            *at = put->next;
            continue;
        }
        store->queue.last = *at;
        at = &(*at)->next;
    }
    store->queue.waiting_bytes -= put->footprint;
    atomic_fetch_sub(&store->queued_bytes, put->footprint);
}

/* queue.lock is held, but not while writing. Works in the place of an idle appender if there is a batch for it. */
static void lead(engine_store *store, struct put *put)
{
    struct appender *appender = idle_with_work(store);
    if (appender == NULL)
        return;
    appender->idle = false;
    appender->led = true;
    put->leads = true;
    struct put *batch = take_batch(appender);
    wake_another(store);
    pthread_mutex_unlock(&store->queue.lock);
    appender_write(appender, batch);
    pthread_mutex_lock(&store->queue.lock);
    put->leads = false;
    appender->led = false;
    appender->idle = true;
    wake_another(store);
}

/* queue.lock is held. Once its batch is being written a put cannot be taken back: the kernel reads its memory. */
static void wait_until_done(engine_store *store, struct put *put)
{
    struct timespec deadline = clock_timespec(put->deadline_ns);
    bool timed = true;
    while (put->state != PUT_DONE) {
        if (put->state == PUT_HANDED) {
            appender_write_own(store, put);
        } else if (!timed) {
            pthread_cond_wait(&put->done, &store->queue.lock);
        } else if (pthread_cond_timedwait(&put->done, &store->queue.lock, &deadline) == ETIMEDOUT) {
            timed = false;
            if (put->state == PUT_QUEUED && find_in_flight(store, put->fid) == put) {
                engine_error reason;
                (void)failure(&reason, ENGINE_BUSY, 0, "waited too long for its turn");
                unlink_queued(store, put);
                chunk_index_unreserve(store->index, put->fid);
                finish_with_joined(put, ENGINE_BUSY, &reason);
            }
        }
    }
}

/* queue.lock is held. Decides without waiting whether put can be queued. */
static int admit(engine_store *store, struct put *put, bool replace)
{
    struct put_queue *queue = &store->queue;
    struct chunk_place place;
    struct put *ahead = find_in_flight(store, put->fid);
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
    if (queue->stopping)
        return failure(put->error, ENGINE_CLOSED, 0, "the store is closed");
    if (atomic_load(&store->failed))
        return failure(put->error, ENGINE_FAILED, 0, "the store has failed");
    uint64_t queued_bytes = atomic_load(&store->queued_bytes);
    if (queued_bytes > 0 && queued_bytes + put->footprint > store->options.queue_bytes_max)
        return failure(put->error, ENGINE_BUSY, 0, "too many bytes wait to be written");
    if (!chunk_index_reserve(store->index, put->fid))
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no memory for the index");
    put->next = NULL;
    if (queue->last != NULL)
        queue->last->next = put;
    else
        queue->first = put;
    queue->last = put;
    queue->waiting_bytes += put->footprint;
    atomic_fetch_add(&store->queued_bytes, put->footprint);
    /* One of several that a call submits does not wait at once; the rest of its call may be long in coming. */
    if (put->in_group && queue->waiting_bytes >= OWN_WRITE_BYTES_MIN)
        wake_another(store);
    return ENGINE_OK;
}

int queue_submit(engine_store *store, struct put *put, bool replace)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no condition variable");
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&put->done, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (failed != 0)
        return failure(put->error, ENGINE_NO_MEMORY, 0, "no condition variable");
    put->state = PUT_QUEUED;
    put->deadline_ns = clock_deadline(store->options.queue_timeout_s);
    pthread_mutex_lock(&store->queue.lock);
    int status = admit(store, put, replace);
    pthread_mutex_unlock(&store->queue.lock);
    if (status != ENGINE_OK)
        (void)pthread_cond_destroy(&put->done);
    return status;
}

int queue_wait(engine_store *store, struct put *put)
{
    pthread_mutex_lock(&store->queue.lock);
    if (put->state == PUT_QUEUED)
        lead(store, put);
    wait_until_done(store, put);
    pthread_mutex_unlock(&store->queue.lock);
    (void)pthread_cond_destroy(&put->done);
    return put->status;
}

int queue_put(engine_store *store, struct put *put, bool replace)
{
    int status = queue_submit(store, put, replace);
    return status == ENGINE_OK ? queue_wait(store, put) : status;
}
