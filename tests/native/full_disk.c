/* A batch that a full disk refuses whole is written one by one; its chunks stay in flight all the while. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "engine_test.h"
#include "store.h"

#define LARGE_BYTES ((size_t)2 << 20) /* more than a volume of this store has */
#define PAUSE_NS 1000000
#define PAUSES_MAX 20000

struct disk {
    struct engine_io io;
    engine_store *store;
    atomic_bool hold_sync;
    atomic_bool in_sync;
    atomic_bool full;
    unsigned refusals; /* the appender's */
    pthread_t rival;
    atomic_bool rival_ended;
    int rival_status;
};

static void pause_until(bool (*holds)(struct disk *disk, uint64_t value), struct disk *disk, uint64_t value)
{
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
    for (int i = 0; i < PAUSES_MAX; i++) {
        if (holds(disk, value))
            return;
        (void)nanosleep(&pause, NULL);
    }
    CHECK(false && "waited too long");
}

static bool has_queued(struct disk *disk, uint64_t count)
{
    return queued(disk->store) == count;
}

static bool is_syncing(struct disk *disk, uint64_t value)
{
    return value == atomic_load(&disk->in_sync);
}

static bool may_sync(struct disk *disk, uint64_t value)
{
    return value != atomic_load(&disk->hold_sync);
}

static bool rival_is_judged(struct disk *disk, uint64_t count)
{
    return atomic_load(&disk->rival_ended) || has_queued(disk, count);
}

/* Other bytes under the fid of the small chunk. */
static void *put_other_bytes(void *argument)
{
    struct disk *disk = argument;
    engine_error error;
    const uint8_t other[5000] = {1};
    disk->rival_status = engine_put(disk->store, 4, other, sizeof other, engine_crc32c(0, other, sizeof other), &error);
    atomic_store(&disk->rival_ended, true);
    return NULL;
}

static int slow_fdatasync(void *context, int file)
{
    struct disk *disk = context;
    atomic_store(&disk->in_sync, true);
    pause_until(may_sync, disk, true);
    return io_system()->fdatasync(NULL, file);
}

static int full_space(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct disk *disk = context;
    int result = io_system()->space(NULL, file, free_bytes, total_bytes);
    if (!atomic_load(&disk->full))
        return result;
    *free_bytes = 0;
    /* The first refusal is the batch's, the second the large chunk's own: the small one has still to be written. */
    if (pthread_equal(pthread_self(), disk->store->appenders[0].thread) && ++disk->refusals == 2) {
        CHECK(pthread_create(&disk->rival, NULL, put_other_bytes, disk) == 0);
        pause_until(rival_is_judged, disk, 1);
    }
    return result;
}

static void *put_first(void *argument)
{
    struct disk *disk = argument;
    engine_error error;
    CHECK(put(disk->store, 9, &error) == ENGINE_OK);
    return NULL;
}

static void *put_large(void *argument)
{
    struct disk *disk = argument;
    engine_error error;
    uint8_t *bytes = calloc(1, LARGE_BYTES);
    CHECK(bytes != NULL);
    CHECK(engine_put(disk->store, 11, bytes, LARGE_BYTES, engine_crc32c(0, bytes, LARGE_BYTES), &error) ==
          ENGINE_DISK_FULL);
    free(bytes);
    return NULL;
}

static void *put_small(void *argument)
{
    struct disk *disk = argument;
    engine_error error;
    CHECK(put(disk->store, 4, &error) == ENGINE_OK);
    return NULL;
}

/* A chunk whose turn has not come yet is found by whoever puts other bytes under its fid. */
void test_full_disk(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    pthread_t threads[3];
    struct disk disk = {.io = *io_system()};
    options.volume_size_max = options.volume_size_first;
    disk.io.context = &disk;
    disk.io.fdatasync = slow_fdatasync;
    disk.io.space = full_space;
    CHECK(store_open_on(&disk.io, test->directory, &options, &disk.store, &error) == ENGINE_OK);
    atomic_store(&disk.in_sync, false);
    atomic_store(&disk.hold_sync, true);
    CHECK(pthread_create(&threads[0], NULL, put_first, &disk) == 0);
    pause_until(is_syncing, &disk, true);
    CHECK(pthread_create(&threads[1], NULL, put_large, &disk) == 0);
    pause_until(has_queued, &disk, 1);
    CHECK(pthread_create(&threads[2], NULL, put_small, &disk) == 0);
    pause_until(has_queued, &disk, 2);
    atomic_store(&disk.full, true);
    atomic_store(&disk.hold_sync, false);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(disk.refusals >= 2);
    CHECK(pthread_join(disk.rival, NULL) == 0);
    CHECK(disk.rival_status == ENGINE_EXISTS);
    CHECK(get(disk.store, 4) == ENGINE_OK);
    atomic_store(&disk.full, false);
    engine_free(disk.store);
}
