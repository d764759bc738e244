#include "directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"

#define NAMES_MAX 1000000u

static int ascending(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static bool id_list_add(struct id_list *list, uint32_t id)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 64 : 2 * list->capacity;
        uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (ids == NULL)
            return false;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return true;
}

static void id_list_sort(struct id_list *list)
{
    if (list->count > 1)
        qsort(list->ids, list->count, sizeof list->ids[0], ascending);
}

bool id_list_has(const struct id_list *list, uint32_t id)
{
    return list->count > 0 && bsearch(&id, list->ids, list->count, sizeof id, ascending) != NULL;
}

static bool is_temporary(const char *name)
{
    return volume_id_of(name, ".ckp.tmp") != 0 || strcmp(name, "MANIFEST.tmp") == 0 ||
           strcmp(name, "DISK.tmp") == 0 || strcmp(name, "SCRUB.tmp") == 0;
}

static bool is_known(const char *name)
{
    return strcmp(name, "DISK") == 0 || strcmp(name, "LOCK") == 0 || strcmp(name, "MANIFEST") == 0 ||
           strcmp(name, "SCRUB") == 0 || strcmp(name, "lost+found") == 0;
}

static uint32_t beside_id_of(const char *name)
{
    uint32_t id = volume_id_of(name, ".ckp");
    if (id == 0)
        id = volume_id_of(name, ".ckp.old");
    return id != 0 ? id : volume_id_of(name, ".del");
}

static bool add_temporary(struct directory_listing *listing, const char *name)
{
    if (listing->temporary_count == listing->temporary_capacity) {
        size_t capacity = listing->temporary_capacity == 0 ? 8 : 2 * listing->temporary_capacity;
        char(*names)[VOLUME_NAME_BYTES] = realloc(listing->temporaries, capacity * sizeof *names);
        if (names == NULL)
            return false;
        listing->temporaries = names;
        listing->temporary_capacity = capacity;
    }
    (void)strncpy(listing->temporaries[listing->temporary_count], name, VOLUME_NAME_BYTES - 1);
    listing->temporaries[listing->temporary_count++][VOLUME_NAME_BYTES - 1] = 0;
    return true;
}

static void see_name(void *argument, const char *name)
{
    struct directory_listing *listing = argument;
    struct id_list *list = NULL;
    uint32_t id = volume_id_of(name, ".dat");
    if (id != 0) {
        list = &listing->volumes;
    } else if ((id = volume_id_of(name, ".dat.tmp")) != 0) {
        list = &listing->prepared;
    } else if ((id = beside_id_of(name)) != 0) {
        list = &listing->beside;
    } else if (is_temporary(name)) {
        if (listing->temporary_count < NAMES_MAX && !add_temporary(listing, name))
            listing->no_memory = true;
    } else if (!is_known(name)) {
        listing->store->unknown_files++;
    }
    if (list != NULL && list->count < NAMES_MAX && !id_list_add(list, id))
        listing->no_memory = true;
}

int directory_read(engine_store *store, struct directory_listing *listing, engine_error *error)
{
    const struct engine_io *io = store->io;
    memset(listing, 0, sizeof *listing);
    listing->store = store;
    if (io->list(io->context, store->directory, see_name, listing) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot list the directory");
    if (listing->no_memory)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory to list the directory");
    id_list_sort(&listing->volumes);
    id_list_sort(&listing->prepared);
    id_list_sort(&listing->beside);
    /* Names that a process before us made but did not get to sync. */
    if (io->fsync(io->context, store->directory) != 0)
        return failure(error, ENGINE_FAILED, errno, "cannot sync the directory");
    return ENGINE_OK;
}

void directory_free(struct directory_listing *listing)
{
    free(listing->volumes.ids);
    free(listing->prepared.ids);
    free(listing->beside.ids);
    free(listing->temporaries);
    memset(listing, 0, sizeof *listing);
}

static bool has_file(void *argument, uint32_t id)
{
    const struct directory_listing *listing = argument;
    return id_list_has(&listing->volumes, id) || id_list_has(&listing->prepared, id);
}

static void note_removal(struct directory_listing *listing, int result)
{
    listing->removed = listing->removed || result == 0;
    listing->stays = listing->stays || result != 0;
}

/* A prepared file whose COMPACT record holds becomes a volume; all others are of volumes that never came to be. */
static int finish_prepared(struct directory_listing *listing, engine_error *error)
{
    engine_store *store = listing->store;
    const struct engine_io *io = store->io;
    for (size_t i = 0; i < listing->prepared.count; i++) {
        uint32_t id = listing->prepared.ids[i];
        char name[VOLUME_NAME_BYTES];
        char temporary[VOLUME_NAME_BYTES];
        const struct manifest_volume *row = manifest_find(&store->manifest, id);
        volume_name(name, id, ".dat");
        volume_name(temporary, id, ".dat.tmp");
        if (row == NULL || row->replaced || row->withdrawn || id_list_has(&listing->volumes, id)) {
            note_removal(listing, io->unlink(io->context, store->directory, temporary));
            continue;
        }
        /* Where nothing may be changed it is read under the name that it has. */
        if (!store->options.read_only && (io->rename(io->context, store->directory, temporary, name) != 0 ||
                                          io->fsync(io->context, store->directory) != 0))
            return failure(error, ENGINE_FAILED, errno, "cannot name %s", name);
        if (!id_list_add(&listing->volumes, id))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory to list the directory");
        id_list_sort(&listing->volumes);
    }
    return ENGINE_OK;
}

static bool is_replaced(const engine_store *store, uint32_t id)
{
    const struct manifest_volume *row = manifest_find(&store->manifest, id);
    return row != NULL && (row->replaced || row->withdrawn);
}

/* Volumes that others have replaced, and checkpoints and delete logs without a volume. */
static void remove_replaced(struct directory_listing *listing)
{
    engine_store *store = listing->store;
    size_t kept = 0;
    for (size_t i = 0; i < listing->volumes.count; i++) {
        uint32_t id = listing->volumes.ids[i];
        if (is_replaced(store, id))
            note_removal(listing, volume_remove(store->io, store->directory, id));
        else
            listing->volumes.ids[kept++] = id;
    }
    listing->volumes.count = kept;
    for (size_t i = 0; i < listing->beside.count; i++) {
        uint32_t id = listing->beside.ids[i];
        /* Without a volume but with a row that says there is one: evidence of a loss, left alone. */
        bool orphan = !id_list_has(&listing->volumes, id) && manifest_find(&store->manifest, id) == NULL;
        if (orphan || is_replaced(store, id))
            note_removal(listing, volume_remove(store->io, store->directory, id));
    }
}

int directory_tidy(struct directory_listing *listing, engine_error *error)
{
    engine_store *store = listing->store;
    const struct engine_io *io = store->io;
    for (size_t i = 0; i < listing->temporary_count; i++)
        (void)io->unlink(io->context, store->directory, listing->temporaries[i]);
    manifest_settle(&store->manifest, has_file, listing);
    int status = finish_prepared(listing, error);
    if (status != ENGINE_OK)
        return status;
    remove_replaced(listing);
    /* Forgotten only when their names are gone for good: a volume that no record replaces is a volume. */
    if (listing->stays || (listing->removed && io->fsync(io->context, store->directory) != 0))
        return ENGINE_OK;
    return manifest_pack(&store->manifest, error);
}
