/* Volumes that could not be read when the store was opened. Internal. */
#ifndef SPEEDY_UNREADABLE_H
#define SPEEDY_UNREADABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "manifest.h"
#include "volume.h"

/* Takes the volume, which has no place in the table; row may be NULL; newer: of a format that is to be left alone. */
int unreadable_keep(engine_store *store, struct volume *volume, const struct manifest_volume *row, bool newer,
                    engine_error *error);
/* Notes a volume of the table of which a part could not be read. */
int unreadable_note(engine_store *store, struct volume *volume, engine_error *error);
/* Those without a place in the table. */
uint32_t unreadable_count(const engine_store *store);
/* Before the table goes. */
void unreadable_free(engine_store *store);
/* Makes durable that these chunks are deleted in whichever volume cannot be read now. FAILED: it cannot be recorded. */
int unreadable_record(engine_store *store, const uint64_t *fids, size_t count, engine_error *error);

#endif
