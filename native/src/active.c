/*
 * The active volumes: those that take chunks. There are at most as many as appenders, and an appender claims one for
 * each batch: the first that nobody writes to and that has room, else a new one. So a store that is not busy fills one
 * volume after the other, and a full disk is full only when no volume has space left, whoever wrote to it last.
 */
#include <errno.h>

#include "failure.h"
#include "space.h"
#include "store.h"

#define TURNS_MAX 1000 /* of a batch that looks for its volume; a few are usual */

/* Volumes that had room, but for which the disk had no space. */
struct attempt {
    const struct volume *refused[APPENDERS_MAX];
    unsigned count;
};

static bool was_refused(const struct attempt *attempt, const struct volume *volume)
{
    for (unsigned i = 0; i < attempt->count; i++)
        if (attempt->refused[i] == volume)
            return true;
    return false;
}

/* What the volume may still take, by its size; 0 when it takes no chunks. */
static uint64_t room_in(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    uint64_t room = volume_is_writable(volume) && start < volume->size ? volume->size - start : 0;
    pthread_mutex_unlock(&volume->lock);
    return room;
}

/* Where a batch of this footprint would end. */
static uint64_t end_of_batch(struct volume *volume, uint64_t footprint)
{
    pthread_mutex_lock(&volume->lock);
    uint64_t end = round_up(volume->tail, BLOCK_BYTES) + footprint;
    pthread_mutex_unlock(&volume->lock);
    return end;
}

/* volumes_lock is held. An active volume with room that was not refused: claimed or not, as asked; or NULL. */
static struct volume *find(engine_store *store, uint64_t footprint, const struct attempt *attempt, bool claimed)
{
    for (unsigned i = 0; i < store->active_count; i++) {
        struct volume *volume = store->active[i];
        if (volume->claimed == claimed && !was_refused(attempt, volume) && (claimed || room_in(volume) >= footprint))
            return volume;
    }
    return NULL;
}

static struct volume *claim_idle(engine_store *store, uint64_t footprint, const struct attempt *attempt)
{
    pthread_mutex_lock(&store->volumes_lock);
    struct volume *volume = find(store, footprint, attempt, false);
    if (volume != NULL)
        volume->claimed = true;
    pthread_mutex_unlock(&store->volumes_lock);
    return volume;
}

void active_release(engine_store *store, struct volume *volume)
{
    pthread_mutex_lock(&store->volumes_lock);
    volume->claimed = false;
    pthread_cond_broadcast(&store->volume_released);
    pthread_mutex_unlock(&store->volumes_lock);
}

bool active_close(engine_store *store, struct volume *volume)
{
    bool closed = false;
    pthread_mutex_lock(&store->volumes_lock);
    for (unsigned i = 0; i < store->active_count && !closed; i++) {
        if (store->active[i] != volume || volume->claimed)
            continue;
        store->active[i] = store->active[--store->active_count];
        pthread_mutex_lock(&volume->lock);
        if (volume->state == VOLUME_ACTIVE)
            volume->state = VOLUME_CLOSING;
        pthread_mutex_unlock(&volume->lock);
        closed = true;
    }
    pthread_cond_broadcast(&store->volume_released);
    pthread_mutex_unlock(&store->volumes_lock);
    if (closed)
        keeper_wake(store);
    return closed;
}

/* Waits until a volume that somebody writes to can be tried; false when there is none. */
static bool wait_for_another(engine_store *store, uint64_t footprint, const struct attempt *attempt)
{
    pthread_mutex_lock(&store->volumes_lock);
    while (find(store, footprint, attempt, false) == NULL && find(store, footprint, attempt, true) != NULL)
        pthread_cond_wait(&store->volume_released, &store->volumes_lock); /* bounded: a batch ends with its I/O */
    bool found = find(store, footprint, attempt, false) != NULL;
    pthread_mutex_unlock(&store->volumes_lock);
    return found;
}

/* volumes_lock is held. Where a further active volume goes: a place of its own, or that of one without room. -1: nowhere. */
static int place_for_another(engine_store *store, uint64_t footprint)
{
    int place = -1;
    uint64_t least = footprint;
    if (store->active_count < store->appender_count)
        return (int)store->active_count;
    for (unsigned i = 0; i < store->active_count; i++) {
        uint64_t room = room_in(store->active[i]);
        if (!store->active[i]->claimed && room < least) {
            least = room;
            place = (int)i;
        }
    }
    return place;
}

