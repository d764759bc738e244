/*
 * One compaction, in an order that a crash may cut anywhere:
 *   1. a new volume is written under a temporary name: copies, then its checkpoint, all of it synced;
 *   2. with deletes held back: copies whose needle has died meanwhile get into the new volume's delete log, then the
 *      COMPACT record of the MANIFEST makes the new volume and replaces the old ones in one step, then it gets its name
 *      and the index entries move, each only if it still names the needle that was copied;
 *   3. the old volumes are removed; whoever reads them keeps their files open.
 * Before the record the old volumes are what counts and the next open removes the new one; after it, the reverse.
 */
#include "compaction.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "copying.h"
#include "failure.h"
#include "victims.h"

struct run {
    engine_store *store;
    engine_compaction *report;
    struct victims victims;
    struct move *moves; /* owned; by slot and offset */
    size_t count;
    size_t capacity;
    bool no_memory;
    struct volume *target; /* the table's once it is there */
    bool in_table;
    int publish_status;
    struct copying copying;
};

/* Called with a shard of the index locked. */
static void collect(void *argument, const struct chunk_place *place)
{
    struct run *run = argument;
    if (run->no_memory || !victims_have(&run->victims, place->slot))
        return;
    if (run->count == run->capacity) {
        size_t capacity = run->capacity == 0 ? 4096 : 2 * run->capacity;
        struct move *moves = realloc(run->moves, capacity * sizeof *moves);
        if (moves == NULL) {
            run->no_memory = true;
            return;
        }
        run->moves = moves;
        run->capacity = capacity;
    }
    run->moves[run->count++] = (struct move){.from = *place};
}

