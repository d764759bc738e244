#include "victims.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"

#define SMALL_SHARE 16               /* volumes below this part of the largest size join a compaction that has room */
#define ACTIVE_GAIN_SHARE 8          /* one that takes chunks must give back this part of its size, unless somebody asks */
#define LEFT_BYTES ((uint64_t)1 << 20) /* of the file system, for checkpoints and the MANIFEST */
#define BESIDE_BYTES 96u /* of each chunk: a checkpoint's entry, and the room for a delete record */
#define RELEASE_PAUSE_S 0.002
#define RELEASE_PAUSES_MAX 500

struct candidate {
    struct volume *volume;
    uint64_t chunks;
    uint64_t needed_bytes;
    uint64_t taken_bytes;
    bool worth_it; /* or only small */
};

struct candidates {
    struct candidate *items; /* owned */
    size_t count;
};

static bool damage_remains(engine_store *store, const struct volume *volume, uint64_t fid, uint64_t offset)
{
    struct chunk_place now;
    return fid != 0 && chunk_index_get(store->index, fid, &now, NULL, NULL) && now.slot == volume->slot &&
           now.offset == offset;
}

bool compaction_is_told_to_take(const struct compaction_terms *terms, uint32_t id)
{
    for (size_t i = 0; i < terms->volume_count; i++)
        if (terms->volumes[i] == id)
            return true;
    return false;
}

bool compaction_may_take(const struct compaction_terms *terms, uint32_t id)
{
    return terms->volume_count == 0 || compaction_is_told_to_take(terms, id);
}

static bool is_worth_it(const struct compaction_terms *terms, uint32_t id, uint64_t needed_bytes, uint64_t taken_bytes)
{
    if (terms->volume_count > 0)
        return compaction_is_told_to_take(terms, id);
    return taken_bytes >= needed_bytes + terms->gain_bytes_min &&
           (double)needed_bytes < terms->below * (double)taken_bytes;
}

static void judge(engine_store *store, const struct compaction_terms *terms, struct volume *volume,
                  struct candidates *candidates)
{
    const struct engine_io *io = store->io;
    struct candidate candidate = {.volume = volume};
    pthread_mutex_lock(&volume->lock);
    bool sealed = volume->state == VOLUME_SEALED && volume->chunks > 0;
    int file = volume->file;
    candidate.chunks = volume->chunks;
    candidate.needed_bytes = round_up(VOLUME_DATA_START + volume->live_bytes, BLOCK_BYTES);
    candidate.taken_bytes = volume->allocated;
    uint64_t damaged_fid = volume->damaged_fid;
    uint64_t damaged_offset = volume->damaged_offset;
    pthread_mutex_unlock(&volume->lock);
    if (!sealed || !compaction_may_take(terms, volume->id) ||
        damage_remains(store, volume, damaged_fid, damaged_offset))
        return;
    /* What the disk says: punched blocks are back already. Only this thread removes volumes, so the file is open. */
    (void)io->allocated(io->context, file, &candidate.taken_bytes);
    candidate.worth_it = is_worth_it(terms, volume->id, candidate.needed_bytes, candidate.taken_bytes);
    if (candidate.worth_it || candidate.needed_bytes < store->options.volume_size_max / SMALL_SHARE)
        candidates->items[candidates->count++] = candidate;
}

/* Those that are worth it first, the emptiest at the head; then the others, the smallest at the head. */
static int by_share(const void *left, const void *right)
{
    const struct candidate *a = left;
    const struct candidate *b = right;
    if (a->worth_it != b->worth_it)
        return a->worth_it ? -1 : 1;
    if (!a->worth_it)
        return a->needed_bytes < b->needed_bytes ? -1 : a->needed_bytes > b->needed_bytes;
    double share_a = (double)a->needed_bytes / (double)(a->taken_bytes + 1);
    double share_b = (double)b->needed_bytes / (double)(b->taken_bytes + 1);
    return share_a < share_b ? -1 : share_a > share_b;
}

static int choose(struct victims *victims, const struct candidates *candidates, uint64_t free_bytes,
                  engine_error *error)
{
    const uint64_t size_max = victims->store->options.volume_size_max;
    uint64_t bytes = 0;  /* of the new volume */
    uint64_t beside = 0; /* of its checkpoint and delete log */
    uint64_t missing = 0;
    for (size_t i = 0; i < candidates->count && victims->count < MANIFEST_REPLACED_MAX; i++) {
        const struct candidate *candidate = &candidates->items[i];
        uint64_t own_beside = candidate->chunks * BESIDE_BYTES;
        uint64_t needed = bytes + candidate->needed_bytes + beside + own_beside + LEFT_BYTES;
        /* Small ones join what is as large as they are, so that none is copied again and again. */
        if (!candidate->worth_it && candidate->needed_bytes > bytes)
            break;
        if (victims->count > 0 && bytes + candidate->needed_bytes > size_max)
            continue;
        if (needed > free_bytes) {
            if (missing == 0)
                missing = needed;
            continue;
        }
        bytes += candidate->needed_bytes;
        beside += own_beside;
        victims->items[victims->count++] = (struct victim){
            .volume = candidate->volume,
            .needed_bytes = candidate->needed_bytes,
            .taken_bytes = candidate->taken_bytes,
        };
        victims->chosen[candidate->volume->slot] = true;
    }
    if (victims->count == 0 && missing > 0)
        return failure(error, ENGINE_DISK_FULL, ENOSPC, "compaction needs %llu bytes, the file system has %llu",
                       (unsigned long long)missing, (unsigned long long)free_bytes);
    return ENGINE_OK;
}

