/*
 * Memory that runs out: each allocation of the engine in turn fails, alone or with all that follow. The linker sends the
 * program's malloc, calloc, realloc and pthread_create here (--wrap), those of libraries not.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine_test.h"
#include "fault_io.h"
#include "store.h"

#define ALLOCATIONS_MAX 100000
#define CALLS_MIN 40u /* of the run before the opening */
#define CALLS_MAX 200u

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *terms, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *terms, void *(*run)(void *), void *argument);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

/* The linker's names take no context. */
static struct {
    atomic_bool armed;
    atomic_bool forever;
    atomic_bool fired;
    atomic_int_fast64_t left; /* allocations that succeed */
    atomic_bool no_threads;
} memory;

static bool is_refused(void)
{
    if (!atomic_load(&memory.armed))
        return false;
    int_fast64_t left = atomic_fetch_sub(&memory.left, 1);
    bool refused = left == 0 || (left < 0 && atomic_load(&memory.forever));
    if (refused) {
        atomic_store(&memory.fired, true);
        errno = ENOMEM;
    }
    return refused;
}

void *__wrap_malloc(size_t size)
{
    return is_refused() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return is_refused() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *own, size_t size)
{
    return is_refused() ? NULL : __real_realloc(own, size);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *terms, void *(*run)(void *), void *argument)
{
    return atomic_load(&memory.no_threads) ? EAGAIN : __real_pthread_create(thread, terms, run, argument);
}

void refuse_threads(bool refused)
{
    atomic_store(&memory.no_threads, refused);
}

void refuse_memory(uint64_t after, bool forever)
{
    atomic_store(&memory.left, (int_fast64_t)after);
    atomic_store(&memory.forever, forever);
    atomic_store(&memory.fired, false);
    atomic_store(&memory.armed, true);
}

bool give_memory(void)
{
    atomic_store(&memory.armed, false);
    return atomic_load(&memory.fired);
}

static bool is_lack(int status)
{
    return status == ENGINE_OK || status == ENGINE_NO_MEMORY || status == ENGINE_BUSY;
}

/* It says nothing of the disk. */
static void check_unharmed(engine_store *store)
{
    engine_stats stats;
    engine_error error;
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.volumes_failed == 0 && stats.volumes_quarantined == 0 && stats.state == ENGINE_STATE_RW);
    check_sums(store);
}

static void use_without_memory(engine_store *store, enum known *known)
{
    static const engine_compaction_terms everything = {.below = 1};
    engine_compaction report;
    engine_error error;
    engine_chunk chunks[2 * CHUNKS];
    size_t count;
    int removed;
    work(store, known);
    CHECK(is_lack(engine_iterate(store, 0, chunks, 2 * CHUNKS, &count, &error)));
    for (uint64_t fid = 3; fid <= CHUNKS; fid += 10) {
        int status = engine_delete(store, fid, &removed, &error);
        CHECK(is_lack(status));
        known[fid] = status == ENGINE_OK ? DELETED : MAYBE;
    }
    CHECK(is_lack(engine_checkpoint(store, &error)));
    CHECK(is_lack(engine_compact(store, &everything, &report, &error)));
    CHECK(is_lack(engine_checkpoint(store, &error)));
}

/* Whatever fails for want of memory leaves nothing wrong behind, and there is no more of it when there is memory again. */
void test_no_memory(const struct test *test)
{
    engine_options options = options_of();
    for (int forever = 0; forever < 2; forever++) {
        bool fired = true;
        uint64_t after = (uint64_t)forever % test->stride;
        for (; fired && after < ALLOCATIONS_MAX; after += test->stride) {
            enum known known[CHUNKS + 1] = {NEVER};
            engine_store *store = NULL;
            engine_error error;
            empty_directory(test->directory);
            refuse_memory(after, forever);
            int status = engine_open(test->directory, &options, &store, &error);
            CHECK(is_lack(status));
            if (status == ENGINE_OK)
                use_without_memory(store, known);
            fired = give_memory();
            if (status == ENGINE_OK) {
                check_unharmed(store);
                check_promises(store, known);
                CHECK(put(store, 1000, &error) == ENGINE_OK && get(store, 1000) == ENGINE_OK);
                int removed;
                CHECK(engine_delete(store, 1000, &removed, &error) == ENGINE_OK && removed);
                CHECK(engine_close(store, &error) == ENGINE_OK);
            }
            engine_free(store);
            check_after_fault(test->directory, known);
        }
        CHECK(!fired);
        printf("%" PRIu64 " allocations\n", after);
    }
}

/* A store whose power was cut at this call. */
static void leave_mess(const char *directory, uint64_t call, enum known *known)
{
    engine_options options = options_of();
    engine_store *store = NULL;
    engine_error error;
    struct fault_io *fault = fault_io_new();
    empty_directory(directory);
    fault_io_arm(fault, FAULT_POWER, call);
    if (store_open_on(fault_io_table(fault), directory, &options, &store, &error) == ENGINE_OK)
        work(store, known);
    engine_free(store);
    fault_io_disarm(fault);
    fault_io_crash(fault, call);
    fault_io_free(fault);
}

static bool open_without_memory(const char *directory, uint64_t after, bool forever, const enum known *known)
{
    engine_options options = options_of();
    engine_store *store = NULL;
    engine_error error;
    refuse_memory(after, forever);
    int status = engine_open(directory, &options, &store, &error);
    bool fired = give_memory();
    CHECK(is_lack(status) && (fired || status == ENGINE_OK));
    if (status == ENGINE_OK) {
        check_unharmed(store);
        check_promises(store, known);
        CHECK(engine_close(store, &error) == ENGINE_OK);
    }
    engine_free(store);
    return fired;
}

/* Also while a store is opened that a power cut has left: the opening fails, or it has everything. */
void test_no_memory_while_opening(const struct test *test)
{
    for (uint64_t call = CALLS_MIN; call < CALLS_MAX; call += 8 * test->stride)
        for (int forever = 0; forever < 2; forever++) {
            bool fired = true;
            for (uint64_t after = 0; fired; after++) {
                enum known known[CHUNKS + 1] = {NEVER};
                CHECK(after < ALLOCATIONS_MAX);
                leave_mess(test->directory, call, known);
                fired = open_without_memory(test->directory, after, forever, known);
                check_after_fault(test->directory, known);
            }
        }
}
