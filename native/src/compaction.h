/* Compaction: the live needles of volumes that are mostly dead move into a new volume, and the old ones go. */
#ifndef SPEEDY_COMPACTION_H
#define SPEEDY_COMPACTION_H

#include "store.h"

/* What one pass may do. */
struct compaction_terms {
    double below;            /* live share of the space that a volume really takes; smaller ones are compacted */
    uint64_t gain_bytes_min; /* that it must give back */
    uint32_t slots_end;      /* only volumes with a lower slot: what the pass makes is not compacted again */
    bool called;             /* somebody asks for it now */
    const uint32_t *volumes; /* ids of the only ones, which are worth it whatever they give back; NULL: any */
    size_t volume_count;
    /* Asked after bytes were written; false ends the pass. */
    bool (*go_on)(void *argument, uint64_t bytes);
    void *argument;
};

/*
 * Compacts the volumes that are worth it most, as many as fit into one new volume. *found is false when there are none.
 * Adds to *report. CLOSED: go_on said so. DISK_FULL: there are some, and no space for what is live in them. After any
 * failure everything is as it was, or the compaction holds and the next open removes what is left of the old volumes.
 */
int compaction_run(engine_store *store, const struct compaction_terms *terms, engine_compaction *report, bool *found,
                   engine_error *error);
/* Closes the volumes that still take chunks but would be worth compacting, if nobody writes to them at the moment. They
 * can be compacted once the keeper has sealed them. Returns how many. */
uint32_t compaction_close_active(engine_store *store, const struct compaction_terms *terms);
/* Whether the terms let this volume be compacted, and whether they name it. */
bool compaction_may_take(const struct compaction_terms *terms, uint32_t id);
bool compaction_is_told_to_take(const struct compaction_terms *terms, uint32_t id);
/* Volumes that are not compacted because a needle in them is damaged; retry: forget that. */
uint32_t compaction_count_damaged(engine_store *store, bool retry);

#endif
