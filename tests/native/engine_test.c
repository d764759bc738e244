/*
 * C tests of the engine: engine_test <case> <directory> <stride>. Built with AddressSanitizer + UBSan and with
 * ThreadSanitizer by tests/native/test_engine_c.py. Exit status 0 and "ok" when the case holds; an abort says which line
 * did not. Fault cases fail every stride-th call in turn; 1 is every call.
 */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"
#include "fault_io.h"
#include "store.h"

#define CHECK(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHUNKS 40
#define CALLS_MAX 5000
#define CRASH_SEEDS 2

/* What the outside knows of each fid. */
enum known { NEVER, MAYBE, STORED, MAYBE_DELETED, DELETED };

struct test {
    const char *directory;
    uint64_t stride;
};

static engine_options options_of(void)
{
    engine_options options = {
        .volume_size_first = 1 << 20,
        .volume_size_max = 2 << 20,
        .reserve_bytes = 0,
        .queue_bytes_max = 64 << 20,
        .checkpoint_bytes = 256 << 10,
        .checkpoint_s = 1000,
        .queue_timeout_s = 30,
        .sync = 1,
        .create = 1,
    };
    memset(options.cluster_id, 7, sizeof options.cluster_id);
    return options;
}

static size_t length_of(uint64_t fid)
{
    static const size_t lengths[] = {0, 1, 63, 4096, 5000, 70000, 262144, 262145, 300000, 17};
    return lengths[fid % (sizeof lengths / sizeof lengths[0])];
}

static void fill(uint8_t *bytes, uint64_t fid)
{
    uint64_t state = fid * 0x9e3779b97f4a7c15u + 0x1234567;
    for (size_t i = 0; i < length_of(fid); i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(state >> 56);
    }
}

static int put(engine_store *store, uint64_t fid, engine_error *error)
{
    uint8_t *bytes = malloc(length_of(fid) + 1);
    CHECK(bytes != NULL);
    fill(bytes, fid);
    int status = engine_put(store, fid, bytes, length_of(fid), engine_crc32c(0, bytes, length_of(fid)), error);
    free(bytes);
    return status;
}

/* The status of reading the whole chunk; OK only with the right bytes. */
static int get(engine_store *store, uint64_t fid)
{
    engine_error error;
    size_t length = length_of(fid);
    uint8_t *expected = malloc(length + 1);
    uint8_t *bytes = malloc(length + 1);
    CHECK(expected != NULL && bytes != NULL);
    fill(expected, fid);
    int status = engine_read(store, fid, 0, bytes, length, &error);
    if (status == ENGINE_OK)
        CHECK(memcmp(bytes, expected, length) == 0);
    free(bytes);
    free(expected);
    return status;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    return walk->level == 0 ? 0 : remove(path);
}

static void empty_directory(const char *directory)
{
    CHECK(nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

static void check_sums(engine_store *store)
{
    engine_stats stats;
    engine_error error;
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.live_bytes + stats.dead_bytes + stats.pad_bytes + stats.volume_free_bytes == stats.volume_bytes);
}

/* A run of everything: puts, deletes, a checkpoint, more of both. */
static void work(engine_store *store, enum known *known)
{
    engine_error error;
    int removed;
    for (uint64_t fid = 1; fid <= CHUNKS; fid++) {
        known[fid] = put(store, fid, &error) == ENGINE_OK ? STORED : MAYBE;
        if (fid % 5 == 0) {
            uint64_t victim = fid - 3;
            int status = engine_delete(store, victim, &removed, &error);
            if (status == ENGINE_OK && (removed || known[victim] == STORED || known[victim] == MAYBE))
                known[victim] = removed ? DELETED : known[victim];
            else if (status != ENGINE_OK)
                known[victim] = known[victim] == STORED ? MAYBE_DELETED : MAYBE;
        }
        if (fid == CHUNKS / 2)
            (void)engine_checkpoint(store, &error);
    }
}

/* I1, I2, I6, I7 of the format's promises, on a store that was opened without faults. */
static void check_promises(engine_store *store, const enum known *known)
{
    engine_stats stats;
    engine_error error;
    for (uint64_t fid = 1; fid <= CHUNKS; fid++) {
        int status = get(store, fid);
        if (known[fid] == STORED && status != ENGINE_OK)
            fprintf(stderr, "fid %" PRIu64 " was acknowledged and answers %d\n", fid, status);
        if (known[fid] == STORED)
            CHECK(status == ENGINE_OK);
        else if (known[fid] == NEVER || known[fid] == DELETED)
            CHECK(status == ENGINE_NOT_FOUND);
        else
            CHECK(status == ENGINE_OK || status == ENGINE_NOT_FOUND);
    }
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.volumes_quarantined == 0);
    check_sums(store);
}

