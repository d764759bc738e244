/* What the C tests share: chunks with known content, a record of what the outside knows, and the promises. */
#ifndef SPEEDY_ENGINE_TEST_H
#define SPEEDY_ENGINE_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

#define CHECK(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define CHUNKS 40
#define TOGETHER 4 /* divides CHUNKS */

/* What the outside knows of each fid. */
enum known { NEVER, MAYBE, STORED, DELETED };

struct test {
    const char *directory;
    uint64_t stride;
};

struct snapshot {
    uint64_t chunks;
    uint64_t hash; /* over fid, volume and offset of all */
};

engine_options options_of(void);
/* The chunk of a fid always has the same bytes. */
int put(engine_store *store, uint64_t fid, engine_error *error);
/* The status of reading the whole chunk; OK only with the right bytes. */
int get(engine_store *store, uint64_t fid);
/* How many puts wait for an appender. */
uint64_t queued(engine_store *store);
void empty_directory(const char *directory);
void remove_checkpoints(const char *directory);
void check_sums(engine_store *store);
/* A run of everything: puts, deletes, a checkpoint, more of both. */
void work(engine_store *store, enum known *known);
/* I1, I2, I6, I7 of the format's promises, on a store that was opened without faults. */
void check_promises(engine_store *store, const enum known *known);
/* I4: the index from checkpoints is the index from a scan of everything; and the store goes on from there. */
void check_after_fault(const char *directory, const enum known *known);

/* The engine's allocations fail after so many: one of them, or that and all behind it. */
void refuse_memory(uint64_t after, bool forever);
/* Ends that; true when one has failed. */
bool give_memory(void);
/* No further thread can be started. */
void refuse_threads(bool refused);

/* Cases, each in its file. */
void test_index(const struct test *test);
void test_threads(const struct test *test);
void test_faults(const struct test *test);
void test_crashes(const struct test *test);
void test_open_faults(const struct test *test);
void test_fail_stop(const struct test *test);
void test_primitive(const struct test *test);
void test_full_disk(const struct test *test);
void test_repair(const struct test *test);
void test_two_copies(const struct test *test);
void test_appenders(const struct test *test);
void test_leading(const struct test *test);
void test_doubted_deletes(const struct test *test);
void test_large_faults(const struct test *test);
void test_sharing(const struct test *test);
void test_small_disk(const struct test *test);
void test_punch(const struct test *test);
void test_no_descriptors(const struct test *test);
void test_full_while_opening(const struct test *test);
void test_no_ids(const struct test *test);
void test_unknown_holes(const struct test *test);
void test_new_delete_log(const struct test *test);
void test_filling(const struct test *test);
void test_filling_without_memory(const struct test *test);
void test_no_memory(const struct test *test);
void test_no_memory_while_opening(const struct test *test);
void test_one_sync_at_a_time(const struct test *test);
void test_too_long(const struct test *test);
void test_scrub_beside_others(const struct test *test);
void test_scrub_faults(const struct test *test);
void test_compaction(const struct test *test);
void test_compaction_repair(const struct test *test);
void test_compaction_damage(const struct test *test);
void test_compaction_faults(const struct test *test);
void test_compaction_crashes(const struct test *test);
void test_compaction_open_faults(const struct test *test);

#endif
