/* A chunk is deleted while a put repairs it. */
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "engine_test.h"
#include "store.h"

#define FID 5
#define LENGTH 70000 /* of the chunk FID */
#define LOOKS_MAX 30000
#define NO_DELETE_LOOKS 300

struct call {
    pthread_t thread;
    engine_store *store;
    int status;
    int removed;
};

static void *repair(void *argument)
{
    struct call *call = argument;
    engine_error error;
    call->status = put(call->store, FID, &error);
    return NULL;
}

static void *delete(void *argument)
{
    struct call *call = argument;
    engine_error error;
    call->status = engine_delete(call->store, FID, &call->removed, &error);
    return NULL;
}

static void damage(const char *directory, const engine_chunk *chunk)
{
    char name[VOLUME_NAME_BYTES];
    char path[4096];
    uint8_t byte;
    volume_name(name, chunk->volume, ".dat");
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    int file = open(path, O_RDWR | O_CLOEXEC);
    off_t place = (off_t)chunk->offset + LENGTH / 2;
    CHECK(file >= 0);
    CHECK(pread(file, &byte, 1, place) == 1);
    byte ^= 1;
    CHECK(pwrite(file, &byte, 1, place) == 1);
    CHECK(close(file) == 0);
}

static size_t waiting(struct delete_queue *queue)
{
    /* A request begins with the link to the next one. */
    size_t count = 0;
    pthread_mutex_lock(&queue->lock);
    for (void *request = queue->first; request != NULL; request = *(void **)request)
        count++;
    pthread_mutex_unlock(&queue->lock);
    return count;
}

static void pause_1_ms(void)
{
    struct timespec time = {.tv_nsec = 1000000};
    (void)nanosleep(&time, NULL);
}

/* I6: the delete may be acknowledged only when the damaged copy is on record as dead. This thread plays the caller that
 * records deletes for all, so that nothing gets on record while it looks. */
void test_repair(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    engine_chunk chunk;
    struct call put_call = {0};
    struct call delete_call = {0};
    engine_store *store;
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(put(store, FID, &error) == ENGINE_OK);
    CHECK(engine_info(store, FID, &chunk, &error) == ENGINE_OK);
    damage(test->directory, &chunk);
    CHECK(get(store, FID) == ENGINE_CORRUPT);
    struct delete_queue *queue = &store->deletes;
    pthread_mutex_lock(&queue->lock);
    queue->led = true;
    pthread_mutex_unlock(&queue->lock);

    put_call.store = delete_call.store = store;
    CHECK(pthread_create(&put_call.thread, NULL, repair, &put_call) == 0);
    for (int look = 0; look < LOOKS_MAX && waiting(queue) == 0; look++)
        pause_1_ms();
    CHECK(waiting(queue) == 1); /* the new copy is readable, the old one waits to be recorded as dead */
    CHECK(get(store, FID) == ENGINE_OK);
    CHECK(pthread_create(&delete_call.thread, NULL, delete, &delete_call) == 0);
    for (int look = 0; look < NO_DELETE_LOOKS; look++) {
        CHECK(waiting(queue) == 1);
        pause_1_ms();
    }

    pthread_mutex_lock(&queue->lock);
    queue->led = false;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    CHECK(pthread_join(put_call.thread, NULL) == 0);
    CHECK(pthread_join(delete_call.thread, NULL) == 0);
    CHECK(put_call.status == ENGINE_OK);
    CHECK(delete_call.status == ENGINE_OK && delete_call.removed == 1);
    CHECK(get(store, FID) == ENGINE_NOT_FOUND);
    engine_free(store);
    remove_checkpoints(test->directory);
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(get(store, FID) == ENGINE_NOT_FOUND);
    check_sums(store);
    engine_free(store);
}

/* What a put answers whose repair could not record the damaged copy as dead. */
static void repair_without_record(const char *directory, engine_chunk *copies)
{
    engine_options options = options_of();
    engine_error error;
    engine_store *store;
    int removed;
    empty_directory(directory);
    CHECK(engine_open(directory, &options, &store, &error) == ENGINE_OK);
    CHECK(put(store, FID, &error) == ENGINE_OK);
    CHECK(engine_info(store, FID, &copies[0], &error) == ENGINE_OK);
    damage(directory, &copies[0]);
    struct volume *volume = volumes_get(store, 0);
    pthread_mutex_lock(&volume->delete_lock);
    volume->delete_failed = true;
    pthread_mutex_unlock(&volume->delete_lock);
    CHECK(put(store, FID, &error) == ENGINE_FAILED);
    CHECK(get(store, FID) == ENGINE_OK);
    CHECK(engine_info(store, FID, &copies[1], &error) == ENGINE_OK);
    CHECK(engine_delete(store, FID, &removed, &error) == ENGINE_FAILED); /* it would bring the damaged copy back */
    (void)engine_close(store, &error);
    engine_free(store);
    remove_checkpoints(directory);
}

/* I6: of two copies of a chunk, opening keeps one, records the other as dead and gives its blocks back. */
void test_two_copies(const struct test *test)
{
    engine_options options = options_of();
    engine_error error;
    engine_chunk copies[2];
    engine_chunk found;
    engine_stats stats;
    engine_store *store;
    int removed;
    repair_without_record(test->directory, copies);
    CHECK(copies[0].offset != copies[1].offset);
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(get(store, FID) == ENGINE_OK);
    CHECK(engine_info(store, FID, &found, &error) == ENGINE_OK && found.offset == copies[1].offset);
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.chunks == 1 && stats.dead_bytes >= LENGTH && stats.punched_bytes >= LENGTH - 2 * BLOCK_BYTES);
    CHECK(engine_delete(store, FID, &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
    remove_checkpoints(test->directory);
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(get(store, FID) == ENGINE_NOT_FOUND);
    check_sums(store);
    engine_free(store);
}
