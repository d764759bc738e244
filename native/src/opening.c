/*
 * From files to an index: which volumes there are (MANIFEST and directory), what is in each (checkpoint, delete log,
 * scan), and which one takes the next chunk. Trouble with one volume quarantines that volume and nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "directory.h"
#include "failure.h"
#include "filling.h"
#include "opening.h"
#include "reader.h"
#include "recovery.h"
#include "store.h"
#include "unreadable.h"

static int index_recovered(engine_store *store, struct volume *volume, const struct recovery *recovery,
                           struct loser_list *losers, engine_error *error)
{
    int status = ENGINE_OK;
    for (size_t i = 0; i < recovery->count && status == ENGINE_OK; i++) {
        const struct needle *needle = &recovery->needles[i].needle;
        if (needle->flags & (NEEDLE_PAD | NEEDLE_TOMBSTONE))
            continue;
        if (needle->fid > volume->fid_max)
            volume->fid_max = needle->fid;
        if (recovery->needles[i].deleted)
            continue;
        struct chunk_place place = {
            .fid = needle->fid,
            .offset = needle->offset,
            .slot = volume->slot,
            .header_length = needle->header_length,
            .length = (uint32_t)needle->payload_length,
            .crc32c = needle->payload_crc,
            .created_s = (uint32_t)(needle->created_us / 1000000u),
        };
        status = filling_add(store, &place, losers, error);
    }
    return status;
}

static int index_checkpoint(engine_store *store, struct volume *volume, const struct checkpoint *checkpoint,
                            const struct delete_set *deleted, struct loser_list *losers, engine_error *error)
{
    bool any_deleted;
    volume->tail = checkpoint->tail;
    volume->next_seq = checkpoint->next_seq;
    volume->fid_max = checkpoint->fid_max > volume->fid_max ? checkpoint->fid_max : volume->fid_max;
    volume->pad_bytes = checkpoint->pad_bytes;
    volume->punched_seq = checkpoint->punched_seq;
    volume->punched_bytes = checkpoint->punched_bytes;
    volume->checkpoint_tail = checkpoint->tail;
    int status = filling_add_checkpoint(store, volume, checkpoint, deleted, losers, &any_deleted, error);
    if (any_deleted)
        volume->changed = true;
    return status;
}

static int quarantine(engine_store *store, struct volume *volume, const struct manifest_volume *row)
{
    engine_error ignored;
    volume->state = VOLUME_QUARANTINED;
    if (row != NULL && row->quarantined)
        return ENGINE_OK;
    struct manifest_volume record = {.id = volume->id, .size = volume->size, .tail = volume->tail};
    memcpy(record.uuid, volume->uuid, sizeof record.uuid);
    record.fid_max = volume->fid_max;
    /* If this cannot be written the next open finds the same damage again. */
    (void)manifest_append(&store->manifest, MANIFEST_QUARANTINE, &record, &ignored);
    return ENGINE_OK;
}

/* Dead needles whose blocks the checkpoint does not know to be returned. Punching twice is harmless. */
static void queue_punches(struct volume *volume, const struct delete_set *deleted)
{
    for (size_t i = 0; i < deleted->count; i++) {
        const struct delete_record *record = &deleted->records[i];
        if (record->offset == 0)
            continue; /* it may never have been here */
        if (record->fid > volume->fid_max)
            volume->fid_max = record->fid;
        /* Nothing is punched in such a volume, so nothing about it has changed. */
        if (volume->state == VOLUME_FAILED || volume->state == VOLUME_QUARANTINED)
            continue;
        if (record->delete_seq <= volume->punched_seq || record->offset < VOLUME_DATA_START ||
            record->offset >= volume->tail ||
            needle_footprint(record->payload_length, record->header_length) > volume->tail - record->offset)
            continue;
        struct punch punch = {record->offset, record->delete_seq, record->header_length, record->payload_length};
        volume_bury(volume, &punch);
    }
}

