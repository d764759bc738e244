#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_test.h"
#include "store.h"

#define LENGTH_MAX 262145

engine_options options_of(void)
{
    engine_options options = {
        .volume_size_first = 1 << 20,
        .volume_size_max = 2 << 20,
        .reserve_bytes = 0,
        .queue_bytes_max = 64 << 20,
        .checkpoint_bytes = 256 << 10,
        .checkpoint_s = 1000,
        .queue_timeout_s = 30,
        .appenders = 1,
        .sync = 1,
        .create = 1,
    };
    memset(options.cluster_id, 7, sizeof options.cluster_id);
    return options;
}

static size_t length_of(uint64_t fid)
{
    static const size_t lengths[] = {0, 1, 63, 4096, 5000, 70000, 3000, LENGTH_MAX, 17, 20000};
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

int put(engine_store *store, uint64_t fid, engine_error *error)
{
    uint8_t bytes[LENGTH_MAX]; /* memory may have run out */
    fill(bytes, fid);
    return engine_put(store, fid, bytes, length_of(fid), engine_crc32c(0, bytes, length_of(fid)), error);
}

int get(engine_store *store, uint64_t fid)
{
    engine_error error;
    size_t length = length_of(fid);
    uint8_t *expected = malloc(length + 1);
    uint8_t *bytes = malloc(length + 1);
    CHECK(expected != NULL && bytes != NULL);
    fill(expected, fid);
    int status = engine_read(store, fid, 0, bytes, length, NULL, &error);
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

void empty_directory(const char *directory)
{
    CHECK(nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

void check_sums(engine_store *store)
{
    engine_stats stats;
    engine_error error;
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.live_bytes + stats.dead_bytes + stats.pad_bytes + stats.volume_free_bytes == stats.volume_bytes);
}

struct one_put {
    engine_store *store;
    uint64_t fid;
    int status;
};

static void *put_one(void *argument)
{
    struct one_put *one = argument;
    engine_error error;
    one->status = put(one->store, one->fid, &error);
    return NULL;
}

/* Several at once, so that batches have several needles and a crash may keep any of them. */
static void put_together(engine_store *store, uint64_t first_fid, enum known *known)
{
    pthread_t threads[TOGETHER];
    struct one_put ones[TOGETHER];
    for (size_t i = 0; i < TOGETHER; i++) {
        ones[i] = (struct one_put){store, first_fid + i, 0};
        CHECK(pthread_create(&threads[i], NULL, put_one, &ones[i]) == 0);
    }
    for (size_t i = 0; i < TOGETHER; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        known[first_fid + i] = ones[i].status == ENGINE_OK ? STORED : MAYBE;
    }
}

void work(engine_store *store, enum known *known)
{
    engine_error error;
    int removed;
    for (uint64_t fid = 1; fid <= CHUNKS; fid++) {
        if (fid % TOGETHER == 1)
            put_together(store, fid, known);
        if (fid % 5 == 0) {
            uint64_t victim = fid - 3;
            int status = engine_delete(store, victim, &removed, &error);
            if (status == ENGINE_OK && removed)
                known[victim] = DELETED;
            else if (status != ENGINE_OK)
                known[victim] = MAYBE;
        }
        if (fid == CHUNKS / 2)
            (void)engine_checkpoint(store, &error);
    }
}

void check_promises(engine_store *store, const enum known *known)
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

static struct snapshot snapshot_of(engine_store *store)
{
    engine_chunk chunks[2 * CHUNKS];
    struct snapshot snapshot = {0, 0};
    engine_error error;
    size_t count;
    CHECK(engine_iterate(store, 0, chunks, 2 * CHUNKS, &count, &error) == ENGINE_OK);
    snapshot.chunks = count;
    for (size_t i = 0; i < count; i++) {
        snapshot.hash = snapshot.hash * 31 + chunks[i].fid;
        snapshot.hash = snapshot.hash * 31 + chunks[i].volume;
        snapshot.hash = snapshot.hash * 31 + chunks[i].offset;
    }
    return snapshot;
}

void remove_checkpoints(const char *directory)
{
    for (uint32_t id = 1; id < 200; id++) {
        char path[512];
        snprintf(path, sizeof path, "%s/v%08" PRIu32 ".ckp", directory, id);
        (void)unlink(path);
        snprintf(path, sizeof path, "%s/v%08" PRIu32 ".ckp.old", directory, id);
        (void)unlink(path);
    }
}

void check_after_fault(const char *directory, const enum known *known)
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
    CHECK(first.chunks == second.chunks && first.hash == second.hash);
    /* It must go on from here, and what recovery covered and cleared must not come up again. */
    for (uint64_t fid = 1000; fid < 1008; fid++)
        CHECK(put(store, fid, &error) == ENGINE_OK);
    engine_free(store);
    remove_checkpoints(directory);
    CHECK(engine_open(directory, &options, &store, &error) == ENGINE_OK);
    check_promises(store, known);
    for (uint64_t fid = 1000; fid < 1008; fid++)
        CHECK(get(store, fid) == ENGINE_OK);
    CHECK(snapshot_of(store).chunks == first.chunks + 8);
    engine_free(store);
}

uint64_t queued(engine_store *store)
{
    uint64_t count = 0;
    pthread_mutex_lock(&store->queue.lock);
    for (const struct put *put = store->queue.first; put != NULL; put = put->next)
        count++;
    pthread_mutex_unlock(&store->queue.lock);
    return count;
}
