/* Cases on a disk that fails: after each fault the store is opened again on a good disk and all promises are checked. */
#include <inttypes.h>

#include "engine_test.h"
#include "fault_io.h"
#include "store.h"

#define CALLS_MAX 5000
#define CRASH_SEEDS 2
#define SYNC_SEEDS 5

static void run_faults(const struct test *test, enum fault_kind kind, uint64_t seed, bool crash)
{
    const char *directory = test->directory;
    engine_options options = options_of();
    bool fired = true;
    /* Each kind starts elsewhere, so that together they meet most calls. */
    uint64_t call = 1 + ((uint64_t)kind * 3 + seed) % test->stride;
    for (; fired && call < CALLS_MAX; call += test->stride) {
        enum known known[CHUNKS + 1] = {NEVER};
        struct fault_io *fault = fault_io_new();
        engine_store *store = NULL;
        engine_error error;
        empty_directory(directory);
        fault_io_arm(fault, kind, call);
        int status = store_open_on(fault_io_table(fault), directory, &options, &store, &error);
        if (status == ENGINE_OK) {
            work(store, known);
            (void)engine_close(store, &error);
            engine_free(store);
        }
        fired = fault_io_fired(fault);
        fault_io_disarm(fault);
        if (crash)
            fault_io_crash(fault, seed + call);
        fault_io_free(fault);
        check_after_fault(directory, known);
    }
    CHECK(!fired);
    printf("%" PRIu64 " calls, kind %d\n", call, (int)kind);
}

void test_faults(const struct test *test)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        run_faults(test, (enum fault_kind)kind, 0, false);
}

void test_crashes(const struct test *test)
{
    for (uint64_t seed = 1; seed <= CRASH_SEEDS; seed++)
        run_faults(test, FAULT_POWER, seed * 1000003, true);
    struct test every = {.directory = test->directory, .stride = 1};
    for (uint64_t seed = 1; seed <= SYNC_SEEDS; seed++)
        run_faults(&every, FAULT_POWER_AT_SYNC, seed * 7919, true);
}

/* Faults while a store that was left in a mess is opened: open may refuse, but must not spoil anything. */
void test_open_faults(const struct test *test)
{
    const char *directory = test->directory;
    engine_options options = options_of();
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        bool fired = true;
        for (uint64_t call = 1 + (uint64_t)kind % test->stride; fired && call < CALLS_MAX; call += test->stride) {
            enum known known[CHUNKS + 1] = {NEVER};
            engine_store *store = NULL;
            engine_error error;
            struct fault_io *fault = fault_io_new();
            empty_directory(directory);
            fault_io_arm(fault, FAULT_POWER, 100 + call % 60);
            if (store_open_on(fault_io_table(fault), directory, &options, &store, &error) == ENGINE_OK) {
                work(store, known);
                engine_free(store);
            }
            fault_io_disarm(fault);
            fault_io_crash(fault, call);
            fault_io_free(fault);

            fault = fault_io_new();
            fault_io_arm(fault, (enum fault_kind)kind, call);
            if (store_open_on(fault_io_table(fault), directory, &options, &store, &error) == ENGINE_OK) {
                for (uint64_t fid = 1; fid <= CHUNKS; fid++) {
                    int status = get(store, fid);
                    if (known[fid] == NEVER || known[fid] == DELETED)
                        CHECK(status != ENGINE_OK);
                }
                engine_free(store);
            }
            fired = fault_io_fired(fault);
            fault_io_disarm(fault);
            fault_io_crash(fault, call + 77);
            fault_io_free(fault);
            check_after_fault(directory, known);
        }
        CHECK(!fired);
    }
}

static engine_store *opened_on(struct fault_io *fault, const char *directory)
{
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    CHECK(store_open_on(fault_io_table(fault), directory, &options, &store, &error) == ENGINE_OK);
    return store;
}

/* Puts the chunk; the id of the volume that has it. */
static uint32_t volume_of_put(engine_store *store, uint64_t fid)
{
    engine_chunk chunk;
    engine_error error;
    CHECK(put(store, fid, &error) == ENGINE_OK);
    CHECK(engine_info(store, fid, &chunk, &error) == ENGINE_OK);
    return chunk.volume;
}