/* A disk that refuses fails the volume. Want of memory says nothing of the disk: the opening ends, and the next one finds
 * what this one found or what it had written of the same repair. */
static int repair(struct volume *volume, const struct recovery *recovery, engine_error *error)
{
    engine_error reason;
    int status = recovery_repair(volume, recovery, &reason);
    if (status == ENGINE_NO_MEMORY || status == ENGINE_BUSY) {
        *error = reason;
        return status;
    }
    if (status != ENGINE_OK)
        volume->state = VOLUME_FAILED;
    return ENGINE_OK;
}

/* Reads checkpoint and what came after. lost: acknowledged bytes are missing. */
static int read_needles(engine_store *store, struct volume *volume, const struct manifest_volume *row, bool short_file,
                        const struct delete_set *deleted, struct loser_list *losers, engine_error *error)
{
    const struct engine_io *io = store->io;
    struct checkpoint checkpoint;
    struct recovery recovery;
    memset(&recovery, 0, sizeof recovery);
    bool sealed = row != NULL && (row->sealed || row->failed);
    bool quarantined = short_file || (row != NULL && row->quarantined);
    uint64_t limit = sealed && row->tail <= volume->size && row->tail >= volume->tail ? row->tail : volume->size;
    int status = checkpoint_load(volume, &checkpoint, error);
    if (status == ENGINE_OK)
        status = index_checkpoint(store, volume, &checkpoint, deleted, losers, error);
    else if (status == ENGINE_NOT_FOUND)
        status = ENGINE_OK;
    if (status != ENGINE_OK)
        goto cleanup;
    /* Past the page cache: after a failed fsync it shows bytes that the disk never got. Dirty pages of a process that was
     * killed are written first. */
    if (!sealed && !quarantined && io->fdatasync(io->context, volume->file) != 0) {
        volume->state = VOLUME_FAILED;
        sealed = true;
    }
    if (volume->tail < limit) {
        uint64_t start = round_down(volume->tail, BLOCK_BYTES);
        (void)io->drop_cache(io->context, volume->file, start, volume->size - start);
        status = recovery_scan(volume, volume->tail, volume->next_seq, limit, !(row != NULL && row->sealed), deleted,
                               &recovery, error);
        if (status != ENGINE_OK)
            goto cleanup;
        /* Up to the tail of a volume that was closed everything was acknowledged. */
        if (recovery.lost || (limit < volume->size && recovery.tail < limit))
            quarantined = true;
        if (!sealed && !quarantined && !store->options.read_only)
            status = repair(volume, &recovery, error);
        if (status != ENGINE_OK)
            goto cleanup;
        if (recovery.tail > volume->tail)
            volume->changed = true;
        volume->tail = recovery.tail;
        volume->next_seq = recovery.next_seq;
        volume->pad_bytes += recovery.pad_bytes;
        status = index_recovered(store, volume, &recovery, losers, error);
        if (status == ENGINE_OK && recovery.unread)
            status = unreadable_note(store, volume, error);
    }
    if (status == ENGINE_OK && quarantined)
        status = quarantine(store, volume, row);
    volume->synced_seq = volume->next_seq - 1;
    /* What the file takes, and what it has given back, is where its space ends; rounded down, because the file system
     * counts its own blocks too. Too low only means that the same space is asked for again. */
    volume->allocated = round_down(volume->allocated + volume->punched_bytes, VOLUME_ALLOCATION_UNIT);
    if (volume->allocated > volume->size)
        volume->allocated = volume->size;
    if (volume->allocated < round_up(volume->tail, BLOCK_BYTES))
        volume->allocated = round_up(volume->tail, BLOCK_BYTES);
cleanup:
    recovery_free(&recovery);
    checkpoint_free(&checkpoint);
    return status;
}