struct snapshot {
    uint64_t chunks;
    uint64_t crc; /* over (fid, volume, offset) of all */
};

static struct snapshot snapshot_of(engine_store *store)
{
    engine_chunk chunks[CHUNKS + 8];
    struct snapshot snapshot = {0, 0};
    engine_error error;
    size_t count;
    CHECK(engine_iterate(store, 0, chunks, CHUNKS + 8, &count, &error) == ENGINE_OK);
    snapshot.chunks = count;
    for (size_t i = 0; i < count; i++) {
        snapshot.crc = snapshot.crc * 31 + chunks[i].fid;
        snapshot.crc = snapshot.crc * 31 + chunks[i].volume;
        snapshot.crc = snapshot.crc * 31 + chunks[i].offset;
    }
    return snapshot;
}

static void remove_checkpoints(const char *directory)
{
    for (uint32_t id = 1; id < 200; id++) {
        char path[512];
        snprintf(path, sizeof path, "%s/v%08" PRIu32 ".ckp", directory, id);
        (void)unlink(path);
        snprintf(path, sizeof path, "%s/v%08" PRIu32 ".ckp.old", directory, id);
        (void)unlink(path);
    }
}

/* I4: the index from checkpoints is the index from a scan of everything. */
static void check_after_fault(const char *directory, const enum known *known)
{
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    int status = engine_open(directory, &options, &store, &error);
    if (status != ENGINE_OK)
        fprintf(stderr, "open after the fault: %d %s\n", status, error.detail);
    CHECK(status == ENGINE_OK);
    check_promises(store, known);
    struct snapshot first = snapshot_of(store);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    remove_checkpoints(directory);
    CHECK(engine_open(directory, &options, &store, &error) == ENGINE_OK);
    check_promises(store, known);
    struct snapshot second = snapshot_of(store);
    CHECK(first.chunks == second.chunks && first.crc == second.crc);
    /* It must go on from here. */
    CHECK(put(store, 1000, &error) == ENGINE_OK);
    CHECK(get(store, 1000) == ENGINE_OK);
    engine_free(store);
}

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

static void test_faults(const struct test *test)
{
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        run_faults(test, (enum fault_kind)kind, 0, false);
}

static void test_crashes(const struct test *test)
{
    for (uint64_t seed = 1; seed <= CRASH_SEEDS; seed++)
        run_faults(test, FAULT_EIO_FOREVER, seed * 1000003, true);
}

/* Faults while a store that was left in a mess is opened: open may refuse, but must not spoil anything. */
static void test_open_faults(const struct test *test)
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
            fault_io_arm(fault, FAULT_EIO_FOREVER, 160 + call % 60);
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

struct crowd {
    engine_store *store;
    atomic_uint_fast64_t next_fid;
    atomic_uint_fast64_t deleted;
};

static void *crowd_member(void *argument)
{
    struct crowd *crowd = argument;
    engine_error error;
    for (int i = 0; i < 60; i++) {
        uint64_t fid = atomic_fetch_add(&crowd->next_fid, 1);
        CHECK(put(crowd->store, fid, &error) == ENGINE_OK);
        CHECK(get(crowd->store, fid) == ENGINE_OK);
        CHECK(put(crowd->store, fid, &error) == ENGINE_OK);
        uint64_t other = fid / 2 + 1;
        int status = get(crowd->store, other);
        CHECK(status == ENGINE_OK || status == ENGINE_NOT_FOUND);
        if (i % 3 == 0) {
            int removed;
            CHECK(engine_delete(crowd->store, fid, &removed, &error) == ENGINE_OK);
            CHECK(removed == 1);
            CHECK(get(crowd->store, fid) == ENGINE_NOT_FOUND);
            atomic_fetch_add(&crowd->deleted, 1);
        }
        if (i % 20 == 0)
            CHECK(engine_checkpoint(crowd->store, &error) == ENGINE_OK);
        engine_chunk chunks[16];
        size_t count;
        CHECK(engine_iterate(crowd->store, fid / 2, chunks, 16, &count, &error) == ENGINE_OK);
        for (size_t at = 1; at < count; at++)
            CHECK(chunks[at - 1].fid < chunks[at].fid);
        engine_stats stats;
        CHECK(engine_stat(crowd->store, &stats, &error) == ENGINE_OK);
    }
    return NULL;
}

