/*
 * Volumes that could not be read when the store was opened: their file is gone, cannot be opened, or both superblocks are
 * damaged; or the disk refused to read a part of them. What is there is missing from the index, and may be back after
 * the next opening; so may what was deleted meanwhile. A delete is therefore recorded in the delete log of each of them too, with offset 0, before it counts: every
 * needle of this fid that is in the volume is dead. Such a volume takes no chunks any more, so no later one is meant.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store.h"
#include "unreadable.h"

#define NOT_IN_TABLE UINT32_MAX /* as a slot */

static const uint8_t no_uuid[16] = {0};

/* What the volume's log needs to take records; without it, it takes none. */
static int prepare(struct volume *volume, const struct manifest_volume *row, bool newer, engine_error *error)
{
    struct delete_set set;
    if (row != NULL && memcmp(row->uuid, no_uuid, sizeof no_uuid) != 0)
        memcpy(volume->uuid, row->uuid, sizeof volume->uuid);
    volume->fid_max = row != NULL && row->sealed ? row->fid_max : UINT64_MAX;
    if (newer || memcmp(volume->uuid, no_uuid, sizeof no_uuid) == 0)
        volume->delete_failed = true;
    if (volume->delete_failed)
        return ENGINE_OK;
    int status = delete_log_load(volume, &set, error);
    delete_set_free(&set);
    return status == ENGINE_NO_MEMORY || status == ENGINE_BUSY ? status : ENGINE_OK;
}

int unreadable_note(engine_store *store, struct volume *volume, engine_error *error)
{
    struct volume **volumes = realloc(store->unreadable, (store->unreadable_count + 1) * sizeof *volumes);
    if (volumes == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a volume");
    store->unreadable = volumes;
    store->unreadable[store->unreadable_count++] = volume;
    return ENGINE_OK;
}

int unreadable_keep(engine_store *store, struct volume *volume, const struct manifest_volume *row, bool newer,
                    engine_error *error)
{
    int status = unreadable_note(store, volume, error);
    if (status != ENGINE_OK) {
        volume_free(volume);
        return status;
    }
    volume->slot = NOT_IN_TABLE;
    io_close(store->io, volume->file);
    volume->file = -1;
    return store->options.read_only ? ENGINE_OK : prepare(volume, row, newer, error);
}

uint32_t unreadable_count(const engine_store *store)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < store->unreadable_count; i++)
        if (store->unreadable[i]->slot == NOT_IN_TABLE)
            count++;
    return count;
}

void unreadable_free(engine_store *store)
{
    for (uint32_t i = 0; i < store->unreadable_count; i++)
        if (store->unreadable[i]->slot == NOT_IN_TABLE)
            volume_free(store->unreadable[i]);
    free(store->unreadable);
}

int unreadable_record(engine_store *store, const uint64_t *fids, size_t count, engine_error *error)
{
    int status = ENGINE_OK;
    struct delete_record *records = calloc(count + 1, sizeof *records);
    if (records == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for delete records");
    for (uint32_t i = 0; i < store->unreadable_count && status == ENGINE_OK; i++) {
        struct volume *volume = store->unreadable[i];
        size_t due = 0;
        for (size_t at = 0; at < count; at++)
            if (volume->slot != NOT_IN_TABLE || fids[at] <= volume->fid_max)
                records[due++] = (struct delete_record){.fid = fids[at]};
        if (due == 0)
            continue;
        status = delete_log_append(volume, records, due, error);
        if (status == ENGINE_FAILED)
            status = failure(error, ENGINE_FAILED, 0,
                             "volume %u cannot be read now, nor its delete log be written: what is deleted could come "
                             "back with it",
                             (unsigned)volume->id);
    }
    free(records);
    return status;
}
