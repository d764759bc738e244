/* Two syncs of one file at once: the kernel tells only one of them that bytes were lost. And syncs that do not return. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"
#include "engine_test.h"
#include "store.h"

#define ALONE_NS 200000000u /* how long the first sync waits for a second */

struct twofold {
    struct engine_io io;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool armed;
    unsigned syncs;
    engine_store *store;
    int deleted;
};

/* The first one fails, but not before it was told of another or of none; every other one succeeds. */
static int sync_twofold(void *context, int file)
{
    struct twofold *twofold = context;
    pthread_mutex_lock(&twofold->lock);
    bool first = twofold->armed && ++twofold->syncs == 1;
    bool armed = twofold->armed;
    pthread_cond_broadcast(&twofold->changed);
    struct timespec until = clock_timespec(clock_monotonic_ns() + ALONE_NS);
    while (first && twofold->syncs == 1)
        if (pthread_cond_timedwait(&twofold->changed, &twofold->lock, &until) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&twofold->lock);
    if (!armed)
        return io_system()->fdatasync(NULL, file);
    errno = EIO;
    return first ? -1 : 0;
}

static void *delete_one(void *argument)
{
    struct twofold *twofold = argument;
    engine_error error;
    int removed;
    twofold->deleted = engine_delete(twofold->store, 1, &removed, &error);
    return NULL;
}

/* Without options.sync a checkpoint and a delete both sync what was stored before. When that fails, neither may take the
 * other's silence for success. */
void test_one_sync_at_a_time(const struct test *test)
{
    struct twofold twofold = {.io = *io_system()};
    engine_options options = options_of();
    engine_error error;
    engine_stats stats;
    pthread_t thread;
    pthread_condattr_t attributes;
    CHECK(pthread_mutex_init(&twofold.lock, NULL) == 0 && pthread_condattr_init(&attributes) == 0);
    CHECK(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(&twofold.changed, &attributes) == 0);
    twofold.io.context = &twofold;
    twofold.io.fdatasync = sync_twofold;
    options.sync = 0;
    empty_directory(test->directory);
    CHECK(store_open_on(&twofold.io, test->directory, &options, &twofold.store, &error) == ENGINE_OK);
    CHECK(put(twofold.store, 1, &error) == ENGINE_OK && put(twofold.store, 2, &error) == ENGINE_OK);
    pthread_mutex_lock(&twofold.lock);
    twofold.armed = true;
    CHECK(pthread_create(&thread, NULL, delete_one, &twofold) == 0);
    while (twofold.syncs == 0)
        CHECK(pthread_cond_wait(&twofold.changed, &twofold.lock) == 0);
    pthread_mutex_unlock(&twofold.lock);
    CHECK(engine_checkpoint(twofold.store, &error) == ENGINE_FAILED);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(twofold.deleted == ENGINE_FAILED && twofold.syncs == 1);
    CHECK(engine_stat(twofold.store, &stats, &error) == ENGINE_OK && stats.volumes_failed == 1);
    pthread_mutex_lock(&twofold.lock);
    twofold.armed = false;
    pthread_mutex_unlock(&twofold.lock);
    (void)engine_close(twofold.store, &error);
    engine_free(twofold.store);
    (void)pthread_cond_destroy(&twofold.changed);
    (void)pthread_condattr_destroy(&attributes);
    (void)pthread_mutex_destroy(&twofold.lock);
}

/* A disk that hangs: while held, syncs do not return. */
struct hanging {
    struct engine_io io;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held;
    bool waits;
};

static int sync_hanging(void *context, int file)
{
    struct hanging *hanging = context;
    pthread_mutex_lock(&hanging->lock);
    hanging->waits = hanging->held;
    pthread_cond_broadcast(&hanging->changed);
    while (hanging->held)
        CHECK(pthread_cond_wait(&hanging->changed, &hanging->lock) == 0);
    pthread_mutex_unlock(&hanging->lock);
    return io_system()->fdatasync(NULL, file);
}

struct slow_put {
    pthread_t thread;
    engine_store *store;
    uint64_t fid;
    int status;
};

static void *put_slowly(void *argument)
{
    struct slow_put *slow = argument;
    engine_error error;
    slow->status = put(slow->store, slow->fid, &error);
    return NULL;
}

/* Who waits too long behind a batch that hangs is told so and stores nothing; who is in it waits for its end. */
void test_too_long(const struct test *test)
{
    struct hanging hanging = {.io = *io_system()};
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    engine_stats stats;
    struct slow_put puts[4];
    CHECK(pthread_mutex_init(&hanging.lock, NULL) == 0 && pthread_cond_init(&hanging.changed, NULL) == 0);
    hanging.io.context = &hanging;
    hanging.io.fdatasync = sync_hanging;
    options.queue_timeout_s = 0.2;
    empty_directory(test->directory);
    CHECK(store_open_on(&hanging.io, test->directory, &options, &store, &error) == ENGINE_OK);
    pthread_mutex_lock(&hanging.lock);
    hanging.held = true;
    pthread_mutex_unlock(&hanging.lock);
    for (size_t i = 0; i < 4; i++) {
        puts[i] = (struct slow_put){.store = store, .fid = i + 1};
        CHECK(pthread_create(&puts[i].thread, NULL, put_slowly, &puts[i]) == 0);
        pthread_mutex_lock(&hanging.lock);
        while (!hanging.waits)
            CHECK(pthread_cond_wait(&hanging.changed, &hanging.lock) == 0);
        pthread_mutex_unlock(&hanging.lock);
    }
    for (size_t i = 1; i < 4; i++)
        CHECK(pthread_join(puts[i].thread, NULL) == 0 && puts[i].status == ENGINE_BUSY);
    pthread_mutex_lock(&hanging.lock);
    hanging.held = false;
    pthread_cond_broadcast(&hanging.changed);
    pthread_mutex_unlock(&hanging.lock);
    CHECK(pthread_join(puts[0].thread, NULL) == 0 && puts[0].status == ENGINE_OK && get(store, 1) == ENGINE_OK);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK && stats.queued_bytes == 0 && stats.chunks == 1);
    for (uint64_t fid = 2; fid <= 4; fid++)
        CHECK(get(store, fid) == ENGINE_NOT_FOUND && put(store, fid, &error) == ENGINE_OK && get(store, fid) == ENGINE_OK);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    (void)pthread_cond_destroy(&hanging.changed);
    (void)pthread_mutex_destroy(&hanging.lock);
}
