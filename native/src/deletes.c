/*
 * Deletes: a record in the volume's delete log, one sync for everything that waits, then out of the index, then the
 * blocks go back to the file system when the last reader has left.
 *
 * Whoever comes first works for all who came meanwhile; the next round is led by one of those who wait.
 */
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store.h"
#include "unreadable.h"

#define ROUND_MAX 1024
#define CHASES_MAX 8 /* how often a delete follows a chunk that is being replaced by a repair */

struct delete_request {
    struct delete_request *next;
    struct chunk_place place;
    struct delete_record record;
    bool superseded; /* place is not in the index any more: only record it */
    bool unknown;    /* there is no place: it may be in a volume that cannot be read */
    bool removed;
    bool done;
    int status;
    engine_error error;
};

static void account(struct volume *volume, const struct chunk_place *place, uint64_t delete_seq)
{
    pthread_mutex_lock(&volume->lock);
    volume->live_bytes -= needle_footprint(place->length, place->header_length);
    volume->payload_bytes -= place->length;
    volume->chunks--;
    pthread_mutex_unlock(&volume->lock);
    struct punch punch = {place->offset, delete_seq, place->header_length, place->length};
    volume_bury(volume, &punch);
}

/* Whether there is anything to record: the round before may have done it for another caller. A needle takes one record
 * of the room that is set aside for it. */
static bool is_due(engine_store *store, const struct delete_request *request)
{
    struct chunk_place now;
    const struct chunk_place *place = &request->place;
    if (request->status != ENGINE_OK || request->unknown)
        return false;
    return request->superseded || (chunk_index_get(store->index, place->fid, &now, NULL, NULL) &&
                                   now.slot == place->slot && now.offset == place->offset);
}

/* deletes.lock is held. */
static size_t find_doubted(const struct delete_queue *queue, uint64_t fid)
{
    size_t at = 0;
    while (at < queue->doubted_count && queue->doubted[at] != fid)
        at++;
    return at;
}

/* A delete of this chunk has ended; doubted: nobody knows how. */
static void note(engine_store *store, uint64_t fid, bool doubted)
{
    struct delete_queue *queue = &store->deletes;
    pthread_mutex_lock(&queue->lock);
    size_t at = find_doubted(queue, fid);
    if (doubted && at == queue->doubted_count) {
        uint64_t *fids = realloc(queue->doubted, (at + 1) * sizeof *fids);
        if (fids == NULL) {
            queue->all_doubted = true;
        } else {
            queue->doubted = fids;
            queue->doubted[queue->doubted_count++] = fid;
        }
    } else if (!doubted && at < queue->doubted_count) {
        queue->doubted[at] = queue->doubted[--queue->doubted_count];
    }
    pthread_mutex_unlock(&queue->lock);
}

bool deletes_doubt(engine_store *store, uint64_t fid)
{
    pthread_mutex_lock(&store->deletes.lock);
    bool doubted = store->deletes.all_doubted || find_doubted(&store->deletes, fid) < store->deletes.doubted_count;
    pthread_mutex_unlock(&store->deletes.lock);
    return doubted;
}