int victims_choose(struct victims *victims, engine_store *store, const struct compaction_terms *terms,
                   engine_error *error)
{
    struct candidates candidates = {NULL, 0};
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
    int status = ENGINE_OK;
    memset(victims, 0, sizeof *victims);
    victims->store = store;
    uint32_t slot_count = volumes_count(store);
    uint32_t end = slot_count < terms->slots_end ? slot_count : terms->slots_end;
    candidates.items = calloc(end + 1, sizeof candidates.items[0]);
    victims->chosen = calloc(slot_count + 1, sizeof victims->chosen[0]);
    victims->slot_count = slot_count;
    if (candidates.items == NULL || victims->chosen == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory to choose volumes");
        goto cleanup;
    }
    /* Into the reserve: it is there for this. */
    if (store->io->space(store->io->context, store->directory, &free_bytes, &total_bytes) != 0) {
        status = failure(error, ENGINE_FAILED, errno, "cannot ask the file system for its space");
        goto cleanup;
    }
    for (uint32_t slot = 0; slot < end; slot++)
        judge(store, terms, volumes_get(store, slot), &candidates);
    if (candidates.count > 1)
        qsort(candidates.items, candidates.count, sizeof candidates.items[0], by_share);
    status = choose(victims, &candidates, free_bytes, error);
cleanup:
    free(candidates.items);
    return status;
}

static void unpin(engine_store *store, struct victim *victim)
{
    if (victim->pinned && volume_unpin(victim->volume, victim->epoch))
        keeper_wake(store);
    victim->pinned = false;
}

void victims_free(struct victims *victims)
{
    for (size_t i = 0; i < victims->count; i++)
        unpin(victims->store, &victims->items[i]);
    free(victims->chosen);
    victims->chosen = NULL;
    victims->count = 0;
}

bool victims_have(const struct victims *victims, uint32_t slot)
{
    return slot < victims->slot_count && victims->chosen[slot];
}

void victims_pin(struct victims *victims)
{
    for (size_t i = 0; i < victims->count; i++) {
        volume_pin(victims->items[i].volume, &victims->items[i].epoch);
        victims->items[i].pinned = true;
    }
}

void victims_leave_damaged(struct victims *victims, struct volume *volume, const struct chunk_place *place)
{
    pthread_mutex_lock(&volume->lock);
    volume->damaged_fid = place->fid;
    volume->damaged_offset = place->offset;
    pthread_mutex_unlock(&volume->lock);
    for (size_t i = 0; i < victims->count; i++)
        if (victims->items[i].volume == volume)
            victims->items[i].damaged = true;
}

size_t victims_left(const struct victims *victims)
{
    uint32_t ids[MANIFEST_REPLACED_MAX];
    return victims_ids(victims, ids);
}

size_t victims_ids(const struct victims *victims, uint32_t ids[MANIFEST_REPLACED_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < victims->count; i++)
        if (!victims->items[i].damaged)
            ids[count++] = victims->items[i].volume->id;
    return count;
}

uint64_t victims_fid_max(const struct victims *victims)
{
    uint64_t fid_max = 0;
    for (size_t i = 0; i < victims->count; i++) {
        struct volume *volume = victims->items[i].volume;
        pthread_mutex_lock(&volume->lock);
        if (!victims->items[i].damaged && volume->fid_max > fid_max)
            fid_max = volume->fid_max;
        pthread_mutex_unlock(&volume->lock);
    }
    return fid_max;
}

uint64_t victims_allocated(const struct victims *victims)
{
    const struct engine_io *io = victims->store->io;
    uint64_t bytes = 0;
    for (size_t i = 0; i < victims->count; i++) {
        uint64_t taken = 0;
        if (!victims->items[i].damaged && io->allocated(io->context, victims->items[i].volume->file, &taken) == 0)
            bytes += taken;
    }
    return bytes;
}

static void set_gone(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    volume->state = VOLUME_GONE;
    volume->changed = false;
    pthread_mutex_unlock(&volume->lock);
}

void victims_set_gone(struct victims *victims)
{
    for (size_t i = 0; i < victims->count; i++)
        if (!victims->items[i].damaged)
            set_gone(victims->items[i].volume);
}

/* Bounded; what is still read then is closed by the keeper. */
static void release(engine_store *store, struct volume *volume)
{
    for (int pause = 0; pause < RELEASE_PAUSES_MAX && !volume_release(volume); pause++)
        if (!compactor_pause(store, RELEASE_PAUSE_S))
            break;
}

