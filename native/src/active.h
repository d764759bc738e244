/* The volumes that are being written to. Internal. */
#ifndef SPEEDY_ACTIVE_H
#define SPEEDY_ACTIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "volume.h"

/* An active volume with room and space for the footprint, which only the caller writes until active_release. DISK_FULL
 * when neither the disk nor any active or prepared volume has the space. */
int active_claim(engine_store *store, uint64_t footprint, unsigned needles, struct volume **volume, engine_error *error);
void active_release(engine_store *store, struct volume *volume);
/* Closes it unless somebody writes to it; the keeper seals it. False when it goes on. */
bool active_close(engine_store *store, struct volume *volume);
/* Takes space for the active volumes before the appenders have to, and prepares the volume after them. */
void active_prepare(engine_store *store);
/* True when there is something to prepare. */
bool active_needs_care(engine_store *store);

#endif
