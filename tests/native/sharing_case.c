/* How appenders share the queue and the disk: large chunks go to several volumes at once, small ones share a sync, and what
 * was taken ahead for one volume is there for whoever needs it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_test.h"
#include "store.h"

#define APPENDERS 4
#define LARGE_BYTES ((size_t)3 << 20)
#define SMALL_CHUNKS 12
#define PAUSE_NS 1000000
#define PAUSES_MAX 20000
#define DISK_BYTES ((uint64_t)48 << 20)
#define DISK_CHUNK_BYTES ((size_t)1500000)
#define DISK_PUTTERS 6
#define DISK_FILLED_PERCENT 80

struct world {
    struct engine_io io;
    engine_store *store;
    atomic_uint in_sync;
    atomic_uint sync_opens_at; /* that many at once; 0: never hold */
    atomic_llong taken_bytes;
    atomic_uint next_fid;
    atomic_uint stored;
};

static void pause_a_moment(void)
{
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
    (void)nanosleep(&pause, NULL);
}

static int held_fdatasync(void *context, int file)
{
    struct world *world = context;
    atomic_fetch_add(&world->in_sync, 1);
    for (int i = 0; i < PAUSES_MAX; i++) {
        unsigned opens_at = atomic_load(&world->sync_opens_at);
        if (opens_at == 0)
            break;
        if (atomic_load(&world->in_sync) >= opens_at) {
            atomic_store(&world->sync_opens_at, 0);
            break;
        }
        CHECK(i + 1 < PAUSES_MAX);
        pause_a_moment();
    }
    return io_system()->fdatasync(NULL, file);
}

struct one {
    struct world *world;
    uint64_t fid;
    size_t length;
    int status;
};

static void *put_one(void *argument)
{
    struct one *one = argument;
    engine_error error;
    uint8_t *bytes = calloc(1, one->length);
    CHECK(bytes != NULL);
    one->status = engine_put(one->world->store, one->fid, bytes, one->length, engine_crc32c(0, bytes, one->length), &error);
    free(bytes);
    return NULL;
}

static void open_world(struct world *world, const char *directory, engine_options *options)
{
    engine_error error;
    world->io = *io_system();
    world->io.context = world;
    world->io.fdatasync = held_fdatasync;
    options->appenders = APPENDERS;
    CHECK(store_open_on(&world->io, directory, options, &world->store, &error) == ENGINE_OK);
}

/* No sync returns before all appenders are in one: each has a volume of its own. */
static void check_large_ones_are_shared_out(struct world *world)
{
    pthread_t threads[APPENDERS];
    struct one ones[APPENDERS];
    engine_chunk chunk;
    engine_error error;
    uint32_t volumes[APPENDERS];
    atomic_store(&world->in_sync, 0);
    atomic_store(&world->sync_opens_at, APPENDERS);
    for (unsigned i = 0; i < APPENDERS; i++) {
        /* fids that are equal modulo the number of appenders */
        ones[i] = (struct one){world, 1 + (uint64_t)i * APPENDERS, LARGE_BYTES, 0};
        CHECK(pthread_create(&threads[i], NULL, put_one, &ones[i]) == 0);
    }
    for (unsigned i = 0; i < APPENDERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(ones[i].status == ENGINE_OK);
        CHECK(engine_info(world->store, ones[i].fid, &chunk, &error) == ENGINE_OK);
        volumes[i] = chunk.volume;
        for (unsigned before = 0; before < i; before++)
            CHECK(volumes[before] != volumes[i]);
    }
}

/* While one small chunk is synced the others gather, though three appenders have nothing to do. */
static void check_small_ones_share_a_sync(struct world *world)
{
    pthread_t threads[SMALL_CHUNKS];
    struct one ones[SMALL_CHUNKS];
    engine_stats before;
    engine_stats after;
    engine_error error;
    CHECK(engine_stat(world->store, &before, &error) == ENGINE_OK);
    atomic_store(&world->in_sync, 0);
    atomic_store(&world->sync_opens_at, UINT32_MAX);
    for (unsigned i = 0; i < SMALL_CHUNKS; i++) {
        ones[i] = (struct one){world, 1000 + i, 4096, 0};
        CHECK(pthread_create(&threads[i], NULL, put_one, &ones[i]) == 0);
        for (int pauses = 0; i == 0 && atomic_load(&world->in_sync) == 0; pauses++) {
            CHECK(pauses < PAUSES_MAX);
            pause_a_moment();
        }
    }
    for (int pauses = 0; queued(world->store) < SMALL_CHUNKS - 1; pauses++) {
        CHECK(pauses < PAUSES_MAX);
        pause_a_moment();
    }
    atomic_store(&world->sync_opens_at, 0);
    for (unsigned i = 0; i < SMALL_CHUNKS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(ones[i].status == ENGINE_OK);
    }
    CHECK(engine_stat(world->store, &after, &error) == ENGINE_OK);
    CHECK(after.appends - before.appends == SMALL_CHUNKS);
    CHECK(after.batches - before.batches == 2);
}

