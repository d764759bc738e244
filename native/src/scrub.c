/*
 * Scrubbing in rounds. A round verifies every live needle of the volumes that were there when it began, in the order of
 * their places, in steps that the caller paces; between two steps nothing is held. The cursor is saved now and then.
 * How one needle is verified stands in scrub_check.c.
 */
#include "scrub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "failure.h"
#include "inspect.h"
#include "store.h"

#define SAVE_S 30.0
#define BURST_S 1.0 /* what may be made up for after a pause */

void scrub_init(struct scrub *scrub)
{
    (void)pthread_mutex_init(&scrub->work, NULL);
    (void)pthread_mutex_init(&scrub->lock, NULL);
}

void scrub_destroy(struct scrub *scrub)
{
    free(scrub->places);
    free(scrub->damage);
    (void)pthread_mutex_destroy(&scrub->work);
    (void)pthread_mutex_destroy(&scrub->lock);
}

static struct scrub_cursor cursor_of(struct scrub *scrub)
{
    pthread_mutex_lock(&scrub->lock);
    struct scrub_cursor cursor = scrub->cursor;
    pthread_mutex_unlock(&scrub->lock);
    return cursor;
}

/* scrub.work is held. If it cannot be written the round only starts over after a restart. */
static void save(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    struct scrub_cursor cursor = cursor_of(scrub);
    scrub->saved_ns = clock_monotonic_ns();
    if (scrub_cursor_save(store->io, store->directory, store->identity.disk_id, &cursor) == 0)
        scrub->unsaved = false;
}

void scrub_open(engine_store *store)
{
    scrub_cursor_load(store->io, store->directory, store->identity.disk_id, &store->scrub.cursor);
}

void scrub_close(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    pthread_mutex_lock(&scrub->work);
    if (scrub->unsaved)
        save(store);
    free(scrub->places);
    scrub->places = NULL;
    scrub->count = 0;
    pthread_mutex_unlock(&scrub->work);
}

/* scrub.work is held. */
static void drop_batch(struct scrub *scrub)
{
    scrub->volume = NULL;
    scrub->count = 0;
    scrub->next = 0;
    scrub->more = false;
}

static void begin_round(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    uint32_t last_volume = 0;
    uint64_t total_bytes = 0;
    uint32_t slots = volumes_count(store);
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct volume *volume = volumes_get(store, slot);
        if (volume == NULL || !volume_is_there(volume))
            continue;
        pthread_mutex_lock(&volume->lock);
        total_bytes += volume->live_bytes;
        pthread_mutex_unlock(&volume->lock);
        if (volume->id > last_volume)
            last_volume = volume->id;
    }
    pthread_mutex_lock(&scrub->lock);
    struct scrub_cursor cursor = {
        .round = scrub->cursor.round + 1,
        .active = true,
        .last_volume = last_volume,
        .started_us = clock_unix_us(),
        .ended_us = scrub->cursor.ended_us,
        .total_bytes = total_bytes,
    };
    scrub->cursor = cursor;
    scrub->damage_unlisted = 0;
    pthread_mutex_unlock(&scrub->lock);
    drop_batch(scrub);
    save(store);
}

static void end_round(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    pthread_mutex_lock(&scrub->lock);
    scrub->cursor.active = false;
    scrub->cursor.ended_us = clock_unix_us();
    pthread_mutex_unlock(&scrub->lock);
    drop_batch(scrub);
    free(scrub->places); /* the next round is days away */
    scrub->places = NULL;
    save(store);
}

static void move_cursor(struct scrub *scrub, uint32_t volume, uint64_t offset)
{
    pthread_mutex_lock(&scrub->lock);
    scrub->cursor.volume = volume;
    scrub->cursor.offset = offset;
    pthread_mutex_unlock(&scrub->lock);
    scrub->unsaved = true;
}

/* The volume with the smallest id from `id` on that belongs to the round, or NULL. */
static struct volume *volume_from(engine_store *store, uint32_t id, uint32_t last_id)
{
    struct volume *found = NULL;
    uint32_t slots = volumes_count(store);
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct volume *volume = volumes_get(store, slot);
        if (volume != NULL && volume->id >= id && volume->id <= last_id &&
            (found == NULL || volume->id < found->id) && volume_is_there(volume))
            found = volume;
    }
    return found;
}