/* volumes_create is locked, so nobody else adds one. Makes the volume active and claims it. */
static void activate(engine_store *store, uint64_t footprint, struct volume *volume)
{
    struct volume *before = NULL;
    pthread_mutex_lock(&store->volumes_lock);
    int place = place_for_another(store, footprint);
    if (place >= 0) {
        if ((unsigned)place < store->active_count)
            before = store->active[place];
        else
            store->active_count++;
        store->active[place] = volume;
        volume->claimed = true;
        pthread_mutex_lock(&volume->lock);
        volume->state = VOLUME_ACTIVE;
        pthread_mutex_unlock(&volume->lock);
    }
    if (before != NULL) {
        pthread_mutex_lock(&before->lock);
        if (before->state == VOLUME_ACTIVE)
            before->state = VOLUME_CLOSING;
        pthread_mutex_unlock(&before->lock);
    }
    pthread_mutex_unlock(&store->volumes_lock);
    if (before != NULL)
        keeper_wake(store);
}

/* Claims a further volume, prepared or new. OK with *volume NULL when there is no place for one, or when one that was
 * there has become free meanwhile. */
static int open_another(engine_store *store, uint64_t footprint, const struct attempt *attempt, struct volume **volume,
                        engine_error *error)
{
    int status = ENGINE_OK;
    struct volume *another = NULL;
    *volume = NULL;
    pthread_mutex_lock(&store->volumes_create);
    pthread_mutex_lock(&store->volumes_lock);
    bool wanted = find(store, footprint, attempt, false) == NULL && place_for_another(store, footprint) >= 0;
    pthread_mutex_unlock(&store->volumes_lock);
    if (wanted) {
        another = volumes_standby(store, footprint);
        if (another == NULL)
            status = volumes_create(store, footprint, &another, error);
    }
    if (another != NULL) {
        activate(store, footprint, another);
        pthread_mutex_lock(&store->volumes_lock);
        /* Without a place after all it stays prepared. */
        *volume = another->claimed ? another : NULL;
        pthread_mutex_unlock(&store->volumes_lock);
    }
    pthread_mutex_unlock(&store->volumes_create);
    return status;
}

/* volumes_lock is held. What would come back from behind the tail of this volume. */
static uint64_t unused_in(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    bool takes_or_closes = volume_is_writable(volume) || volume->state == VOLUME_CLOSING;
    uint64_t unused = takes_or_closes && volume->allocated > start ? volume->allocated - start : 0;
    pthread_mutex_unlock(&volume->lock);
    return unused;
}

/* Of the volumes that nobody writes to: empty ones, and full ones that the keeper has not come to. volumes_create is locked,
 * so that an empty volume stays one. */
static uint64_t give_back_aside(engine_store *store, bool dry)
{
    uint64_t unused = 0;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        bool aside = volume->state == VOLUME_STANDBY || volume->state == VOLUME_CLOSING;
        pthread_mutex_unlock(&volume->lock);
        if (!aside)
            continue;
        unused += unused_in(volume);
        if (!dry)
            volume_give_back(volume);
    }
    return unused;
}

/* Pieces taken ahead for several volumes may together be what one batch needs. Gives them back if that makes the batch
 * fit; true when it is worth another try. */
static bool give_back(engine_store *store, uint64_t footprint)
{
    struct disk_space space;
    struct volume *idle[APPENDERS_MAX];
    unsigned count = 0;
    pthread_mutex_lock(&store->volumes_create);
    uint64_t unused = give_back_aside(store, true);
    bool known = space_read(store, &space) == 0;
    pthread_mutex_lock(&store->volumes_lock);
    for (unsigned i = 0; i < store->active_count; i++)
        if (!store->active[i]->claimed) {
            unused += unused_in(store->active[i]);
            idle[count++] = store->active[i];
        }
    bool enough = unused > 0 && known &&
                  space.free_bytes + unused >= space.reserve_bytes + footprint + VOLUME_ALLOCATION_UNIT;
    for (unsigned i = 0; i < count && enough; i++)
        idle[i]->claimed = true;
    pthread_mutex_unlock(&store->volumes_lock);
    if (enough)
        (void)give_back_aside(store, false);
    for (unsigned i = 0; i < count && enough; i++) {
        volume_give_back(idle[i]);
        active_release(store, idle[i]);
    }
    pthread_mutex_unlock(&store->volumes_create);
    return enough;
}