int victims_remove(struct victims *victims, engine_compaction *report, engine_error *error)
{
    engine_store *store = victims->store;
    int result = 0;
    int reason = 0;
    for (size_t i = 0; i < victims->count; i++) {
        if (victims->items[i].damaged)
            continue;
        if (volume_remove(store->io, store->directory, victims->items[i].volume->id) != 0) {
            reason = errno;
            result = -1;
        }
        report->volumes_removed++;
        unpin(store, &victims->items[i]);
    }
    if (store->io->fsync(store->io->context, store->directory) != 0) {
        reason = errno;
        result = -1;
    }
    for (size_t i = 0; i < victims->count; i++)
        if (!victims->items[i].damaged)
            release(store, victims->items[i].volume);
    if (result != 0)
        return failure_os(error, reason, "cannot remove a compacted volume");
    return ENGINE_OK;
}

/* *dropped: it was empty, and MANIFEST says that it is gone. */
static int drop(engine_store *store, struct volume *volume, bool *dropped, engine_error *error)
{
    struct manifest_volume row = {.id = volume->id, .size = volume->size};
    int status = ENGINE_OK;
    memcpy(row.uuid, volume->uuid, sizeof row.uuid);
    pthread_mutex_lock(&store->keeper.work);
    deletes_hold(store); /* a delete log that is being written would be made anew after its removal */
    pthread_mutex_lock(&volume->lock);
    *dropped = volume->state == VOLUME_SEALED && volume->chunks == 0;
    row.tail = volume->tail;
    row.fid_max = volume->fid_max;
    pthread_mutex_unlock(&volume->lock);
    if (*dropped)
        status = manifest_append(&store->manifest, MANIFEST_REPLACE, &row, error);
    *dropped = *dropped && status == ENGINE_OK;
    if (*dropped) {
        if (row.fid_max > atomic_load(&store->replaced_fid_max))
            atomic_store(&store->replaced_fid_max, row.fid_max);
        set_gone(volume);
    }
    deletes_resume(store);
    pthread_mutex_unlock(&store->keeper.work);
    return status;
}

int victims_drop_empty(engine_store *store, const struct compaction_terms *terms, engine_compaction *report,
                       engine_error *error)
{
    const struct engine_io *io = store->io;
    int status = ENGINE_OK;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count && slot < terms->slots_end && status == ENGINE_OK; slot++) {
        struct volume *volume = volumes_get(store, slot);
        bool dropped = false;
        uint64_t taken = 0;
        pthread_mutex_lock(&volume->lock);
        bool empty = volume->state == VOLUME_SEALED && volume->chunks == 0;
        int file = volume->file;
        pthread_mutex_unlock(&volume->lock);
        if (!empty || !compaction_may_take(terms, volume->id))
            continue;
        (void)io->allocated(io->context, file, &taken);
        status = drop(store, volume, &dropped, error);
        if (!dropped)
            continue;
        if (volume_remove(io, store->directory, volume->id) != 0 || io->fsync(io->context, store->directory) != 0)
            status = failure_os(error, errno, "cannot remove an empty volume");
        release(store, volume);
        report->volumes_removed++;
        report->bytes_given_back += taken;
        atomic_fetch_add(&store->counters.compactions, 1);
    }
    return status;
}

uint32_t compaction_close_active(engine_store *store, const struct compaction_terms *terms)
{
    uint32_t closed = 0;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count && slot < terms->slots_end; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        /* Without what is taken ahead of the tail: sealing gives that back as well, but more chunks are to go there. */
        uint64_t needed = round_up(VOLUME_DATA_START + volume->live_bytes, BLOCK_BYTES);
        uint64_t taken = volume->tail > volume->punched_bytes ? volume->tail - volume->punched_bytes : 0;
        bool worth_it = volume->state == VOLUME_ACTIVE && volume->tail > VOLUME_DATA_START &&
                        is_worth_it(terms, volume->id, needed, taken) &&
                        (terms->called || taken - needed >= volume->size / ACTIVE_GAIN_SHARE);
        pthread_mutex_unlock(&volume->lock);
        if (worth_it && active_close(store, volume))
            closed++;
    }
    return closed;
}

uint32_t compaction_count_damaged(engine_store *store, bool retry)
{
    uint32_t damaged = 0;
    uint32_t count = volumes_count(store);
    for (uint32_t slot = 0; slot < count; slot++) {
        struct volume *volume = volumes_get(store, slot);
        pthread_mutex_lock(&volume->lock);
        if (retry)
            volume->damaged_fid = 0;
        uint64_t fid = volume->state == VOLUME_SEALED ? volume->damaged_fid : 0;
        uint64_t offset = volume->damaged_offset;
        pthread_mutex_unlock(&volume->lock);
        if (damage_remains(store, volume, fid, offset))
            damaged++;
    }
    return damaged;
}
