/* What a store does when it runs out of something that comes back or never does: descriptors, space while it is opened, ids
 * for volumes. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "engine_test.h"
#include "store.h"

/* An I/O table in which files whose names end like this cannot be opened, or not be written. */
struct refusal {
    struct engine_io io;
    const char *suffix; /* NULL: nothing is refused */
    int open_errno;     /* 0: they can be opened */
    int write_errno;
    int file; /* the last of them that was opened */
};

static bool is_refused(const struct refusal *refusal, const char *name)
{
    size_t length = strlen(name);
    size_t suffix = refusal->suffix != NULL ? strlen(refusal->suffix) : 0;
    return refusal->suffix != NULL && length >= suffix && strcmp(name + length - suffix, refusal->suffix) == 0;
}

static int open_or_refuse(void *context, int directory, const char *name, int flags)
{
    struct refusal *refusal = context;
    bool refused = is_refused(refusal, name);
    if (refused && refusal->open_errno != 0) {
        errno = refusal->open_errno;
        return -1;
    }
    int file = io_system()->open(NULL, directory, name, flags);
    if (refused)
        refusal->file = file;
    return file;
}

static ssize_t write_or_refuse(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    const struct refusal *refusal = context;
    if (refusal->suffix != NULL && refusal->write_errno != 0 && file == refusal->file) {
        errno = refusal->write_errno;
        return -1;
    }
    return io_system()->pwritev(NULL, file, parts, count, offset);
}

static struct refusal no_refusal(void)
{
    struct refusal refusal = {.io = *io_system(), .file = -1};
    refusal.io.open = open_or_refuse;
    refusal.io.pwritev = write_or_refuse;
    return refusal;
}

static engine_store *open_on(struct refusal *refusal, const char *directory, int *status)
{
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    refusal->io.context = refusal;
    *status = store_open_on(&refusal->io, directory, &options, &store, &error);
    return store;
}

static void close_all(engine_store *store)
{
    engine_error error;
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
}

static void make_store(const char *directory)
{
    struct refusal none = no_refusal();
    engine_error error;
    int status;
    empty_directory(directory);
    engine_store *store = open_on(&none, directory, &status);
    CHECK(status == ENGINE_OK);
    for (uint64_t fid = 1; fid <= CHUNKS; fid++)
        CHECK(put(store, fid, &error) == ENGINE_OK);
    close_all(store);
}

static engine_stats stats_of(engine_store *store)
{
    engine_stats stats;
    engine_error error;
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    return stats;
}

/* Everything is there, nothing counts as failed, and new chunks are taken. */
static void check_sound(const char *directory, uint64_t new_fid)
{
    struct refusal none = no_refusal();
    engine_error error;
    int status;
    engine_store *store = open_on(&none, directory, &status);
    CHECK(status == ENGINE_OK);
    for (uint64_t fid = 1; fid <= CHUNKS; fid++)
        CHECK(get(store, fid) == ENGINE_OK);
    CHECK(put(store, new_fid, &error) == ENGINE_OK && get(store, new_fid) == ENGINE_OK);
    engine_stats stats = stats_of(store);
    CHECK(stats.volumes_failed == 0 && stats.volumes_quarantined == 0 && stats.state == ENGINE_STATE_RW);
    close_all(store);
}

static void fill_volumes(engine_store *store, uint64_t from_fid, uint32_t volumes, int expected)
{
    engine_error error;
    int status = ENGINE_OK;
    for (uint64_t fid = from_fid; fid < from_fid + 1000 && stats_of(store).volumes < volumes; fid++)
        if ((status = put(store, fid, &error)) != ENGINE_OK)
            break;
    CHECK(status == expected);
}

