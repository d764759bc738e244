/* Compaction beside everything else, and the races in it one by one. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compaction.h"
#include "engine_test.h"
#include "io.h"

#define ROUNDS 60
#define LIVE 60 /* fids that each writer keeps */
#define WRITERS 3
#define PAUSES_MAX 30000
#define RACED 5 /* a fid with 70000 bytes */
#define RACED_BYTES 70000

static const engine_compaction_terms EVERYTHING = {.below = 1};

struct crowd {
    engine_store *store;
    atomic_bool ended;
    unsigned number;
};

/* Keeps the last LIVE of its fids; all of these must be readable at any moment, all before must not. */
static void *write_and_delete(void *argument)
{
    struct crowd *crowd = argument;
    const uint64_t first = 1 + (uint64_t)crowd->number * 100000;
    engine_error error;
    int removed;
    for (uint64_t i = 0; i < ROUNDS * 10; i++) {
        CHECK(put(crowd->store, first + i, &error) == ENGINE_OK);
        if (i >= LIVE) {
            CHECK(engine_delete(crowd->store, first + i - LIVE, &removed, &error) == ENGINE_OK && removed == 1);
            CHECK(get(crowd->store, first + i - LIVE) == ENGINE_NOT_FOUND);
        }
        uint64_t back = i < LIVE ? i : LIVE - 1;
        CHECK(get(crowd->store, first + i - i * 7 % (back + 1)) == ENGINE_OK);
    }
    return NULL;
}

static void *compact_always(void *argument)
{
    struct crowd *crowd = argument;
    engine_error error;
    engine_compaction report;
    while (!atomic_load(&crowd->ended)) {
        CHECK(engine_checkpoint(crowd->store, &error) == ENGINE_OK);
        CHECK(engine_compact(crowd->store, &EVERYTHING, &report, &error) == ENGINE_OK);
        CHECK(report.volumes_damaged == 0);
        engine_stats stats;
        CHECK(engine_stat(crowd->store, &stats, &error) == ENGINE_OK);
    }
    return NULL;
}

static void check_crowd(engine_store *store)
{
    for (uint64_t writer = 0; writer < WRITERS; writer++)
        for (uint64_t i = 0; i < ROUNDS * 10; i++)
            CHECK(get(store, 1 + writer * 100000 + i) == (i < ROUNDS * 10 - LIVE ? ENGINE_NOT_FOUND : ENGINE_OK));
    check_sums(store);
}

void test_compaction(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    engine_stats stats;
    pthread_t threads[WRITERS + 1];
    struct crowd crowds[WRITERS + 1];
    engine_store *store;
    options.appenders = 2;
    options.compact_below = 0.9; /* the thread joins in */
    options.compact_every_s = 0.05;
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    for (unsigned i = 0; i <= WRITERS; i++) {
        crowds[i].store = store;
        crowds[i].number = i;
        atomic_init(&crowds[i].ended, false);
        CHECK(pthread_create(&threads[i], NULL, i < WRITERS ? write_and_delete : compact_always, &crowds[i]) == 0);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    atomic_store(&crowds[WRITERS].ended, true);
    CHECK(pthread_join(threads[WRITERS], NULL) == 0);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.compactions > 0 && stats.compaction_failures == 0);
    CHECK(stats.fid_max == (WRITERS - 1) * 100000 + ROUNDS * 10);
    check_crowd(store);
    for (int reopened = 0; reopened < 2; reopened++) {
        CHECK(engine_close(store, &error) == ENGINE_OK);
        engine_free(store);
        if (reopened == 1)
            remove_checkpoints(test->directory);
        CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
        check_crowd(store);
        CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
        CHECK(stats.fid_max == (WRITERS - 1) * 100000 + ROUNDS * 10 && stats.damaged_records == 0);
    }
    engine_free(store);
}

/* An I/O table in which something happens while the MANIFEST is synced. */
struct race {
    struct engine_io io;
    engine_store *store;
    const char *directory;
    pthread_t repair;
    struct chunk_place before;
    atomic_bool armed;
    int put_status;
};