static int by_place(const void *left, const void *right)
{
    const struct chunk_place *a = &((const struct move *)left)->from;
    const struct chunk_place *b = &((const struct move *)right)->from;
    if (a->slot != b->slot)
        return a->slot < b->slot ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static int make_target(struct run *run, engine_error *error)
{
    engine_store *store = run->store;
    uint64_t bytes = VOLUME_DATA_START;
    for (size_t i = 0; i < run->count; i++)
        bytes += needle_footprint(run->moves[i].from.length, run->moves[i].from.header_length);
    bytes = round_up(bytes, BLOCK_BYTES);
    uint32_t id = 0;
    int status = volumes_take_id(store, &id, error);
    if (status != ENGINE_OK)
        return status;
    run->target = volume_new(store->io, store->directory, id);
    if (run->target == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
    status = volume_prepare(run->target, &store->identity, bytes, bytes, run->count, error);
    run->target->state = VOLUME_GONE; /* until the record is written */
    return status;
}

/* One victim after the other; one that has a damaged needle is left as it is. */
static int copy_all(struct run *run, engine_error *error)
{
    size_t start = 0;
    while (start < run->count) {
        struct chunk_place damaged;
        size_t end = start + 1;
        while (end < run->count && run->moves[end].from.slot == run->moves[start].from.slot)
            end++;
        struct volume *source = volumes_get(run->store, run->moves[start].from.slot);
        int status = copying_volume(&run->copying, source, run->moves + start, end - start, &damaged, error);
        if (status == ENGINE_CORRUPT)
            victims_leave_damaged(&run->victims, source, &damaged);
        else if (status != ENGINE_OK)
            return status;
        start = end;
    }
    return copying_end(&run->copying, error);
}

/* What is copied, as the next open will find it; nobody else knows the volume yet. */
static int checkpoint_target(struct run *run, engine_error *error)
{
    struct volume *target = run->target;
    struct checkpoint checkpoint = {.tail = run->copying.tail, .next_seq = run->copying.next_seq};
    checkpoint.fid_max = victims_fid_max(&run->victims);
    target->tail = target->checkpoint_tail = checkpoint.tail;
    target->next_seq = checkpoint.next_seq;
    target->synced_seq = checkpoint.next_seq - 1;
    target->fid_max = checkpoint.fid_max;
    struct chunk_place *places = malloc((run->count + 1) * sizeof *places);
    if (places == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a checkpoint");
    for (size_t i = 0; i < run->count; i++) {
        if (run->moves[i].to == 0)
            continue;
        places[checkpoint.count] = run->moves[i].from;
        places[checkpoint.count++].offset = run->moves[i].to;
    }
    checkpoint.places = places;
    /* Syncs the directory, and with it the name of the prepared file. */
    int status = checkpoint_write(target, &checkpoint, error);
    free(places);
    return status;
}

/* Records as dead those copies, among the ones that dead marks, and queues their blocks to be returned. */
static int bury_copies(struct run *run, const bool *dead, size_t dead_count, engine_error *error)
{
    struct volume *target = run->target;
    if (dead_count == 0)
        return ENGINE_OK;
    struct delete_record *records = malloc(dead_count * sizeof *records);
    if (records == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for delete records");
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        const struct chunk_place *from = &run->moves[i].from;
        if (dead[i])
            records[count++] = (struct delete_record){from->fid, run->moves[i].to, 0, from->header_length, from->length};
    }
    int status = delete_log_append(target, records, count, error);
    for (size_t i = 0; i < count && status == ENGINE_OK; i++) {
        struct punch punch = {records[i].offset, records[i].delete_seq, records[i].header_length,
                              records[i].payload_length};
        volume_bury(target, &punch);
    }
    free(records);
    return status;
}

/* Deletes are held back. Copies of needles that are not live any more. */
static int bury_dead(struct run *run, bool *dead, engine_error *error)
{
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        struct chunk_place now;
        const struct chunk_place *from = &run->moves[i].from;
        dead[i] = run->moves[i].to != 0 && !(chunk_index_get(run->store->index, from->fid, &now, NULL, NULL) &&
                                             now.slot == from->slot && now.offset == from->offset);
        if (dead[i])
            count++;
    }
    int status = bury_copies(run, dead, count, error);
    for (size_t i = 0; i < run->count; i++)
        if (dead[i])
            run->moves[i].to = 0;
    return status;
}

static int commit(struct run *run, bool *in_doubt, engine_error *error)
{
    const struct volume *target = run->target;
    uint32_t replaced[MANIFEST_REPLACED_MAX];
    size_t count = victims_ids(&run->victims, replaced);
    struct manifest_volume made = {.id = target->id, .size = target->size, .tail = target->tail};
    memcpy(made.uuid, target->uuid, sizeof made.uuid);
    made.fid_max = target->fid_max;
    return manifest_append_compaction(&run->store->manifest, &made, replaced, count, in_doubt, error);
}

/* Deletes are held back, the record is written: from here on nothing fails any more but the burial of what repairs
 * replaced since bury_dead. */
static void swap(struct run *run, bool *dead)
{
    engine_store *store = run->store;
    struct volume *target = run->target;
    size_t dead_count = 0;
    uint64_t chunks = 0;
    uint64_t payload_bytes = 0;
    uint64_t live_bytes = 0;
    pthread_mutex_lock(&target->lock);
    target->state = VOLUME_SEALED;
    pthread_mutex_unlock(&target->lock);
    for (size_t i = 0; i < run->count; i++) {
        const struct chunk_place *from = &run->moves[i].from;
        struct chunk_place to = *from;
        to.slot = target->slot;
        to.offset = run->moves[i].to;
        dead[i] = to.offset != 0 && !chunk_index_move(store->index, from, &to);
        if (dead[i])
            dead_count++;
        if (to.offset == 0 || dead[i])
            continue;
        chunks++;
        payload_bytes += from->length;
        live_bytes += needle_footprint(from->length, from->header_length);
    }
    pthread_mutex_lock(&target->lock);
    target->chunks += chunks;
    target->payload_bytes += payload_bytes;
    target->live_bytes += live_bytes;
    pthread_mutex_unlock(&target->lock);
    victims_set_gone(&run->victims);
    engine_error ignored;
    /* Both copies of such a chunk hold the same bytes. But a delete would record one of them only. */
    if (bury_copies(run, dead, dead_count, &ignored) != ENGINE_OK)
        deletes_block(store);
    run->report->chunks_copied += chunks;
}

/* Whether the record got to the disk is open. Without its volume's file it does not hold; on record, so that it stays
 * so when the old volumes are compacted again. */
static void withdraw_record(struct run *run)
{
    engine_store *store = run->store;
    engine_error ignored;
    struct manifest_volume row = {.id = run->target->id, .size = run->target->size};
    memcpy(row.uuid, run->target->uuid, sizeof row.uuid);
    if (volume_withdraw(run->target) == 0) {
        (void)manifest_append(&store->manifest, MANIFEST_WITHDRAW, &row, &ignored);
        return;
    }
    deletes_block(store);
    store->compactor.broken = true;
}

/* keeper.work is held: no checkpoint of the old volumes or the new one is under way. */
static int replace(struct run *run, engine_error *error)
{
    engine_store *store = run->store;
    bool in_doubt = false;
    bool *dead = calloc(run->count + 1, sizeof *dead);
    if (dead == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory to replace volumes");
    int status = volumes_add(store, run->target, error);
    if (status == ENGINE_OK) {
        run->in_table = true;
        deletes_hold(store);
        status = bury_dead(run, dead, error);
        if (status == ENGINE_OK)
            status = commit(run, &in_doubt, error);
        if (status == ENGINE_OK) {
            /* It counts with either name. Without its own, the old volumes are the next open's to remove. */
            run->publish_status = volume_publish(run->target, error);
            swap(run, dead);
        }
        /* Deletes go on only when it is clear which volumes count. */
        if (in_doubt)
            withdraw_record(run);
        deletes_resume(store);
    }
    free(dead);
    return status;
}

/* Nothing came of it. */
static void withdraw(struct run *run)
{
    struct volume *target = run->target;
    if (target == NULL)
        return;
    if (target->file >= 0)
        (void)volume_withdraw(target);
    /* What belongs to a volume that may yet turn out to be there is the next open's. */
    if (!run->store->compactor.broken)
        (void)volume_remove(run->store->io, run->store->directory, target->id);
    if (!run->in_table)
        volume_free(target);
    run->target = NULL;
}

/* The record holds. What fails here the next open does again. */
static int finish(struct run *run, engine_error *error)
{
    const struct engine_io *io = run->store->io;
    struct volume *target = run->target;
    if (run->publish_status != ENGINE_OK)
        return run->publish_status;
    volume_give_back(target);
    uint64_t taken = 0;
    uint64_t before = victims_allocated(&run->victims);
    if (io->allocated(io->context, target->file, &taken) == 0 && before > taken)
        run->report->bytes_given_back += before - taken;
    run->report->volumes_made++;
    return victims_remove(&run->victims, run->report, error);
}

static int run_all(struct run *run, const struct compaction_terms *terms, engine_error *error)
{
    engine_store *store = run->store;
    victims_pin(&run->victims);
    chunk_index_visit(store->index, collect, run);
    if (run->no_memory)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory to list needles");
    if (run->count > 1)
        qsort(run->moves, run->count, sizeof run->moves[0], by_place);
    int status = make_target(run, error);
    if (status == ENGINE_OK)
        status = copying_begin(&run->copying, store, run->target, error);
    run->copying.go_on = terms->go_on;
    run->copying.argument = terms->argument;
    if (status == ENGINE_OK)
        status = copy_all(run, error);
    run->report->bytes_copied += run->copying.flushed_bytes;
    copying_free(&run->copying);
    if (status == ENGINE_OK && victims_left(&run->victims) == 0) {
        withdraw(run);
        return ENGINE_OK;
    }
    if (status == ENGINE_OK)
        status = checkpoint_target(run, error);
    if (status == ENGINE_OK) {
        pthread_mutex_lock(&store->keeper.work);
        status = replace(run, error);
        pthread_mutex_unlock(&store->keeper.work);
    }
    if (status != ENGINE_OK) {
        withdraw(run);
        return status;
    }
    atomic_fetch_add(&store->counters.compactions, 1);
    return finish(run, error);
}

int compaction_run(engine_store *store, const struct compaction_terms *terms, engine_compaction *report, bool *found,
                   engine_error *error)
{
    struct run run = {.store = store, .report = report};
    *found = false;
    if (store->compactor.broken)
        return failure(error, ENGINE_FAILED, 0, "an earlier compaction is in doubt; reopen the store");
    int status = victims_drop_empty(store, terms, report, error);
    if (status == ENGINE_OK)
        status = victims_choose(&run.victims, store, terms, error);
    if (status == ENGINE_OK && run.victims.count > 0) {
        *found = true;
        status = run_all(&run, terms, error);
    }
    victims_free(&run.victims);
    free(run.moves);
    keeper_wake(store);
    return status;
}
