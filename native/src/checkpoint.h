/* v<id>.ckp: the live chunks of a volume up to a tail, so that opening need not read the volume. */
#ifndef SPEEDY_CHECKPOINT_H
#define SPEEDY_CHECKPOINT_H

#include "chunk_index.h"
#include "volume.h"

struct checkpoint {
    uint64_t tail;
    uint64_t next_seq;
    uint64_t fid_max;
    uint64_t pad_bytes;
    uint64_t punched_seq;
    uint64_t punched_bytes;
    struct chunk_place *places; /* to write; borrowed */
    uint8_t *content;           /* loaded; owned: the file, checked */
    size_t count;
};

/* The newest valid checkpoint of a volume; NOT_FOUND when there is none (the volume is scanned then). */
int checkpoint_load(struct volume *volume, struct checkpoint *checkpoint, engine_error *error);
void checkpoint_free(struct checkpoint *checkpoint);
/* The chunk number i < count of one that was loaded, in ascending order of fids; its slot is to be filled in. */
void checkpoint_place(const struct checkpoint *checkpoint, size_t i, struct chunk_place *place);
/* Its fid alone. */
uint64_t checkpoint_fid(const struct checkpoint *checkpoint, size_t i);
/* How many chunks a volume's checkpoint announces; 0 when there is none, or its header does not fit the file: room is made
 * for so many before they are read. A hint, not checked further. */
uint64_t checkpoint_announces(const struct engine_io *io, int directory, uint32_t volume_id);
/* Writes the checkpoint, keeping the one before as .ckp.old. Sorts places. */
int checkpoint_write(struct volume *volume, struct checkpoint *checkpoint, engine_error *error);

#endif