void test_sharing(const struct test *test)
{
    engine_options options = options_of();
    struct world world = {.store = NULL};
    options.volume_size_first = options.volume_size_max = 64 << 20;
    open_world(&world, test->directory, &options);
    check_large_ones_are_shared_out(&world);
    check_small_ones_share_a_sync(&world);
    engine_free(world.store);
}

/* A small disk: what files take counts, and there is no more. */
static int counted_fallocate(void *context, int file, int mode, uint64_t offset, uint64_t length)
{
    struct world *world = context;
    uint64_t before = 0;
    uint64_t after = 0;
    CHECK(io_system()->allocated(NULL, file, &before) == 0);
    int result = io_system()->fallocate(NULL, file, mode, offset, length);
    CHECK(io_system()->allocated(NULL, file, &after) == 0);
    atomic_fetch_add(&world->taken_bytes, (long long)after - (long long)before);
    return result;
}

static int counted_space(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct world *world = context;
    long long left = (long long)DISK_BYTES - atomic_load(&world->taken_bytes);
    (void)file;
    *total_bytes = DISK_BYTES;
    *free_bytes = left > 0 ? (uint64_t)left : 0;
    return 0;
}

static void *fill_disk(void *argument)
{
    struct world *world = argument;
    for (;;) {
        struct one one = {world, atomic_fetch_add(&world->next_fid, 1), DISK_CHUNK_BYTES, 0};
        (void)put_one(&one);
        if (one.status == ENGINE_DISK_FULL)
            return NULL;
        CHECK(one.status == ENGINE_OK);
        atomic_fetch_add(&world->stored, 1);
    }
}

/* However many write at once, a disk is full only when it is; and each chunk that goes makes room for another. */
void test_small_disk(const struct test *test)
{
    engine_options options = options_of();
    engine_stats stats;
    engine_error error;
    pthread_t threads[DISK_PUTTERS];
    struct world world = {.store = NULL};
    int removed;
    options.volume_size_first = 64 << 20;
    options.volume_size_max = 1 << 30;
    options.reserve_bytes = UINT64_MAX;
    options.appenders = APPENDERS;
    world.io = *io_system();
    world.io.context = &world;
    world.io.fallocate = counted_fallocate;
    world.io.space = counted_space;
    CHECK(store_open_on(&world.io, test->directory, &options, &world.store, &error) == ENGINE_OK);
    atomic_store(&world.next_fid, 1);
    CHECK(engine_stat(world.store, &stats, &error) == ENGINE_OK);
    CHECK(stats.reserve_bytes == DISK_BYTES / 16);
    for (int i = 0; i < DISK_PUTTERS; i++)
        CHECK(pthread_create(&threads[i], NULL, fill_disk, &world) == 0);
    for (int i = 0; i < DISK_PUTTERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    uint64_t stored = atomic_load(&world.stored) * DISK_CHUNK_BYTES;
    if (stored < DISK_BYTES / 100 * DISK_FILLED_PERCENT)
        fprintf(stderr, "%llu bytes stored\n", (unsigned long long)stored);
    CHECK(stored >= DISK_BYTES / 100 * DISK_FILLED_PERCENT);
    CHECK(engine_stat(world.store, &stats, &error) == ENGINE_OK);
    CHECK(stats.state == ENGINE_STATE_RO_FULL);
    for (uint64_t fid = 1; fid <= 3; fid++)
        CHECK(engine_delete(world.store, fid, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(world.store, &error) == ENGINE_OK);
    CHECK(engine_stat(world.store, &stats, &error) == ENGINE_OK);
    CHECK(stats.state == ENGINE_STATE_RW);
    struct one again = {&world, 5000, DISK_CHUNK_BYTES, 0};
    (void)put_one(&again);
    CHECK(again.status == ENGINE_OK);
    check_sums(world.store);
    engine_free(world.store);
}
