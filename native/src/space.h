/* What the disk has left, and how much of it may be taken. Internal. */
#ifndef SPEEDY_SPACE_H
#define SPEEDY_SPACE_H

#include <stdint.h>

#include "engine.h"
#include "volume.h"

/* What the file system says, and what of it the store may use. */
struct disk_space {
    uint64_t free_bytes;
    uint64_t total_bytes;
    uint64_t reserve_bytes;
    uint64_t usable_bytes; /* free above the reserve */
};

/* 0, or -1 and errno. */
int space_read(engine_store *store, struct disk_space *space);
/* The size that a volume made now gets. */
uint64_t space_volume_size(engine_store *store, const struct disk_space *space);
/* How much is taken from the disk at once: VOLUME_ALLOCATION_STEP_MAX, or less on a disk that has little left. */
uint64_t space_step(const struct disk_space *space);
/* Takes space above the reserve for the volume up to end, and for the delete records of so many more needles. DISK_FULL with
 * nothing lost. */
int space_take(engine_store *store, struct volume *volume, uint64_t end, unsigned needles, engine_error *error);
/* DISK_FULL, with the numbers and the option that belong to it. */
int space_refuse(const struct disk_space *space, uint64_t wanted_bytes, engine_error *error);

#endif