static void *same_fid(void *argument)
{
    struct crowd *crowd = argument;
    engine_error error;
    int removed;
    for (uint64_t fid = 100000; fid < 100040; fid++) {
        CHECK(put(crowd->store, fid, &error) == ENGINE_OK);
        if (fid % 2 == 0)
            CHECK(engine_delete(crowd->store, fid, &removed, &error) == ENGINE_OK);
    }
    return NULL;
}

static void test_threads(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    pthread_t threads[8];
    struct crowd crowd = {.next_fid = 1};
    options.volume_size_max = 8 << 20;
    CHECK(engine_open(test->directory, &options, &crowd.store, &error) == ENGINE_OK);
    for (int i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, i < 5 ? crowd_member : same_fid, &crowd) == 0);
    for (int i = 0; i < 8; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    check_sums(crowd.store);
    engine_stats stats;
    CHECK(engine_stat(crowd.store, &stats, &error) == ENGINE_OK);
    uint64_t chunks = stats.chunks;
    CHECK(chunks >= 5 * 60 + 20 - crowd.deleted && chunks <= 5 * 60 + 40 - crowd.deleted);
    CHECK(engine_close(crowd.store, &error) == ENGINE_OK);
    CHECK(put(crowd.store, 5, &error) == ENGINE_CLOSED);
    engine_free(crowd.store);
    CHECK(engine_open(test->directory, &options, &crowd.store, &error) == ENGINE_OK);
    CHECK(engine_stat(crowd.store, &stats, &error) == ENGINE_OK);
    CHECK(stats.chunks == chunks);
    check_sums(crowd.store);
    engine_free(crowd.store);
}

static void test_index(const struct test *test)
{
    (void)test;
    const uint64_t count = 200000;
    struct chunk_index *index = chunk_index_new();
    struct chunk_place place;
    struct chunk_place before;
    CHECK(index != NULL);
    for (uint64_t fid = 1; fid <= count; fid++) {
        struct chunk_place made = {fid, fid * 64, (uint32_t)(fid % 1000), 128, (uint32_t)fid, (uint32_t)~fid, 7};
        CHECK(chunk_index_reserve(index, fid));
        CHECK(!chunk_index_put(index, &made, &before));
    }
    CHECK(chunk_index_bytes(index) <= 40 * count);
    for (uint64_t fid = 3; fid <= count; fid += 3)
        CHECK(chunk_index_remove(index, fid, (uint32_t)(fid % 1000), fid * 64, &place));
    for (uint64_t fid = 1; fid <= count + 1000; fid++) {
        bool there = chunk_index_get(index, fid, &place, NULL, NULL);
        CHECK(there == (fid <= count && fid % 3 != 0));
        if (there)
            CHECK(place.offset == fid * 64 && place.length == fid && place.crc32c == (uint32_t)~fid);
    }
    CHECK(chunk_index_count(index) == count - count / 3);
    chunk_index_free(index);
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(const struct test *test);
    } cases[] = {
        {"index", test_index},
        {"threads", test_threads},
        {"faults", test_faults},
        {"crashes", test_crashes},
        {"open_faults", test_open_faults},
    };
    CHECK(count == 4);
    struct test test = {.directory = arguments[2], .stride = strtoull(arguments[3], NULL, 10)};
    CHECK(test.stride > 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(arguments[1], cases[i].name) == 0) {
            cases[i].run(&test);
            puts("ok");
            return 0;
        }
    }
    fprintf(stderr, "no case %s\n", arguments[1]);
    return 2;
}
