/*
 * C tests of the engine: engine_test <case> <directory> <stride>. Built with AddressSanitizer + UBSan and with
 * ThreadSanitizer by tests/native/test_engine_c.py. Exit status 0 and "ok" when the case holds; an abort says which line
 * did not. Fault cases fail every stride-th call in turn; 1 is every call.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "chunk_index.h"
#include "engine_test.h"

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

void test_threads(const struct test *test)
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

void test_index(const struct test *test)
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
        {"fail_stop", test_fail_stop},
        {"primitive", test_primitive},
        {"full_disk", test_full_disk},
        {"repair", test_repair},
        {"two_copies", test_two_copies},
        {"appenders", test_appenders},
        {"leading", test_leading},
        {"doubted_deletes", test_doubted_deletes},
        {"large_faults", test_large_faults},
        {"sharing", test_sharing},
        {"small_disk", test_small_disk},
        {"punch", test_punch},
        {"no_descriptors", test_no_descriptors},
        {"full_while_opening", test_full_while_opening},
        {"no_ids", test_no_ids},
        {"unknown_holes", test_unknown_holes},
        {"new_delete_log", test_new_delete_log},
        {"filling", test_filling},
        {"filling_without_memory", test_filling_without_memory},
        {"no_memory", test_no_memory},
        {"no_memory_while_opening", test_no_memory_while_opening},
        {"one_sync_at_a_time", test_one_sync_at_a_time},
        {"too_long", test_too_long},
        {"scrub_beside_others", test_scrub_beside_others},
        {"scrub_faults", test_scrub_faults},
        {"compaction", test_compaction},
        {"compaction_repair", test_compaction_repair},
        {"compaction_damage", test_compaction_damage},
        {"compaction_faults", test_compaction_faults},
        {"compaction_crashes", test_compaction_crashes},
        {"compaction_open_faults", test_compaction_open_faults},
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
