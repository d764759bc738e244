/* The volumes that a compaction empties. */
#ifndef SPEEDY_VICTIMS_H
#define SPEEDY_VICTIMS_H

#include "compaction.h"

struct victim {
    struct volume *volume;
    uint64_t needed_bytes; /* for its live needles in a volume of their own */
    uint64_t taken_bytes;  /* of the disk, now */
    unsigned epoch;
    bool pinned;
    bool damaged; /* a needle cannot be copied: the volume stays */
};

struct victims {
    engine_store *store;
    struct victim items[MANIFEST_REPLACED_MAX];
    size_t count;
    bool *chosen; /* owned; by slot */
    uint32_t slot_count;
};

/* The volumes that give back most for each byte that must be copied, as many as fit into one, and with them small ones,
 * so that these do not become many. Leaves count 0 when there are none. DISK_FULL: none that would fit on the disk. */
int victims_choose(struct victims *victims, engine_store *store, const struct compaction_terms *terms,
                   engine_error *error);
void victims_free(struct victims *victims);
bool victims_have(const struct victims *victims, uint32_t slot);
/* From here on a needle of theirs that is found in the index keeps its bytes. */
void victims_pin(struct victims *victims);
void victims_leave_damaged(struct victims *victims, struct volume *volume, const struct chunk_place *place);

/* What follows is about those that are not left. */
size_t victims_left(const struct victims *victims);
size_t victims_ids(const struct victims *victims, uint32_t ids[MANIFEST_REPLACED_MAX]);
uint64_t victims_fid_max(const struct victims *victims);
uint64_t victims_allocated(const struct victims *victims);
/* keeper.work is held and deletes are held back: from now on only readers that came before use them. */
void victims_set_gone(struct victims *victims);
/* Removes their files, and waits a little for the readers to let go of them. */
int victims_remove(struct victims *victims, engine_compaction *report, engine_error *error);

/* Removes the sealed volumes in which nothing is live, those that the terms let it. */
int victims_drop_empty(engine_store *store, const struct compaction_terms *terms, engine_compaction *report,
                       engine_error *error);

#endif