/* scrub.work is held. Gathers the needles behind the cursor; *over: the round has none. */
static int next_batch(engine_store *store, struct scrub_reading *reading, bool *over, engine_error *error)
{
    struct scrub *scrub = &store->scrub;
    struct scrub_cursor cursor = cursor_of(scrub);
    *over = false;
    if (scrub->volume != NULL && !scrub->more) {
        cursor.volume = scrub->volume->id + 1;
        cursor.offset = 0;
        move_cursor(scrub, cursor.volume, 0);
        save(store);
    }
    struct volume *volume = volume_from(store, cursor.volume, cursor.last_volume);
    drop_batch(scrub);
    if (volume == NULL) {
        *over = true;
        return ENGINE_OK;
    }
    if (scrub->places == NULL)
        scrub->places = malloc(SCRUB_BATCH_MAX * sizeof *scrub->places);
    if (scrub->places == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a scrub");
    if (!scrub_reading_open(reading, volume))
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory or descriptors for a scrub");
    uint64_t from = volume->id == cursor.volume ? cursor.offset : 0;
    for (unsigned copy = 0; from == 0 && copy < SUPERBLOCKS; copy++) {
        engine_damage found;
        (void)scrub_check_superblock(store, reading, copy, true, &found);
    }
    move_cursor(scrub, volume->id, from == 0 ? VOLUME_DATA_START : from);
    scrub->volume = volume;
    scrub->count = inspect_gather(store, volume->slot, from, scrub->places, SCRUB_BATCH_MAX);
    scrub->more = scrub->count == SCRUB_BATCH_MAX;
    return ENGINE_OK;
}

/* scrub.work is held. */
static void check_next(engine_store *store, struct scrub_reading *reading)
{
    struct scrub *scrub = &store->scrub;
    const struct chunk_place *place = &scrub->places[scrub->next];
    engine_damage found;
    if (scrub_check_needle(store, reading, place, scrub->count - scrub->next, true, &found) != SCRUB_GONE) {
        pthread_mutex_lock(&scrub->lock);
        scrub->cursor.checked_bytes += needle_footprint(place->length, place->header_length);
        scrub->cursor.checked_chunks++;
        pthread_mutex_unlock(&scrub->lock);
    }
    move_cursor(scrub, scrub->volume->id, place->offset + NEEDLE_ALIGNMENT);
    scrub->next++;
}

/* scrub.work is held. */
static void fill_bucket(struct scrub *scrub, uint64_t bytes_s)
{
    uint64_t now_ns = clock_monotonic_ns();
    double limit = (double)bytes_s * BURST_S;
    if (scrub->filled_ns != 0)
        scrub->tokens += (double)(now_ns - scrub->filled_ns) * 1e-9 * (double)bytes_s;
    if (scrub->tokens > limit)
        scrub->tokens = limit;
    scrub->filled_ns = now_ns;
}

static void tell(engine_store *store, engine_scrub *told)
{
    struct scrub_cursor cursor = cursor_of(&store->scrub);
    memset(told, 0, sizeof *told);
    told->round = cursor.round;
    told->active = cursor.active;
    told->volume = cursor.volume;
    told->offset = cursor.offset;
    told->started_us = cursor.started_us;
    told->ended_us = cursor.ended_us;
    told->total_bytes = cursor.total_bytes;
    told->checked_bytes = cursor.checked_bytes;
    told->checked_chunks = cursor.checked_chunks;
    told->damaged = cursor.damaged;
}

/* scrub.work is held. One needle, or what comes between two batches. */
static int advance(engine_store *store, struct scrub_reading *reading, engine_error *error)
{
    struct scrub *scrub = &store->scrub;
    bool over = false;
    int status = ENGINE_OK;
    if (scrub->next < scrub->count) {
        if (!scrub_reading_open(reading, scrub->volume))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory or descriptors for a scrub");
        check_next(store, reading);
    } else {
        status = next_batch(store, reading, &over, error);
        if (status == ENGINE_OK && over)
            end_round(store);
    }
    return status;
}

/* scrub.work is held. */
static int step(engine_store *store, uint64_t bytes_max, uint64_t bytes_s, engine_error *error)
{
    struct scrub *scrub = &store->scrub;
    struct scrub_reading reading = {.direct = -1, .file = -1};
    int status = ENGINE_OK;
    if (bytes_s > 0)
        fill_bucket(scrub, bytes_s);
    while (status == ENGINE_OK && cursor_of(scrub).active && reading.read_bytes < bytes_max && !store_is_closing(store)) {
        if (bytes_s > 0 && scrub->tokens < 0)
            break;
        uint64_t before = reading.read_bytes;
        status = advance(store, &reading, error);
        atomic_fetch_add(&scrub->read_bytes, reading.read_bytes - before);
        if (bytes_s > 0)
            scrub->tokens -= (double)(reading.read_bytes - before);
    }
    scrub_reading_end(&reading);
    if (scrub->unsaved && clock_monotonic_ns() - scrub->saved_ns > (uint64_t)(SAVE_S * 1e9))
        save(store);
    return status;
}

void scrub_fill_stats(engine_store *store, engine_stats *stats)
{
    struct scrub *scrub = &store->scrub;
    stats->scrub_damaged = scrub_damage_count(store);
    pthread_mutex_lock(&scrub->lock);
    stats->scrub_rounds = scrub->cursor.round - (scrub->cursor.active ? 1 : 0);
    stats->scrub_volume = scrub->cursor.volume;
    stats->scrub_offset = scrub->cursor.offset;
    pthread_mutex_unlock(&scrub->lock);
    stats->scrubbed_bytes = atomic_load(&scrub->read_bytes);
}

int engine_scrub_start(engine_store *store, engine_error *error)
{
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    pthread_mutex_lock(&store->scrub.work);
    begin_round(store);
    pthread_mutex_unlock(&store->scrub.work);
    return store_leave(store, ENGINE_OK);
}

int engine_scrub_step(engine_store *store, uint64_t bytes_max, uint64_t bytes_s, engine_scrub *told,
                      engine_error *error)
{
    memset(told, 0, sizeof *told);
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    struct scrub *scrub = &store->scrub;
    pthread_mutex_lock(&scrub->work);
    status = step(store, bytes_max, bytes_s, error);
    tell(store, told);
    if (bytes_s > 0 && told->active && scrub->tokens < 0)
        told->wait_s = -scrub->tokens / (double)bytes_s;
    pthread_mutex_unlock(&scrub->work);
    return store_leave(store, status);
}

int engine_scrub_status(engine_store *store, engine_scrub *told, engine_error *error)
{
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    tell(store, told);
    return store_leave(store, ENGINE_OK);
}