/* All requests are for one volume, those for the same needle behind each other. */
static void record_group(engine_store *store, struct delete_request **group, size_t count)
{
    struct delete_record records[ROUND_MAX];
    struct volume *volume = volumes_get(store, group[0]->place.slot);
    size_t due = 0;
    engine_error error;
    (void)no_failure(&error);
    for (size_t i = 0; i < count; i++) {
        const struct chunk_place *place = &group[i]->place;
        if (!is_due(store, group[i]) || (due > 0 && group[due - 1]->place.offset == place->offset))
            continue;
        records[due] = (struct delete_record){place->fid, place->offset, 0, place->header_length, place->length};
        struct delete_request *request = group[i];
        group[i] = group[due];
        group[due++] = request;
    }
    if (due == 0)
        return;
    count = due; /* the others look for their chunk again */
    pthread_mutex_lock(&volume->lock);
    uint64_t next_seq = volume->next_seq;
    bool gone = volume->state == VOLUME_GONE;
    pthread_mutex_unlock(&volume->lock);
    /* Compacted since the place was found. The chunk is looked for again; a needle that was superseded did not come
     * along, or is on record as dead where it is. */
    if (gone)
        return;
    /* A durable record of a needle that is not durable would look like lost data after a crash. */
    int status = volumes_sync(store, volume, next_seq, &error);
    bool appended = status == ENGINE_OK;
    if (appended)
        status = delete_log_append(volume, records, count, &error);
    bool doubted = appended && status != ENGINE_OK && delete_log_is_in_doubt(volume);
    for (size_t i = 0; i < count; i++) {
        struct delete_request *request = group[i];
        struct chunk_place place = request->place;
        if (!request->superseded && (doubted || status == ENGINE_OK))
            note(store, place.fid, doubted);
        request->status = status;
        request->error = error;
        if (status != ENGINE_OK)
            continue;
        if (!request->superseded)
            request->removed = chunk_index_remove(store->index, place.fid, place.slot, place.offset, &place);
        if (request->removed || request->superseded)
            account(volume, &request->place, records[i].delete_seq);
        if (request->removed)
            atomic_fetch_add(&store->counters.deletes, 1);
    }
}

static int by_place(const void *left, const void *right)
{
    const struct delete_request *a = *(struct delete_request *const *)left;
    const struct delete_request *b = *(struct delete_request *const *)right;
    if (a->place.slot != b->place.slot)
        return a->place.slot < b->place.slot ? -1 : 1;
    return a->place.offset < b->place.offset ? -1 : a->place.offset > b->place.offset;
}

/* A chunk that is in the index may have an older copy there, too. */
static void record_unreadable(engine_store *store, struct delete_request **round, size_t count)
{
    uint64_t fids[ROUND_MAX];
    size_t fid_count = 0;
    engine_error error;
    (void)no_failure(&error);
    for (size_t i = 0; i < count; i++)
        if (!round[i]->superseded)
            fids[fid_count++] = round[i]->place.fid;
    int status = unreadable_record(store, fids, fid_count, &error);
    for (size_t i = 0; i < count && status != ENGINE_OK; i++)
        if (!round[i]->superseded) {
            round[i]->status = status;
            round[i]->error = error;
        }
}

static void lead_round(engine_store *store, struct delete_request *first)
{
    struct delete_request *round[ROUND_MAX];
    size_t count = 0;
    for (struct delete_request *request = first; request != NULL; request = request->next)
        round[count++] = request;
    qsort(round, count, sizeof round[0], by_place);
    if (store->unreadable_count > 0)
        record_unreadable(store, round, count);
    for (size_t start = 0; start < count;) {
        size_t end = start + 1;
        while (end < count && round[end]->place.slot == round[start]->place.slot)
            end++;
        record_group(store, round + start, end - start);
        start = end;
    }
}

/* deletes.lock is held. Detaches up to ROUND_MAX requests. */
static struct delete_request *take_round(struct delete_queue *queue)
{
    struct delete_request *first = queue->first;
    struct delete_request *last = first;
    for (size_t count = 1; last->next != NULL && count < ROUND_MAX; count++)
        last = last->next;
    queue->first = last->next;
    last->next = NULL;
    return first;
}

static void submit(engine_store *store, struct delete_request *request)
{
    struct delete_queue *queue = &store->deletes;
    pthread_mutex_lock(&queue->lock);
    request->next = queue->first;
    queue->first = request;
    while (!request->done) {
        if (queue->led || queue->holds > 0) {
            /* Bounded: the leader's round ends with its I/O. */
            pthread_cond_wait(&queue->changed, &queue->lock);
            continue;
        }
        queue->led = true;
        struct delete_request *round = take_round(queue);
        pthread_mutex_unlock(&queue->lock);
        lead_round(store, round);
        pthread_mutex_lock(&queue->lock);
        queue->led = false;
        while (round != NULL) {
            struct delete_request *next = round->next;
            round->done = true;
            round = next;
        }
        pthread_cond_broadcast(&queue->changed);
    }
    pthread_mutex_unlock(&queue->lock);
    keeper_wake(store);
}

