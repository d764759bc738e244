/* The table of volumes: each has a slot, for as long as the store is open. Internal. */
#ifndef SPEEDY_VOLUMES_H
#define SPEEDY_VOLUMES_H

#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"
#include "volume.h"

#define VOLUMES_PER_BLOCK 1024u /* the table of volumes grows by such pieces, which never move */
#define VOLUME_BLOCKS ((CHUNK_SLOT_MAX + 1) / VOLUMES_PER_BLOCK)

struct volume *volumes_get(engine_store *store, uint32_t slot);
uint32_t volumes_count(engine_store *store);
/* Gives the volume its slot; the table owns it from then on. */
int volumes_add(engine_store *store, struct volume *volume, engine_error *error);
void volumes_free(engine_store *store);
/* An empty prepared volume with room for the footprint, or NULL. */
struct volume *volumes_standby(engine_store *store, uint64_t footprint);
/* An id that no volume ever had, for one that will need a slot too. FAILED when there is none. */
int volumes_take_id(engine_store *store, uint32_t *id, engine_error *error);
/* Makes a volume with room for a needle of this footprint, in state standby. volumes_create is locked. */
int volumes_create(engine_store *store, uint64_t footprint, struct volume **volume, engine_error *error);
/* Makes every needle before next_seq durable. Only without options.sync is there anything to do. */
int volumes_sync(engine_store *store, struct volume *volume, uint64_t next_seq, engine_error *error);
/* Sets space aside for the delete records of all that is live in the volume. What the disk does not have now is asked
 * for again later. */
void volumes_provide(struct volume *volume);
/* The volume is written by nobody any more; whoever has claimed it still releases it. */
void volumes_fail(engine_store *store, struct volume *volume);

#endif