static void *repair(void *argument)
{
    struct race *race = argument;
    engine_error error;
    race->put_status = put(race->store, RACED, &error);
    return NULL;
}

/* The commit: a repair publishes the chunk elsewhere and then waits for the compaction to bury what it replaced. */
static int sync_and_race(void *context, int file)
{
    struct race *race = context;
    if (race->store != NULL && file == race->store->manifest.file && atomic_exchange(&race->armed, false)) {
        const struct timespec pause = {.tv_nsec = 1000000};
        struct chunk_place now = race->before;
        CHECK(pthread_create(&race->repair, NULL, repair, race) == 0);
        for (int i = 0; i < PAUSES_MAX && now.slot == race->before.slot; i++) {
            CHECK(chunk_index_get(race->store->index, RACED, &now, NULL, NULL));
            (void)nanosleep(&pause, NULL);
        }
        CHECK(now.slot != race->before.slot);
    }
    return io_system()->fsync(NULL, file);
}

static void flip(const char *directory, const engine_chunk *chunk, uint64_t at)
{
    char name[VOLUME_NAME_BYTES];
    char path[4096];
    uint8_t byte;
    volume_name(name, chunk->volume, ".dat");
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    int file = open(path, O_RDWR | O_CLOEXEC);
    CHECK(file >= 0);
    CHECK(pread(file, &byte, 1, (off_t)(chunk->offset + at)) == 1);
    byte ^= 1;
    CHECK(pwrite(file, &byte, 1, (off_t)(chunk->offset + at)) == 1);
    CHECK(close(file) == 0);
}

/* Everything is copied: the old copy goes bad, so that a put repairs it. */
static bool damage_and_arm(void *argument, uint64_t bytes)
{
    struct race *race = argument;
    engine_chunk chunk;
    engine_error error;
    if (bytes > 0 && race->before.fid == 0) {
        CHECK(chunk_index_get(race->store->index, RACED, &race->before, NULL, NULL));
        CHECK(engine_info(race->store, RACED, &chunk, &error) == ENGINE_OK);
        flip(race->directory, &chunk, RACED_BYTES / 2);
        atomic_store(&race->armed, true);
    }
    return true;
}