/* A process that has too many files open loses no volume by it, calls nothing damaged and goes on when it has fewer. */
void test_no_descriptors(const struct test *test)
{
    static const char *const needed[] = {"v00000001.dat", "v00000001.del", "MANIFEST"};
    engine_error error;
    engine_scrub told;
    int status;
    int removed;
    make_store(test->directory);
    struct refusal refusal = no_refusal();
    engine_store *store = open_on(&refusal, test->directory, &status);
    CHECK(status == ENGINE_OK && engine_delete(store, CHUNKS, &removed, &error) == ENGINE_OK);
    CHECK(put(store, CHUNKS, &error) == ENGINE_OK);
    close_all(store);

    refusal.open_errno = EMFILE;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        refusal.suffix = needed[i];
        (void)open_on(&refusal, test->directory, &status);
        CHECK(status != ENGINE_OK); /* not a store that lacks a volume */
    }
    refusal.suffix = NULL;
    store = open_on(&refusal, test->directory, &status);
    CHECK(status == ENGINE_OK);

    refusal.suffix = ".dat";
    CHECK(engine_scrub_start(store, &error) == ENGINE_OK);
    CHECK(engine_scrub_step(store, UINT64_MAX, 0, &told, &error) == ENGINE_NO_MEMORY);
    CHECK(told.active && told.checked_chunks == 0 && stats_of(store).scrub_damaged == 0);
    refusal.suffix = NULL;
    CHECK(engine_scrub_step(store, UINT64_MAX, 0, &told, &error) == ENGINE_OK);
    CHECK(!told.active && told.checked_chunks == CHUNKS && told.damaged == 0);

    refusal.suffix = ".dat.tmp";
    for (int tries = 0; tries < 2 * VOLUME_FAILURES_MAX; tries++)
        fill_volumes(store, 1000 * (uint64_t)(tries + 1), stats_of(store).volumes + 2, ENGINE_BUSY);
    refusal.suffix = NULL;
    fill_volumes(store, 100000, stats_of(store).volumes + 1, ENGINE_OK);
    CHECK(stats_of(store).state == ENGINE_STATE_RW);
    close_all(store);
    check_sound(test->directory, 200000);
}

/* The first record once more, so that the file is as long as that. */
static void repeat_far_behind(const char *path, off_t offset)
{
    uint8_t record[256];
    int file = open(path, O_RDWR | O_CLOEXEC);
    CHECK(file >= 0 && pread(file, record, sizeof record, 0) == (ssize_t)sizeof record);
    CHECK(pwrite(file, record, sizeof record, offset) == (ssize_t)sizeof record && close(file) == 0);
}

/* No space while the store is opened: what would be tidied up can wait, and what could not be recorded has not failed. */
void test_full_while_opening(const struct test *test)
{
    char path[4096];
    engine_error error;
    int status;
    make_store(test->directory);
    CHECK(snprintf(path, sizeof path, "%s/MANIFEST", test->directory) < (int)sizeof path);
    repeat_far_behind(path, 4 << 20); /* mostly alignment: to be rewritten */
    struct refusal refusal = no_refusal();
    refusal.suffix = "MANIFEST.tmp";
    refusal.write_errno = ENOSPC;
    engine_store *store = open_on(&refusal, test->directory, &status);
    CHECK(status == ENGINE_OK && stats_of(store).state == ENGINE_STATE_RW);
    fill_volumes(store, 1000, stats_of(store).volumes + 1, ENGINE_OK);
    close_all(store);
    check_sound(test->directory, 2000);

    CHECK(unlink(path) == 0); /* as if its records had been damaged */
    refusal.suffix = "MANIFEST";
    store = open_on(&refusal, test->directory, &status);
    CHECK(status == ENGINE_OK && stats_of(store).volumes_failed > 0);
    for (uint64_t fid = 1; fid <= CHUNKS; fid++)
        CHECK(get(store, fid) == ENGINE_OK);
    refusal.suffix = NULL; /* there is space again: all that is due is recorded now */
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    close_all(store);
    check_sound(test->directory, 3000);
}