/* One volume. Only lack of memory is an error to the store. */
static int read_volume(engine_store *store, uint32_t id, struct loser_list *losers, engine_error *error)
{
    const struct manifest_volume *known = manifest_find(&store->manifest, id);
    struct manifest_volume copy;
    const struct manifest_volume *row = NULL;
    struct delete_set deleted;
    bool short_file = false;
    memset(&deleted, 0, sizeof deleted);
    if (known != NULL) {
        copy = *known; /* the table moves when records are appended */
        row = &copy;
    }
    struct volume *volume = volume_new(store->io, store->directory, id);
    if (volume == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
    int status = volume_open(volume, &store->identity, &short_file, error);
    if (status == ENGINE_OK)
        status = delete_log_load(volume, &deleted, error);
    if (status == ENGINE_OK)
        status = volumes_add(store, volume, error);
    if (status != ENGINE_OK) {
        /* Without its delete log a volume would bring deleted chunks back: rather none of it until the next open. */
        delete_set_free(&deleted);
        if (status != ENGINE_NO_MEMORY && status != ENGINE_BUSY)
            return unreadable_keep(store, volume, row, status == ENGINE_MISMATCH, error);
        volume_free(volume);
        return status; /* the volume may be good: a store without it would deny what it has */
    }
    store->damaged_records += deleted.damaged_records;
    if (row == NULL && !store->options.read_only) {
        /* Made just before a crash, or its record was damaged: nothing distinguishes the two, and both are welcome. */
        struct manifest_volume adopted = {.id = id, .size = volume->size};
        memcpy(adopted.uuid, volume->uuid, sizeof adopted.uuid);
        status = manifest_append(&store->manifest, MANIFEST_CREATE, &adopted, error);
        if (status != ENGINE_OK && status != ENGINE_NO_MEMORY) {
            volume->state = VOLUME_FAILED; /* readable, but nothing may be acknowledged into it */
            volume->failure_recorded = true; /* nothing of it has failed: the next open tries again */
        }
        status = ENGINE_OK;
    } else if (row == NULL) {
        /* Left as it is found. */
    } else if (row->quarantined) {
        volume->state = VOLUME_QUARANTINED;
    } else if (row->failed) {
        volume->state = VOLUME_FAILED;
        volume->failure_recorded = true;
    } else if (row->sealed) {
        volume->state = VOLUME_SEALED;
    }
    /* A record without a place is about what was there before: nothing may follow. */
    if (volume->state == VOLUME_STANDBY && delete_set_has_everywhere(&deleted))
        volume->state = VOLUME_CLOSING;
    volume->fid_max = row != NULL ? row->fid_max : 0;
    status = read_needles(store, volume, row, short_file, &deleted, losers, error);
    if (status == ENGINE_OK) {
        queue_punches(volume, &deleted);
        if (!store->options.read_only)
            volumes_provide(volume);
    }
    delete_set_free(&deleted);
    return status;
}

/* The volumes that go on: the last that have needles, one for each appender. Others with needles are closed, empty ones
 * wait until they are needed. */
static void choose_active(engine_store *store)
{
    for (uint32_t left = volumes_count(store); left > 0; left--) {
        struct volume *volume = volumes_get(store, left - 1);
        if (volume->state != VOLUME_STANDBY || volume->tail == VOLUME_DATA_START)
            continue;
        if (store->active_count == store->appender_count) {
            volume->state = VOLUME_CLOSING;
            continue;
        }
        volume->state = VOLUME_ACTIVE;
        store->active[store->active_count++] = volume;
    }
}

/* The copy of a chunk that is given up for the other, or NULL for none. A volume in quarantine has lost bytes that it had:
 * the one that won is read then, and if it is not whole but the other is, that takes its place. */
static const struct chunk_place *given_up(engine_store *store, const struct chunk_place *loser,
                                          struct chunk_place *winner)
{
    engine_error ignored;
    if (!chunk_index_get(store->index, loser->fid, winner, NULL, NULL) ||
        volumes_get(store, winner->slot)->state != VOLUME_QUARANTINED ||
        reader_verify(store, loser->fid, &ignored) == ENGINE_OK)
        return loser;
    if (!chunk_index_move(store->index, winner, loser))
        return NULL;
    if (reader_verify(store, loser->fid, &ignored) != ENGINE_OK) {
        (void)chunk_index_move(store->index, loser, winner); /* a third copy is held against the same one */
        return NULL;
    }
    filling_unbook(store, winner);
    filling_book(store, loser);
    return winner;
}

static void bury_losers(engine_store *store, const struct loser_list *losers)
{
    for (size_t i = 0; i < losers->count; i++) {
        struct chunk_place winner;
        const struct chunk_place *place = given_up(store, &losers->places[i], &winner);
        if (place == NULL)
            continue;
        struct volume *volume = volumes_get(store, place->slot);
        struct delete_record record = {place->fid, place->offset, 0, place->header_length, place->length};
        engine_error ignored;
        if (delete_log_append(volume, &record, 1, &ignored) != ENGINE_OK) {
            store->deletes.blocked = true;
            continue;
        }
        struct punch punch = {place->offset, record.delete_seq, place->header_length, place->length};
        volume_bury(volume, &punch);
    }
}

/* Ids are not given twice. */
static void see_id(engine_store *store, uint32_t id)
{
    if (id >= store->next_id)
        store->next_id = id < VOLUME_ID_MAX ? id + 1 : VOLUME_ID_MAX + 1;
}

static int read_all(engine_store *store, const struct directory_listing *listing, engine_error *error)
{
    struct loser_list losers;
    int status = ENGINE_OK;
    memset(&losers, 0, sizeof losers);
    uint64_t expected = 0;
    for (size_t i = 0; i < listing->volumes.count; i++)
        expected += checkpoint_announces(store->io, store->directory, listing->volumes.ids[i]);
    /* Growing step by step would move every entry several times. Where there is no memory, filling will tell. */
    (void)chunk_index_expect(store->index, expected);
    for (size_t i = 0; i < listing->volumes.count && status == ENGINE_OK; i++)
        status = read_volume(store, listing->volumes.ids[i], &losers, error);
    for (size_t i = 0; i < store->manifest.count && status == ENGINE_OK; i++) {
        const struct manifest_volume row = store->manifest.volumes[i];
        see_id(store, row.id);
        if (row.replaced || row.withdrawn || id_list_has(&listing->volumes, row.id))
            continue;
        /* MANIFEST knows a volume whose file is gone. */
        struct volume *volume = volume_new(store->io, store->directory, row.id);
        if (volume == NULL)
            status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
        else
            status = unreadable_keep(store, volume, &row, false, error);
    }
    /* No file of another life, not even one that could not be removed, may lie where a new volume's will. */
    const struct id_list *const lists[] = {&listing->volumes, &listing->prepared, &listing->beside};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        if (lists[i]->count > 0)
            see_id(store, lists[i]->ids[lists[i]->count - 1]);
    if (status == ENGINE_OK) {
        choose_active(store);
        bury_losers(store, &losers);
    }
    free(losers.places);
    return status;
}

int opening_read(engine_store *store, engine_error *error)
{
    struct directory_listing listing;
    store->next_id = 1;
    int status = directory_read(store, &listing, error);
    if (status == ENGINE_OK)
        status = manifest_open(&store->manifest, store->io, store->directory, error);
    if (status == ENGINE_OK)
        status = directory_tidy(&listing, error);
    if (status == ENGINE_OK) {
        atomic_store(&store->replaced_fid_max, manifest_replaced_fid_max(&store->manifest));
        if (!store->options.read_only)
            manifest_provide(&store->manifest);
        status = read_all(store, &listing, error);
    }
    store->damaged_records += store->manifest.damaged_records;
    scrub_open(store);
    directory_free(&listing);
    return status;
}