static void fill_and_seal(engine_store *store)
{
    engine_error error;
    int removed;
    for (uint64_t fid = 1; fid <= 2 * CHUNKS; fid++)
        CHECK(put(store, fid, &error) == ENGINE_OK);
    for (uint64_t fid = 1; fid <= 2 * CHUNKS; fid++)
        if (fid % 3 != 2)
            CHECK(engine_delete(store, fid, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
}

static int run_once(engine_store *store, bool (*go_on)(void *, uint64_t), void *argument, engine_compaction *report)
{
    engine_error error;
    struct compaction_terms terms = {.below = 1, .slots_end = UINT32_MAX, .go_on = go_on, .argument = argument};
    bool found;
    memset(report, 0, sizeof *report);
    return compaction_run(store, &terms, report, &found, &error);
}

void test_compaction_repair(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    engine_compaction report;
    int removed;
    struct race race = {.io = *io_system(), .directory = test->directory};
    race.io.context = &race;
    race.io.fsync = sync_and_race;
    options.volume_size_max = options.volume_size_first;
    atomic_init(&race.armed, false);
    engine_store *store;
    CHECK(store_open_on(&race.io, test->directory, &options, &store, &error) == ENGINE_OK);
    race.store = store;
    fill_and_seal(store);
    CHECK(run_once(store, damage_and_arm, &race, &report) == ENGINE_OK);
    CHECK(report.volumes_made == 1 && !atomic_load(&race.armed) && race.before.fid == RACED);
    CHECK(pthread_join(race.repair, NULL) == 0);
    CHECK(race.put_status == ENGINE_OK);
    CHECK(get(store, RACED) == ENGINE_OK);
    /* Its copy in the new volume is on record as dead: a delete of the other one is the last word. */
    CHECK(engine_delete(store, RACED, &removed, &error) == ENGINE_OK && removed == 1);
    check_sums(store);
    engine_free(store);
    remove_checkpoints(test->directory);
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(get(store, RACED) == ENGINE_NOT_FOUND);
    check_sums(store);
    engine_free(store);
}

/* Longer than what is read and written at once, so that a copy is given up when a part of it is on the disk already. */
static void put_large(engine_store *store, uint64_t fid, size_t length)
{
    engine_error error;
    uint8_t *bytes = malloc(length);
    CHECK(bytes != NULL);
    memset(bytes, (int)(fid % 251), length);
    CHECK(engine_put(store, fid, bytes, length, engine_crc32c(0, bytes, length), &error) == ENGINE_OK);
    free(bytes);
}

static int get_large(engine_store *store, uint64_t fid, size_t length)
{
    engine_error error;
    uint8_t *bytes = malloc(length);
    CHECK(bytes != NULL);
    int status = engine_read(store, fid, 0, bytes, length, NULL, &error);
    for (size_t i = 0; i < length && status == ENGINE_OK; i++)
        CHECK(bytes[i] == fid % 251);
    free(bytes);
    return status;
}

#define LARGE_BYTES ((size_t)9 << 20)
#define LARGE_FIDS 12 /* three to a volume */

static bool always(void *argument, uint64_t bytes)
{
    (void)argument;
    (void)bytes;
    return true;
}

/* A volume with a damaged chunk stays, the others go; when the chunk is gone, so is what kept the volume. */
void test_compaction_damage(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    engine_compaction report;
    engine_chunk chunk;
    engine_store *store;
    int removed;
    options.volume_size_first = options.volume_size_max = 32 << 20;
    options.queue_bytes_max = 128 << 20;
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    for (uint64_t fid = 1; fid <= LARGE_FIDS; fid++) {
        put_large(store, fid, LARGE_BYTES + (size_t)fid * 1000);
        put_large(store, 100 + fid, 6000);
    }
    for (uint64_t fid = 1; fid <= LARGE_FIDS; fid++)
        CHECK(engine_delete(store, 100 + fid, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    options.volume_size_max = 256 << 20; /* all go into one */
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(engine_info(store, 6, &chunk, &error) == ENGINE_OK);
    flip(test->directory, &chunk, LARGE_BYTES - 1000);
    uint32_t volume = chunk.volume;
    engine_chunk first;
    CHECK(engine_info(store, 1, &first, &error) == ENGINE_OK && first.volume != volume);
    CHECK(run_once(store, always, NULL, &report) == ENGINE_OK);
    CHECK(report.volumes_made == 1 && report.volumes_removed == 2 && compaction_count_damaged(store, false) == 1);
    CHECK(get_large(store, 6, LARGE_BYTES + 6000) == ENGINE_CORRUPT);
    CHECK(engine_info(store, 6, &chunk, &error) == ENGINE_OK && chunk.volume == volume);
    CHECK(engine_info(store, 1, &chunk, &error) == ENGINE_OK && chunk.volume != first.volume);
    for (int round = 0; round < 2; round++) {
        for (uint64_t fid = 1; fid <= LARGE_FIDS; fid++)
            if (fid != 6)
                CHECK(get_large(store, fid, LARGE_BYTES + (size_t)fid * 1000) == ENGINE_OK);
        check_sums(store);
        CHECK(engine_close(store, &error) == ENGINE_OK);
        engine_free(store);
        if (round == 1)
            remove_checkpoints(test->directory);
        CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    }
    CHECK(engine_compact(store, &EVERYTHING, &report, &error) == ENGINE_OK);
    CHECK(report.volumes_damaged == 1);
    CHECK(engine_info(store, 6, &chunk, &error) == ENGINE_OK && chunk.volume == volume);
    CHECK(engine_delete(store, 6, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_compact(store, &EVERYTHING, &report, &error) == ENGINE_OK);
    CHECK(report.volumes_damaged == 0 && report.volumes_removed >= 1);
    for (uint64_t fid = 1; fid <= LARGE_FIDS; fid++)
        CHECK(get_large(store, fid, LARGE_BYTES + (size_t)fid * 1000) == (fid == 6 ? ENGINE_NOT_FOUND : ENGINE_OK));
    engine_free(store);
}
