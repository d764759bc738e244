/* Opening and closing a store, and the public functions, each between store_enter and store_leave. */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "failure.h"
#include "opening.h"
#include "reader.h"
#include "stats.h"
#include "unreadable.h"

static int check_options(const engine_options *options, engine_error *error)
{
    if (options->volume_size_first < ((uint64_t)1 << 20) || options->volume_size_max < options->volume_size_first ||
        options->volume_size_max > ((uint64_t)1 << 37))
        return failure(error, ENGINE_INVALID, 0, "volume sizes must be 1 MiB <= first <= max <= 128 GiB");
    if (options->appenders == 0 || options->appenders > APPENDERS_MAX)
        return failure(error, ENGINE_INVALID, 0, "a store has 1 to %d appenders", APPENDERS_MAX);
    if (!(options->compact_below >= 0 && options->compact_below <= 1) ||
        (options->compact_below > 0 && !(options->compact_every_s > 0)))
        return failure(error, ENGINE_INVALID, 0, "a live share is 0 to 1, and compaction needs an interval");
    if (options->queue_bytes_max == 0 || options->checkpoint_bytes == 0 || !(options->checkpoint_s > 0) ||
        options->checkpoint_s > 1e6)
        return failure(error, ENGINE_INVALID, 0, "queue and checkpoint limits must be positive");
    return ENGINE_OK;
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(condition, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static engine_store *new_store(const struct engine_io *io, const engine_options *options)
{
    engine_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return NULL;
    store->io = io;
    store->options = *options;
    if (options->read_only) {
        io_read_only_init(&store->read_only, io);
        store->io = &store->read_only.table;
    }
    store->directory = -1;
    store->lock_file = -1;
    store->manifest.file = -1;
    store->index = chunk_index_new();
    if (store->index == NULL) {
        free(store);
        return NULL;
    }
    pthread_mutex_t *const locks[] = {
        &store->volumes_create, &store->volumes_lock,  &store->queue.lock,   &store->deletes.lock, &store->keeper.work,
        &store->keeper.lock,    &store->listing.build, &store->listing.lock, &store->scratch_lock, &store->calls_lock,
        &store->compactor.work, &store->compactor.lock, &store->verifying.work,
    };
    for (size_t i = 0; i < sizeof locks / sizeof locks[0]; i++)
        (void)pthread_mutex_init(locks[i], NULL); /* default attributes: cannot fail on Linux */
    store->appender_count = options->appenders;
    for (unsigned i = 0; i < store->appender_count; i++) {
        store->appenders[i].store = store;
        init_condition(&store->appenders[i].filled);
        init_condition(&store->appenders[i].written);
    }
    init_condition(&store->volume_released);
    scrub_init(&store->scrub);
    init_condition(&store->deletes.changed);
    init_condition(&store->keeper.wake);
    init_condition(&store->compactor.wake);
    init_condition(&store->calls_ended);
    return store;
}

/* Descriptors and LOCK; memory stays until engine_free. */
static void release_files(engine_store *store)
{
    for (uint32_t slot = 0; slot < volumes_count(store); slot++) {
        struct volume *volume = volumes_get(store, slot);
        io_close(store->io, volume->file);
        volume->file = -1;
    }
    manifest_close(&store->manifest);
    io_close(store->io, store->directory);
    store->directory = -1;
    io_close(store->io, store->lock_file); /* last: from here on another process may come in */
    store->lock_file = -1;
}

static void free_store(engine_store *store)
{
    release_files(store);
    unreadable_free(store);
    volumes_free(store);
    free(store->listing.fids);
    free(store->deletes.doubted);
    free(store->verifying.places);
    reader_free_scratch(store);
    chunk_index_free(store->index);
    pthread_mutex_t *const locks[] = {
        &store->volumes_create, &store->volumes_lock,  &store->queue.lock,   &store->deletes.lock, &store->keeper.work,
        &store->keeper.lock,    &store->listing.build, &store->listing.lock, &store->scratch_lock, &store->calls_lock,
        &store->compactor.work, &store->compactor.lock, &store->verifying.work,
    };
    for (size_t i = 0; i < sizeof locks / sizeof locks[0]; i++)
        (void)pthread_mutex_destroy(locks[i]);
    for (unsigned i = 0; i < store->appender_count; i++) {
        (void)pthread_cond_destroy(&store->appenders[i].filled);
        (void)pthread_cond_destroy(&store->appenders[i].written);
    }
    (void)pthread_cond_destroy(&store->volume_released);
    scrub_destroy(&store->scrub);
    (void)pthread_cond_destroy(&store->deletes.changed);
    (void)pthread_cond_destroy(&store->keeper.wake);
    (void)pthread_cond_destroy(&store->compactor.wake);
    (void)pthread_cond_destroy(&store->calls_ended);
    free(store);
}

static void see_store_file(void *argument, const char *name)
{
    bool *found = argument;
    if (strcmp(name, "MANIFEST") == 0 || volume_id_of(name, ".dat") != 0)
        *found = true;
}

static int read_or_create_identity(engine_store *store, engine_error *error)
{
    const struct engine_io *io = store->io;
    int status = identity_read(io, store->directory, store->options.cluster_id, &store->identity, error);
    if (status != ENGINE_NOT_FOUND)
        return status;
    bool orphaned = false;
    if (!store->options.create || store->options.read_only)
        return failure(error, ENGINE_MISMATCH, 0, "no store here (is the disk mounted?)");
    if (io->list(io->context, store->directory, see_store_file, &orphaned) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot list the directory");
    if (orphaned)
        return failure(error, ENGINE_MISMATCH, 0, "volumes without DISK: not made anew over them");
    memcpy(store->identity.cluster_id, store->options.cluster_id, 16);
    status = identity_random(store->identity.disk_id, sizeof store->identity.disk_id, error);
    if (status == ENGINE_OK)
        status = identity_create(io, store->directory, &store->identity, error);
    return status;
}

static int start_threads(engine_store *store, engine_error *error)
{
    int status = appender_start(store, error);
    if (status == ENGINE_OK)
        status = keeper_start(store, error);
    if (status == ENGINE_OK)
        status = compactor_start(store, error);
    return status;
}

int store_open_on(const struct engine_io *io, const char *directory, const engine_options *options,
                  engine_store **opened, engine_error *error)
{
    (void)no_failure(error);
    *opened = NULL;
    int status = check_options(options, error);
    if (status != ENGINE_OK)
        return status;
    engine_store *store = new_store(io, options);
    if (store == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a store");
    store->directory = io->open_directory(io->context, directory);
    if (store->directory < 0)
        status = failure(error, ENGINE_FAILED, errno, "cannot open the directory");
    if (status == ENGINE_OK)
        status = identity_lock(store->io, store->directory, options->lock_timeout_s, &store->lock_file, error);
    if (status == ENGINE_FAILED && options->read_only && error->os_error == ENOENT)
        status = no_failure(error); /* a copy that nobody has opened yet */
    if (status == ENGINE_OK)
        status = read_or_create_identity(store, error);
    if (status == ENGINE_OK)
        status = opening_read(store, error);
    if (status == ENGINE_OK)
        status = options->read_only ? ENGINE_OK : start_threads(store, error);
    if (status != ENGINE_OK) {
        appender_stop(store);
        keeper_stop(store);
        free_store(store);
        return status;
    }
    *opened = store;
    return ENGINE_OK;
}

int engine_open(const char *directory, const engine_options *options, engine_store **store, engine_error *error)
{
    return store_open_on(io_system(), directory, options, store, error);
}

/* Counted first, then asked: either this call sees that the store is closing, or engine_close sees the call. */
int store_enter(engine_store *store, engine_error *error)
{
    (void)no_failure(error);
    atomic_fetch_add(&store->calls, 1);
    if (!atomic_load(&store->closing))
        return ENGINE_OK;
    return store_leave(store, failure(error, ENGINE_CLOSED, 0, "the store is closed"));
}

int store_enter_to_write(engine_store *store, engine_error *error)
{
    if (store->options.read_only)
        return failure(error, ENGINE_INVALID, 0, "the store is open for reading only");
    return store_enter(store, error);
}

int store_leave(engine_store *store, int status)
{
    if (atomic_fetch_sub(&store->calls, 1) == 1 && atomic_load(&store->closing)) {
        pthread_mutex_lock(&store->calls_lock); /* engine_close is either before its look at calls, or waits */
        pthread_cond_broadcast(&store->calls_ended);
        pthread_mutex_unlock(&store->calls_lock);
    }
    return status;
}

bool store_is_closing(engine_store *store)
{
    return atomic_load(&store->closing);
}

int engine_close(engine_store *store, engine_error *error)
{
    (void)no_failure(error);
    pthread_mutex_lock(&store->calls_lock);
    bool first = !atomic_exchange(&store->closing, true);
    compactor_end(store);
    /* Calls end on their own: each waits at most for the batches before it. */
    while (atomic_load(&store->calls) > 0 || (!first && !store->closed))
        pthread_cond_wait(&store->calls_ended, &store->calls_lock);
    pthread_mutex_unlock(&store->calls_lock);
    if (!first)
        return ENGINE_OK;
    appender_stop(store);
    compactor_stop(store);
    keeper_stop(store);
    int status = store->options.read_only ? ENGINE_OK : keeper_checkpoint(store, error);
    scrub_close(store);
    release_files(store);
    pthread_mutex_lock(&store->calls_lock);
    store->closed = true;
    pthread_cond_broadcast(&store->calls_ended);
    pthread_mutex_unlock(&store->calls_lock);
    return status;
}

void engine_free(engine_store *store)
{
    engine_error ignored;
    if (store == NULL)
        return;
    (void)engine_close(store, &ignored);
    free_store(store);
}

int engine_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, uint32_t *crc32c,
                engine_error *error)
{
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, reader_read(store, fid, offset, buffer, length, crc32c, error));
}

int engine_info(engine_store *store, uint64_t fid, engine_chunk *chunk, engine_error *error)
{
    struct chunk_place place;
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    if (chunk_index_get(store->index, fid, &place, NULL, NULL))
        store_describe(store, &place, chunk);
    else
        status = failure(error, ENGINE_NOT_FOUND, 0, "no chunk %" PRIu64, fid);
    return store_leave(store, status);
}

int engine_delete(engine_store *store, uint64_t fid, int *removed, engine_error *error)
{
    int status = store_enter_to_write(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, deletes_remove(store, fid, removed, error));
}

int engine_iterate(engine_store *store, uint64_t after_fid, engine_chunk *chunks, size_t limit, size_t *count,
                   engine_error *error)
{
    *count = 0;
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, listing_read(store, after_fid, chunks, limit, count, error));
}

int engine_checkpoint(engine_store *store, engine_error *error)
{
    int status = store_enter_to_write(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, keeper_checkpoint(store, error));
}

int engine_compact(engine_store *store, const engine_compaction_terms *terms, engine_compaction *report,
                   engine_error *error)
{
    int status = store_enter_to_write(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, compactor_call(store, terms, report, error));
}

int engine_compact_cancel(engine_store *store, engine_error *error)
{
    int status = store_enter_to_write(store, error);
    if (status != ENGINE_OK)
        return status;
    compactor_cancel(store);
    return store_leave(store, ENGINE_OK);
}

int engine_stat(engine_store *store, engine_stats *stats, engine_error *error)
{
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    return store_leave(store, stats_fill(store, stats, error));
}