/* The store takes the chunk, in another volume than the one that failed, and tells of that one. */
static void check_put_elsewhere(engine_store *store, uint64_t fid, uint32_t failed)
{
    engine_stats stats;
    engine_error error;
    CHECK(volume_of_put(store, fid) != failed);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.volumes_failed == 1 && stats.state == ENGINE_STATE_RW);
    CHECK(get(store, fid) == ENGINE_OK);
}

static void check_fail_stop(const struct test *test, enum fault_kind kind)
{
    engine_error error;
    struct fault_io *fault = fault_io_new();
    empty_directory(test->directory);
    engine_store *store = opened_on(fault, test->directory);
    uint32_t failed = volume_of_put(store, 1);
    fault_io_arm(fault, kind, 1);
    CHECK(put(store, 2, &error) == ENGINE_FAILED);
    CHECK(fault_io_fired(fault));
    CHECK(get(store, 2) == ENGINE_NOT_FOUND);
    for (int round = 0; round < 2; round++) {
        check_put_elsewhere(store, 3, failed);
        CHECK(get(store, 1) == ENGINE_OK);
        check_sums(store);
        CHECK(engine_close(store, &error) == ENGINE_OK);
        engine_free(store);
        store = opened_on(fault, test->directory);
    }
    engine_free(store);
    fault_io_free(fault);
}

/* What a killed process has left unsynced is synced when the store is opened; where that fails it may be lost, and so may
 * what follows it. */
static void check_failed_opening(const struct test *test)
{
    engine_error error;
    struct fault_io *fault = fault_io_new();
    empty_directory(test->directory);
    engine_store *store = opened_on(fault, test->directory);
    uint32_t failed = volume_of_put(store, 1);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    fault_io_arm(fault, FAULT_SYNC_ONCE, 1);
    store = opened_on(fault, test->directory);
    CHECK(fault_io_fired(fault));
    check_put_elsewhere(store, 2, failed);
    CHECK(get(store, 1) == ENGINE_OK);
    engine_free(store);
    fault_io_free(fault);
}

/* I8: after a failed sync or write the volume takes nothing more, also after reopening, and what it had stays readable. */
void test_fail_stop(const struct test *test)
{
    check_fail_stop(test, FAULT_SYNC_ONCE);
    check_fail_stop(test, FAULT_EIO_ONCE); /* the first call of a put is its write */
    check_failed_opening(test);
}

/* Without preallocation, punching and SEEK_DATA everything works, only slower and larger. */
void test_primitive(const struct test *test)
{
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    enum known known[CHUNKS + 1] = {NEVER};
    struct fault_io *fault = fault_io_new();
    fault_io_arm(fault, FAULT_PRIMITIVE, UINT64_MAX);
    CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &store, &error) == ENGINE_OK);
    work(store, known);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    remove_checkpoints(test->directory);
    CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &store, &error) == ENGINE_OK);
    check_promises(store, known);
    engine_free(store);
    fault_io_free(fault);
}

/* A delete that failed may have reached the disk: whoever then stores the chunk again, in the same process, is told OK
 * only if it is there after the next opening. */
void test_doubted_deletes(const struct test *test)
{
    static const enum fault_kind kinds[] = {FAULT_EIO_ONCE, FAULT_ENOSPC_ONCE, FAULT_SYNC_ONCE};
    engine_options options = options_of();
    unsigned refused = 0;
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++)
        for (uint64_t call = 1; call <= 20; call++) {
            enum known known[CHUNKS + 1] = {NEVER};
            struct fault_io *fault = fault_io_new();
            engine_store *store;
            engine_error error;
            int removed;
            empty_directory(test->directory);
            CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &store, &error) == ENGINE_OK);
            for (uint64_t fid = 1; fid <= 3; fid++) {
                CHECK(put(store, fid, &error) == ENGINE_OK);
                known[fid] = STORED;
            }
            fault_io_arm(fault, kinds[kind], call);
            int deleted = engine_delete(store, 2, &removed, &error);
            fault_io_disarm(fault);
            known[2] = put(store, 2, &error) == ENGINE_OK ? STORED : MAYBE;
            if (deleted != ENGINE_OK && known[2] == MAYBE)
                refused++;
            (void)engine_close(store, &error);
            engine_free(store);
            fault_io_free(fault);
            check_after_fault(test->directory, known);
        }
    CHECK(refused > 0);
}
