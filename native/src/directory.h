/* What lies in a store's directory when it is opened, and putting away what a process before us left half done. */
#ifndef SPEEDY_DIRECTORY_H
#define SPEEDY_DIRECTORY_H

#include "store.h"

struct id_list {
    uint32_t *ids; /* owned; ascending once directory_read is through */
    size_t count;
    size_t capacity;
};

struct directory_listing {
    engine_store *store;
    struct id_list volumes;  /* v<id>.dat */
    struct id_list prepared; /* v<id>.dat.tmp */
    struct id_list beside;   /* checkpoints and delete logs, an id for each file */
    char (*temporaries)[VOLUME_NAME_BYTES]; /* owned; other unfinished files */
    size_t temporary_count;
    size_t temporary_capacity;
    bool no_memory;
    bool removed; /* a file was, since the directory was synced */
    bool stays;   /* a file that should go could not be removed */
};

/* Lists, and makes durable what it lists. End with directory_free also after a failure. */
int directory_read(engine_store *store, struct directory_listing *listing, engine_error *error);
void directory_free(struct directory_listing *listing);
bool id_list_has(const struct id_list *list, uint32_t id);
/*
 * With the MANIFEST open: settles which compactions hold, names their volumes, and removes replaced volumes, the files
 * of volumes that never came to be, and everything unfinished; then the MANIFEST may forget them. What cannot be
 * removed stays for the next open. FAILED: a volume that holds acknowledged chunks could not be named.
 */
int directory_tidy(struct directory_listing *listing, engine_error *error);

#endif
