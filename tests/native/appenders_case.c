/* Large chunks, which their own threads write, and several appenders, each with a volume of its own. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "checksum.h"
#include "engine_test.h"
#include "fault_io.h"
#include "store.h"

#define WRITERS 5
#define EACH 4
#define LARGE ((size_t)1 << 20)

struct writer {
    engine_store *store;
    uint64_t first_fid;
    uint32_t acknowledged; /* a bit for each */
};

/* Large ones, some not a multiple of anything, and a small one between them. */
static size_t size_of(uint64_t fid)
{
    return fid % 5 == 0 ? 3000 : LARGE + (size_t)(fid % 3) * 70001;
}

static uint8_t *bytes_of(uint64_t fid)
{
    uint8_t *bytes = malloc(size_of(fid));
    CHECK(bytes != NULL);
    memset(bytes, (int)(fid * 37 % 251), size_of(fid));
    memcpy(bytes, &fid, sizeof fid);
    return bytes;
}

static int put_large(engine_store *store, uint64_t fid)
{
    engine_error error;
    uint8_t *bytes = bytes_of(fid);
    int status = engine_put(store, fid, bytes, size_of(fid), engine_crc32c(0, bytes, size_of(fid)), &error);
    free(bytes);
    return status;
}

static int get_large(engine_store *store, uint64_t fid)
{
    engine_error error;
    uint8_t *expected = bytes_of(fid);
    uint8_t *bytes = malloc(size_of(fid));
    CHECK(bytes != NULL);
    int status = engine_read(store, fid, 0, bytes, size_of(fid), NULL, &error);
    if (status == ENGINE_OK)
        CHECK(memcmp(bytes, expected, size_of(fid)) == 0);
    free(bytes);
    free(expected);
    return status;
}

static void *write_all(void *argument)
{
    struct writer *writer = argument;
    for (uint64_t i = 0; i < EACH; i++)
        if (put_large(writer->store, writer->first_fid + i) == ENGINE_OK)
            writer->acknowledged |= 1u << i;
    return NULL;
}

static void write_at_once(engine_store *store, struct writer *writers)
{
    pthread_t threads[WRITERS];
    for (size_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){store, 1 + i * EACH, 0};
        CHECK(pthread_create(&threads[i], NULL, write_all, &writers[i]) == 0);
    }
    for (size_t i = 0; i < WRITERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* What was acknowledged is there, the rest is whole or absent. */
static void check_all(engine_store *store, const struct writer *writers)
{
    for (size_t i = 0; i < WRITERS; i++)
        for (uint64_t at = 0; at < EACH; at++) {
            int status = get_large(store, writers[i].first_fid + at);
            if ((writers[i].acknowledged >> at & 1) != 0)
                CHECK(status == ENGINE_OK);
            else
                CHECK(status == ENGINE_OK || status == ENGINE_NOT_FOUND);
        }
    check_sums(store);
}

/* Stores with more or fewer appenders read each other's volumes. */
void test_appenders(const struct test *test)
{
    static const uint32_t counts[] = {3, 1, 8, 2};
    engine_options options = options_of();
    engine_error error;
    struct writer writers[WRITERS];
    options.volume_size_first = options.volume_size_max = 64 << 20;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        engine_store *store;
        int removed;
        options.appenders = counts[i];
        CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
        if (i == 0) {
            write_at_once(store, writers);
            for (size_t each = 0; each < WRITERS; each++)
                CHECK(writers[each].acknowledged == (1u << EACH) - 1);
        }
        check_all(store, writers);
        for (uint64_t fid = 1000; fid < 1010; fid++) {
            CHECK(put_large(store, fid) == ENGINE_OK);
            CHECK(engine_delete(store, fid, &removed, &error) == ENGINE_OK && removed == 1);
        }
        CHECK(engine_close(store, &error) == ENGINE_OK);
        engine_free(store);
        if (i == 2)
            remove_checkpoints(test->directory);
    }
    options.appenders = 0;
    engine_store *refused;
    CHECK(engine_open(test->directory, &options, &refused, &error) == ENGINE_INVALID);
}

struct watch {
    pthread_t caller;
    atomic_uint by_caller;
};

static int watched_sync(void *context, int file)
{
    struct watch *watch = context;
    if (pthread_equal(watch->caller, pthread_self()))
        atomic_fetch_add(&watch->by_caller, 1);
    return io_system()->fdatasync(NULL, file);
}

/* While nobody else writes, no thread is woken: the caller writes and syncs itself. Before the appenders have begun to
 * wait for work they take it. */
void test_leading(const struct test *test)
{
    struct watch watch = {.caller = pthread_self()};
    struct engine_io table = *io_system();
    engine_options options = options_of();
    engine_error error;
    engine_store *store;
    uint64_t fid = 0;
    table.context = &watch;
    table.fdatasync = watched_sync;
    CHECK(store_open_on(&table, test->directory, &options, &store, &error) == ENGINE_OK);
    while (atomic_load(&watch.by_caller) == 0 && fid < 1000)
        CHECK(put_large(store, ++fid) == ENGINE_OK);
    CHECK(atomic_load(&watch.by_caller) > 0);
    unsigned before = atomic_load(&watch.by_caller);
    for (unsigned i = 0; i < 10; i++)
        CHECK(put_large(store, ++fid) == ENGINE_OK);
    CHECK(atomic_load(&watch.by_caller) > before);
    while (fid > 0)
        CHECK(get_large(store, fid--) == ENGINE_OK);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
}

/* A write or sync that fails while others write fails its whole batch, and nothing else. */
void test_large_faults(const struct test *test)
{
    static const enum fault_kind kinds[] = {FAULT_EIO_ONCE, FAULT_SYNC_ONCE, FAULT_SHORT, FAULT_POWER};
    engine_options options = options_of();
    engine_error error;
    options.volume_size_first = options.volume_size_max = 64 << 20;
    options.appenders = 2;
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++)
        for (uint64_t call = 1; call < 40; call += test->stride) {
            struct writer writers[WRITERS];
            engine_store *store;
            struct fault_io *fault = fault_io_new();
            empty_directory(test->directory);
            CHECK(store_open_on(fault_io_table(fault), test->directory, &options, &store, &error) == ENGINE_OK);
            fault_io_arm(fault, kinds[kind], call);
            write_at_once(store, writers);
            fault_io_disarm(fault);
            if (kinds[kind] == FAULT_POWER) {
                (void)engine_close(store, &error);
                engine_free(store);
                fault_io_crash(fault, call);
            } else {
                check_all(store, writers);
                (void)engine_close(store, &error);
                engine_free(store);
            }
            CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
            check_all(store, writers);
            engine_free(store);
            fault_io_free(fault);
        }
}
