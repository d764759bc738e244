/*
 * Who compacts: a thread that looks every so often for what is worth it, and engine_compact for whoever asks. One at a
 * time; the thread makes way. Both write at most so many bytes a second, and end soon when the store is closed.
 */
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "compaction.h"
#include "failure.h"
#include "store.h"

#define GAIN_BYTES_MIN ((uint64_t)1 << 20) /* less is not worth it to the thread ... */
#define GAIN_BYTES_MIN_CALLED ((uint64_t)16 << 10) /* ... and to engine_compact */
#define BURST_S 0.1

/* Not more than bytes_s on average: the next write is due when all before have had their time. */
struct pace {
    engine_store *store;
    uint64_t bytes_s; /* 0: no bound */
    uint64_t due_ns;
    bool called; /* by engine_compact */
};

/* compactor.lock is held. */
static bool must_end(const struct compactor *compactor, bool called)
{
    return compactor->stopping || (called ? compactor->cancelled : compactor->called);
}

static bool go_on(void *argument, uint64_t bytes)
{
    struct pace *pace = argument;
    struct compactor *compactor = &pace->store->compactor;
    atomic_fetch_add(&pace->store->counters.compacted_bytes, bytes);
    pthread_mutex_lock(&compactor->lock);
    if (pace->bytes_s > 0) {
        uint64_t earliest_ns = clock_monotonic_ns() - (uint64_t)(BURST_S * 1e9);
        if (pace->due_ns < earliest_ns)
            pace->due_ns = earliest_ns;
        pace->due_ns += (uint64_t)((double)bytes / (double)pace->bytes_s * 1e9);
        struct timespec due = clock_timespec(pace->due_ns);
        while (!must_end(compactor, pace->called) && clock_monotonic_ns() < pace->due_ns)
            (void)pthread_cond_timedwait(&compactor->wake, &compactor->lock, &due);
    }
    bool more = !must_end(compactor, pace->called);
    pthread_mutex_unlock(&compactor->lock);
    return more;
}

bool compactor_pause(engine_store *store, double seconds)
{
    struct compactor *compactor = &store->compactor;
    struct timespec until = clock_timespec(clock_deadline(seconds));
    pthread_mutex_lock(&compactor->lock);
    if (!compactor->stopping)
        (void)pthread_cond_timedwait(&compactor->wake, &compactor->lock, &until);
    bool more = !compactor->stopping;
    pthread_mutex_unlock(&compactor->lock);
    return more;
}

/* compactor.work is held. Compacts until nothing is worth it any more. */
static int pass(engine_store *store, const engine_compaction_terms *wanted, struct pace *pace,
                engine_compaction *report, engine_error *error)
{
    struct compaction_terms terms = {
        .below = wanted->below,
        .gain_bytes_min = pace->called ? GAIN_BYTES_MIN_CALLED : GAIN_BYTES_MIN,
        .slots_end = volumes_count(store),
        .called = pace->called,
        .volumes = wanted->volumes,
        .volume_count = wanted->volume_count,
        .go_on = go_on,
        .argument = pace,
    };
    bool found = true;
    int status = ENGINE_OK;
    /* For the thread the keeper seals them until its next look. */
    if (compaction_close_active(store, &terms) > 0 && pace->called) {
        engine_error ignored; /* what it cannot seal is not compacted */
        (void)keeper_checkpoint(store, &ignored);
    }
    /* Each round removes a volume or finds a damaged one. */
    for (uint32_t round = 0; round <= terms.slots_end && found && status == ENGINE_OK; round++) {
        if (!go_on(pace, 0)) {
            report->stopped = 1;
            break;
        }
        uint64_t before = report->bytes_given_back;
        status = compaction_run(store, &terms, report, &found, error);
        atomic_fetch_add(&store->counters.given_back_bytes, report->bytes_given_back - before);
    }
    if (status == ENGINE_CLOSED) {
        report->stopped = 1;
        status = no_failure(error);
    }
    report->volumes_damaged = compaction_count_damaged(store, false);
    if (status != ENGINE_OK)
        atomic_fetch_add(&store->counters.compaction_failures, 1);
    return status;
}

int compactor_call(engine_store *store, const engine_compaction_terms *wanted, engine_compaction *report,
                   engine_error *error)
{
    struct compactor *compactor = &store->compactor;
    struct pace pace = {.store = store, .bytes_s = wanted->bytes_s, .called = true};
    memset(report, 0, sizeof *report);
    if (!(wanted->below > 0 && wanted->below <= 1))
        return failure(error, ENGINE_INVALID, 0, "a live share is above 0 and at most 1");
    pthread_mutex_lock(&compactor->lock);
    bool busy = compactor->called;
    compactor->called = true;
    if (!busy)
        compactor->cancelled = false;
    pthread_cond_broadcast(&compactor->wake);
    pthread_mutex_unlock(&compactor->lock);
    if (busy)
        return failure(error, ENGINE_BUSY, 0, "a compaction is under way");
    /* Bounded: the thread makes way after the bytes that it is writing. */
    pthread_mutex_lock(&compactor->work);
    (void)compaction_count_damaged(store, true);
    int status = pass(store, wanted, &pace, report, error);
    pthread_mutex_unlock(&compactor->work);
    pthread_mutex_lock(&compactor->lock);
    compactor->called = false;
    pthread_mutex_unlock(&compactor->lock);
    return status;
}

void compactor_cancel(engine_store *store)
{
    pthread_mutex_lock(&store->compactor.lock);
    store->compactor.cancelled = true;
    pthread_cond_broadcast(&store->compactor.wake);
    pthread_mutex_unlock(&store->compactor.lock);
}

static void *run(void *argument)
{
    engine_store *store = argument;
    struct compactor *compactor = &store->compactor;
    pthread_mutex_lock(&compactor->lock);
    while (!compactor->stopping) {
        struct timespec until = clock_timespec(clock_deadline(store->options.compact_every_s));
        while (!compactor->stopping)
            if (pthread_cond_timedwait(&compactor->wake, &compactor->lock, &until) == ETIMEDOUT)
                break;
        if (compactor->stopping)
            break;
        bool free_to_work = !compactor->called;
        pthread_mutex_unlock(&compactor->lock);
        if (free_to_work && pthread_mutex_trylock(&compactor->work) == 0) {
            const engine_compaction_terms usual = {.below = store->options.compact_below};
            struct pace pace = {.store = store, .bytes_s = store->options.compact_bytes_s};
            engine_compaction report;
            engine_error ignored; /* counted */
            memset(&report, 0, sizeof report);
            (void)pass(store, &usual, &pace, &report, &ignored);
            pthread_mutex_unlock(&compactor->work);
        }
        pthread_mutex_lock(&compactor->lock);
    }
    pthread_mutex_unlock(&compactor->lock);
    return NULL;
}

int compactor_start(engine_store *store, engine_error *error)
{
    if (!(store->options.compact_below > 0))
        return ENGINE_OK;
    int failed = pthread_create(&store->compactor.thread, NULL, run, store);
    if (failed != 0)
        return failure(error, ENGINE_FAILED, failed, "cannot start the compactor");
    store->compactor.started = true;
    return ENGINE_OK;
}

void compactor_end(engine_store *store)
{
    pthread_mutex_lock(&store->compactor.lock);
    store->compactor.stopping = true;
    pthread_cond_broadcast(&store->compactor.wake);
    pthread_mutex_unlock(&store->compactor.lock);
}

void compactor_stop(engine_store *store)
{
    compactor_end(store);
    if (store->compactor.started)
        pthread_join(store->compactor.thread, NULL);
    store->compactor.started = false;
}
