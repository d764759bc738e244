/* Compaction on a disk that fails or loses power at every call in turn, with deletes between copy and commit. */
#include <inttypes.h>
#include <string.h>

#include "compaction.h"
#include "engine_test.h"
#include "fault_io.h"

#define FILLERS_FROM 2000
#define CALLS_MAX 2000
#define POWER_SEEDS 3

struct work {
    engine_store *store;
    enum known *known;
    uint64_t victim; /* deleted when everything is copied and nothing is committed; 0: none */
};

static void delete_known(struct work *work, uint64_t fid)
{
    engine_error error;
    int removed;
    int status = engine_delete(work->store, fid, &removed, &error);
    if (status != ENGINE_OK)
        work->known[fid] = MAYBE;
    else if (removed)
        work->known[fid] = DELETED;
}

static void put_known(struct work *work, uint64_t fid)
{
    engine_error error;
    work->known[fid] = put(work->store, fid, &error) == ENGINE_OK ? STORED : MAYBE;
}

static bool delete_between(void *argument, uint64_t bytes)
{
    struct work *work = argument;
    if (bytes > 0 && work->victim != 0) {
        delete_known(work, work->victim);
        delete_known(work, work->victim + 1);
        put_known(work, work->victim); /* again, elsewhere: the copy must stay dead */
        work->victim = 0;
    }
    return true;
}

static void compact(struct work *work, uint64_t victim)
{
    engine_error error;
    engine_compaction report;
    struct compaction_terms terms = {.below = 1, .gain_bytes_min = 4096, .slots_end = UINT32_MAX,
                                     .go_on = delete_between, .argument = work};
    bool found = true;
    memset(&report, 0, sizeof report);
    work->victim = victim;
    for (int round = 0; round < 3 && found; round++)
        if (compaction_run(work->store, &terms, &report, &found, &error) != ENGINE_OK)
            break;
}

/* Two sealed volumes and one that takes chunks, half of each dead. */
static void prepare(struct work *work)
{
    engine_error error;
    int removed;
    for (uint64_t fid = 1; fid <= CHUNKS; fid++) {
        put_known(work, fid);
        CHECK(work->known[fid] == STORED);
        CHECK(put(work->store, FILLERS_FROM + fid, &error) == ENGINE_OK);
    }
    for (uint64_t fid = 1; fid <= CHUNKS; fid++)
        CHECK(engine_delete(work->store, FILLERS_FROM + fid, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(work->store, &error) == ENGINE_OK);
}

static void use(struct work *work)
{
    compact(work, 4);
    delete_known(work, 6);
    delete_known(work, 7);
    put_known(work, 7);
    compact(work, 10);
    delete_known(work, 12);
    delete_known(work, 4);
}

/* The simulated disk meets every call; here it is the turn of a real file system, at fewer. */
static uint64_t stride_of(const struct test *test)
{
    return test->stride == 1 ? 1 : 3 * test->stride;
}

static void run(const struct test *test, enum fault_kind kind, uint64_t seed)
{
    const uint64_t stride = stride_of(test);
    engine_options options = options_of();
    options.volume_size_max = options.volume_size_first;
    bool fired = true;
    uint64_t call = 1 + ((uint64_t)kind * 3 + seed) % stride;
    for (; fired && call < CALLS_MAX; call += stride) {
        enum known known[CHUNKS + 1] = {NEVER};
        struct fault_io *fault = fault_io_new();
        struct work work = {.known = known};
        engine_error error;
        empty_directory(test->directory);
        CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &work.store, &error) == ENGINE_OK);
        prepare(&work);
        fault_io_arm(fault, kind, call);
        use(&work);
        (void)engine_close(work.store, &error);
        engine_free(work.store);
        fired = fault_io_fired(fault);
        fault_io_disarm(fault);
        if (kind >= FAULT_KINDS)
            fault_io_crash(fault, seed + call);
        fault_io_free(fault);
        check_after_fault(test->directory, known);
    }
    CHECK(!fired);
    printf("%" PRIu64 " calls, kind %d\n", call, (int)kind);
}

void test_compaction_faults(const struct test *test)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        run(test, (enum fault_kind)kind, 0);
}

void test_compaction_crashes(const struct test *test)
{
    for (uint64_t seed = 1; seed <= POWER_SEEDS; seed++)
        run(test, FAULT_POWER, seed * 1000003);
    struct test every = {.directory = test->directory, .stride = 1};
    run(&every, FAULT_POWER_AT_SYNC, 7919);
}

/* The open after a compaction that was cut is cut itself, and the one after that must make it good. */
void test_compaction_open_faults(const struct test *test)
{
    engine_options options = options_of();
    options.volume_size_max = options.volume_size_first;
    bool fired = true;
    for (uint64_t call = 1; fired && call < CALLS_MAX; call += stride_of(test))
        for (int kind = 0; kind <= FAULT_POWER; kind++) {
            enum known known[CHUNKS + 1] = {NEVER};
            struct fault_io *fault = fault_io_new();
            struct work work = {.known = known};
            engine_error error;
            empty_directory(test->directory);
            CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &work.store, &error) == ENGINE_OK);
            prepare(&work);
            /* Somewhere between the first byte that is copied and the last file that is removed. */
            fault_io_arm(fault, FAULT_POWER, 10 + call * 7 % 90);
            use(&work);
            engine_free(work.store);
            fault_io_disarm(fault);
            fault_io_crash(fault, call + 100 * (uint64_t)kind);
            fault_io_free(fault);
            fault = fault_io_new();
            fault_io_arm(fault, (enum fault_kind)kind, call);
            if (store_open_on(fault_io_table(fault), test->directory, &options, &work.store, &error) == ENGINE_OK) {
                compact(&work, 0);
                engine_free(work.store);
            }
            fired = kind == 0 ? fault_io_fired(fault) : fired || fault_io_fired(fault);
            fault_io_disarm(fault);
            if (kind == FAULT_POWER)
                fault_io_crash(fault, call);
            fault_io_free(fault);
            check_after_fault(test->directory, known);
        }
    CHECK(!fired);
}