/* A file that took the last id, whoever put it there, ends the making of volumes: one more would not be found again. */
void test_no_ids(const struct test *test)
{
    char path[4096];
    engine_error error;
    int status;
    struct refusal none = no_refusal();
    make_store(test->directory);
    CHECK(snprintf(path, sizeof path, "%s/v%08u.ckp", test->directory, UINT32_MAX - 1) < (int)sizeof path);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0 && close(file) == 0);
    /* It belongs to no volume and is removed, but its id is not given again. */
    engine_store *store = open_on(&none, test->directory, &status);
    CHECK(status == ENGINE_OK);
    bool stored[1000] = {false};
    int refused = ENGINE_OK;
    for (uint64_t fid = CHUNKS + 1; fid < 1000 && refused == ENGINE_OK; fid++) {
        refused = put(store, fid, &error);
        stored[fid] = refused == ENGINE_OK;
    }
    CHECK(refused == ENGINE_FAILED && stats_of(store).state == ENGINE_STATE_FAILED);
    close_all(store);
    store = open_on(&none, test->directory, &status);
    CHECK(status == ENGINE_OK);
    for (uint64_t fid = 1; fid < 1000; fid++)
        CHECK(get(store, fid) == (fid <= CHUNKS || stored[fid] ? ENGINE_OK : ENGINE_NOT_FOUND));
    close_all(store);
}

static int refuse_data(void *context, int file, uint64_t offset, uint64_t *data)
{
    const struct refusal *refusal = context;
    errno = EIO;
    return file == refusal->file ? -1 : io_system()->seek_data(NULL, file, offset, data);
}

static int refuse_hole(void *context, int file, uint64_t offset, uint64_t *hole)
{
    const struct refusal *refusal = context;
    errno = EIO;
    return file == refusal->file ? -1 : io_system()->seek_hole(NULL, file, offset, hole);
}

/* I6: a file system that does not tell where a delete log has data does not make it shorter. */
void test_unknown_holes(const struct test *test)
{
    engine_error error;
    int status;
    int removed;
    make_store(test->directory);
    struct refusal refusal = no_refusal();
    engine_store *store = open_on(&refusal, test->directory, &status);
    CHECK(status == ENGINE_OK && engine_delete(store, 1, &removed, &error) == ENGINE_OK && removed == 1);
    close_all(store);
    refusal.suffix = "v00000001.del";
    for (int round = 0; round < 2; round++) {
        remove_checkpoints(test->directory);
        refusal.io.seek_data = round == 0 ? refuse_data : io_system()->seek_data;
        refusal.io.seek_hole = round == 0 ? io_system()->seek_hole : refuse_hole;
        store = open_on(&refusal, test->directory, &status);
        CHECK(status == ENGINE_OK && get(store, 1) == ENGINE_NOT_FOUND && get(store, 2) == ENGINE_OK);
        close_all(store);
    }
}

/* Counts the syncs of the store's directory. */
struct counted {
    struct engine_io io;
    engine_store *store;
    unsigned syncs;
};

static int count_sync(void *context, int file)
{
    struct counted *counted = context;
    if (counted->store != NULL && file == counted->store->directory)
        counted->syncs++;
    return io_system()->fsync(NULL, file);
}

/* I6: a volume is away, and so is its delete log. The one that is made anew has a durable name before the delete counts. */
void test_new_delete_log(const struct test *test)
{
    struct counted counted = {.io = *io_system()};
    engine_options options = options_of();
    engine_error error;
    char volume[4096];
    char log[4096];
    int removed;
    make_store(test->directory);
    CHECK(snprintf(volume, sizeof volume, "%s/v00000001.dat", test->directory) < (int)sizeof volume);
    CHECK(snprintf(log, sizeof log, "%s/v00000001.del", test->directory) < (int)sizeof log);
    CHECK(unlink(volume) == 0 && unlink(log) == 0);
    counted.io.context = &counted;
    counted.io.fsync = count_sync;
    CHECK(store_open_on(&counted.io, test->directory, &options, &counted.store, &error) == ENGINE_OK);
    CHECK(counted.syncs == 0 && access(log, F_OK) != 0);
    CHECK(engine_delete(counted.store, 1, &removed, &error) == ENGINE_OK && removed == 0);
    CHECK(access(log, F_OK) == 0 && counted.syncs > 0);
    close_all(counted.store);
}
