/* The scrub beside everything else, and on a disk that fails. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "engine_test.h"
#include "fault_io.h"
#include "store.h"

#define ROUNDS 8
#define CALLS_MAX 6000

struct beside {
    engine_store *store;
    atomic_bool stop;
    uint64_t first_fid;
};

static void *come_and_go(void *argument)
{
    struct beside *beside = argument;
    engine_error error;
    int removed;
    for (uint64_t fid = beside->first_fid; !atomic_load(&beside->stop); fid++) {
        CHECK(put(beside->store, fid, &error) == ENGINE_OK);
        if (fid >= beside->first_fid + 5)
            CHECK(engine_delete(beside->store, fid - 5, &removed, &error) == ENGINE_OK && removed);
        if (fid % 50 == 0)
            CHECK(engine_checkpoint(beside->store, &error) == ENGINE_OK);
    }
    return NULL;
}

static uint64_t round_of(engine_store *store, uint64_t step_bytes)
{
    engine_scrub told;
    engine_error error;
    CHECK(engine_scrub_start(store, &error) == ENGINE_OK);
    do
        CHECK(engine_scrub_step(store, step_bytes, 0, &told, &error) == ENGINE_OK);
    while (told.active);
    return told.damaged;
}

/* Every volume, in steps. */
static uint64_t verify_all(engine_store *store, uint64_t step_bytes)
{
    engine_volume volumes[64];
    engine_damage damage[2];
    engine_error error;
    size_t count;
    uint64_t damaged = 0;
    CHECK(engine_volumes(store, volumes, 64, &count, &error) == ENGINE_OK && count <= 64);
    for (size_t i = 0; i < count; i++) {
        engine_verification told = {.offset = 0};
        int status = ENGINE_OK;
        while (status == ENGINE_OK && !told.ended) {
            status = engine_verify(store, volumes[i].id, step_bytes, &told, damage, 2, &error);
            CHECK(status == ENGINE_OK || status == ENGINE_NOT_FOUND || status == ENGINE_NO_MEMORY);
            damaged += told.damaged;
        }
    }
    return damaged;
}

/* Two scrub at once and ask how it goes, one of them verifies too, others put, delete, punch and checkpoint: no report, and no race. */
static void *scrub_too(void *argument)
{
    struct beside *beside = argument;
    engine_scrub told;
    engine_damage damage;
    engine_stats stats;
    engine_error error;
    size_t count;
    while (!atomic_load(&beside->stop)) {
        CHECK(engine_scrub_step(beside->store, 1 << 16, 0, &told, &error) == ENGINE_OK);
        CHECK(engine_scrub_status(beside->store, &told, &error) == ENGINE_OK);
        CHECK(verify_all(beside->store, 1 << 16) == 0);
        CHECK(engine_scrub_damage(beside->store, &damage, 1, &count, &error) == ENGINE_OK && count == 0);
        CHECK(engine_stat(beside->store, &stats, &error) == ENGINE_OK && stats.scrub_damaged == 0);
    }
    return NULL;
}

void test_scrub_beside_others(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    pthread_t threads[3];
    struct beside both[3] = {{.first_fid = 1}, {.first_fid = 1000000}, {.first_fid = 0}};
    engine_store *store;
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    for (int i = 0; i < 3; i++) {
        both[i].store = store;
        CHECK(pthread_create(&threads[i], NULL, i < 2 ? come_and_go : scrub_too, &both[i]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++)
        CHECK(round_of(store, 1 << 18) == 0);
    for (int i = 0; i < 3; i++)
        atomic_store(&both[i].stop, true);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    check_sums(store);
    engine_free(store);
}

/* Whatever call fails while it scrubs: no crash, no error but memory's, the chunks stay as they are, and when the disk is
 * well again a round finds nothing. */
void test_scrub_faults(const struct test *test)
{
    engine_options options = options_of();
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        bool fired = true;
        for (uint64_t call = 1 + (uint64_t)kind % test->stride; fired && call < CALLS_MAX; call += test->stride) {
            enum known known[CHUNKS + 1] = {NEVER};
            engine_store *store;
            engine_error error;
            engine_scrub told;
            struct fault_io *fault = fault_io_new();
            empty_directory(test->directory);
            CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &store, &error) == ENGINE_OK);
            work(store, known);
            CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
            fault_io_arm(fault, (enum fault_kind)kind, call);
            (void)round_of(store, 1 << 19);
            (void)verify_all(store, 1 << 19);
            fired = fault_io_fired(fault);
            fault_io_disarm(fault);
            CHECK(round_of(store, 1 << 20) == 0);
            CHECK(engine_scrub_status(store, &told, &error) == ENGINE_OK);
            CHECK(told.round == 2 && told.checked_chunks == (uint64_t)CHUNKS - CHUNKS / 5);
            check_promises(store, known);
            engine_free(store);
            fault_io_free(fault);
        }
        CHECK(!fired);
    }
}