void deletes_hold(engine_store *store)
{
    struct delete_queue *queue = &store->deletes;
    pthread_mutex_lock(&queue->lock);
    queue->holds++;
    /* Bounded: the round under way ends with its I/O, and no other begins. */
    while (queue->led)
        pthread_cond_wait(&queue->changed, &queue->lock);
    queue->led = true;
    pthread_mutex_unlock(&queue->lock);
}

void deletes_resume(engine_store *store)
{
    struct delete_queue *queue = &store->deletes;
    pthread_mutex_lock(&queue->lock);
    queue->led = false;
    queue->holds--;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

void deletes_block(engine_store *store)
{
    pthread_mutex_lock(&store->deletes.lock);
    store->deletes.blocked = true;
    pthread_mutex_unlock(&store->deletes.lock);
}

void deletes_repair_begins(engine_store *store, struct repair *repair)
{
    pthread_mutex_lock(&store->deletes.lock);
    repair->next = store->deletes.repairs;
    store->deletes.repairs = repair;
    pthread_mutex_unlock(&store->deletes.lock);
}

void deletes_repair_ends(engine_store *store, struct repair *repair)
{
    pthread_mutex_lock(&store->deletes.lock);
    struct repair **at = &store->deletes.repairs;
    while (*at != repair)
        at = &(*at)->next;
    *at = repair->next;
    pthread_cond_broadcast(&store->deletes.changed);
    pthread_mutex_unlock(&store->deletes.lock);
}

/* deletes.lock is held. */
static bool is_repaired(const engine_store *store, uint64_t fid)
{
    for (const struct repair *repair = store->deletes.repairs; repair != NULL; repair = repair->next)
        if (repair->fid == fid)
            return true;
    return false;
}

/* A delete that is on record before the copy that a repair replaced is dead would bring that copy back after a crash.
 * So whoever has found a chunk's place asks here before recording it dead; *waited: the place may be another now. */
static int wait_for_repairs(engine_store *store, uint64_t fid, bool *waited, engine_error *error)
{
    *waited = false;
    pthread_mutex_lock(&store->deletes.lock);
    while (is_repaired(store, fid)) {
        /* Bounded: a repair ends with its turn in the queue and its I/O. */
        pthread_cond_wait(&store->deletes.changed, &store->deletes.lock);
        *waited = true;
    }
    bool blocked = store->deletes.blocked;
    pthread_mutex_unlock(&store->deletes.lock);
    if (blocked)
        return failure(error, ENGINE_FAILED, 0, "an older copy could not be recorded as dead; reopen the store");
    return ENGINE_OK;
}

int deletes_remove(engine_store *store, uint64_t fid, int *removed, engine_error *error)
{
    *removed = 0;
    bool waited;
    int status = wait_for_repairs(store, fid, &waited, error);
    if (status != ENGINE_OK)
        return status;
    for (int chase = 0; chase < CHASES_MAX; chase++) {
        struct delete_request request;
        memset(&request, 0, sizeof request);
        request.unknown = !chunk_index_get(store->index, fid, &request.place, NULL, NULL);
        if (request.unknown && (fid == 0 || store->unreadable_count == 0))
            return ENGINE_OK;
        if (request.unknown)
            request.place = (struct chunk_place){.fid = fid};
        /* After the place was found: a repair that is not seen here had not published, or was over. */
        status = wait_for_repairs(store, fid, &waited, error);
        if (status != ENGINE_OK)
            return status;
        if (waited)
            continue;
        submit(store, &request);
        if (request.status != ENGINE_OK) {
            *error = request.error;
            return request.status;
        }
        if (request.removed || request.unknown) {
            *removed = request.removed;
            return ENGINE_OK;
        }
        /* Someone else deleted it, or a repair moved it: look again. */
    }
    return failure(error, ENGINE_BUSY, 0, "the chunk is being replaced again and again");
}

int deletes_supersede(engine_store *store, const struct chunk_place *place, engine_error *error)
{
    struct delete_request request;
    memset(&request, 0, sizeof request);
    request.place = *place;
    request.superseded = true;
    submit(store, &request);
    if (request.status != ENGINE_OK) {
        *error = request.error;
        deletes_block(store);
    }
    return request.status;
}