int active_claim(engine_store *store, uint64_t footprint, unsigned needles, struct volume **claimed, engine_error *error)
{
    struct attempt attempt = {.count = 0};
    bool no_further = false; /* the disk has no space for a further volume */
    bool gave_back = false;
    for (unsigned turn = 0; turn < TURNS_MAX; turn++) {
        int status = ENGINE_OK;
        struct volume *volume = claim_idle(store, footprint, &attempt);
        if (volume == NULL && !no_further) {
            status = open_another(store, footprint, &attempt, &volume, error);
            no_further = status == ENGINE_DISK_FULL;
            if (status != ENGINE_OK && !no_further)
                return status;
        }
        if (volume != NULL) {
            status = space_take(store, volume, end_of_batch(volume, footprint), needles, error);
            if (status == ENGINE_OK) {
                *claimed = volume;
                return ENGINE_OK;
            }
            active_release(store, volume);
            if (status != ENGINE_DISK_FULL)
                return status;
            if (attempt.count < APPENDERS_MAX)
                attempt.refused[attempt.count++] = volume;
            continue;
        }
        if (wait_for_another(store, footprint, &attempt))
            continue;
        if (!no_further && attempt.count == 0)
            continue; /* a volume has failed meanwhile, and its place is free */
        if (gave_back || !give_back(store, footprint))
            return error->code; /* of the last refusal */
        gave_back = true;
        no_further = false;
        attempt.count = 0;
    }
    return failure(error, ENGINE_BUSY, 0, "others took every volume before this batch");
}

/* What an active volume should have ahead of its tail; it has less when it is asked to take more. */
static bool lacks_space_ahead(engine_store *store, struct volume *volume, uint64_t *end)
{
    uint64_t ahead = atomic_load(&store->step_bytes) / 2;
    pthread_mutex_lock(&volume->lock);
    *end = volume->tail + ahead < volume->size ? volume->tail + ahead : volume->size;
    bool lacks = volume->allocated < *end;
    pthread_mutex_unlock(&volume->lock);
    return lacks;
}

static unsigned copy_active(engine_store *store, struct volume **volumes)
{
    pthread_mutex_lock(&store->volumes_lock);
    unsigned count = store->active_count;
    for (unsigned i = 0; i < count; i++)
        volumes[i] = store->active[i];
    pthread_mutex_unlock(&store->volumes_lock);
    return count;
}

/* True when an active volume is half full and nothing is prepared to follow it. */
static bool needs_standby(engine_store *store)
{
    struct volume *volumes[APPENDERS_MAX];
    unsigned count = copy_active(store, volumes);
    bool half_full = false;
    if (atomic_load(&store->failed))
        return false;
    for (unsigned i = 0; i < count && !half_full; i++) {
        pthread_mutex_lock(&volumes[i]->lock);
        half_full = volumes[i]->tail - VOLUME_DATA_START > (volumes[i]->size - VOLUME_DATA_START) / 2;
        pthread_mutex_unlock(&volumes[i]->lock);
    }
    return half_full && volumes_standby(store, 0) == NULL;
}

void active_prepare(engine_store *store)
{
    struct volume *volumes[APPENDERS_MAX];
    unsigned count = copy_active(store, volumes);
    engine_error ignored;
    uint64_t end;
    /* Without success the appender tries itself when it must, and reports. */
    for (unsigned i = 0; i < count; i++)
        if (lacks_space_ahead(store, volumes[i], &end))
            (void)space_take(store, volumes[i], end, 0, &ignored);
    if (!needs_standby(store))
        return;
    pthread_mutex_lock(&store->volumes_create);
    struct volume *standby = volumes_standby(store, 0);
    if (standby == NULL)
        (void)volumes_create(store, 0, &standby, &ignored);
    pthread_mutex_unlock(&store->volumes_create);
}

bool active_needs_care(engine_store *store)
{
    struct volume *volumes[APPENDERS_MAX];
    unsigned count = copy_active(store, volumes);
    uint64_t end;
    for (unsigned i = 0; i < count; i++)
        if (lacks_space_ahead(store, volumes[i], &end))
            return true;
    return needs_standby(store);
}
