/* Finding the needles of a volume that no checkpoint names, and making the volume writable again. */
#ifndef SPEEDY_RECOVERY_H
#define SPEEDY_RECOVERY_H

#include "delete_log.h"
#include "needle.h"
#include "volume.h"

struct recovered_needle {
    struct needle needle;
    bool payload_ok; /* false: its bytes are damaged although it was acknowledged */
    bool deleted;
};

/* A place without valid needles between two that are. */
struct recovered_hole {
    uint64_t start;
    uint64_t end;
    uint64_t first_seq;
    uint32_t span;
};

struct recovery {
    struct recovered_needle *needles; /* owned; ascending by offset, PADs included */
    size_t count;
    size_t capacity;
    struct recovered_hole *holes; /* owned */
    size_t hole_count;
    size_t hole_capacity;
    uint64_t tail;     /* behind the last needle */
    uint64_t next_seq;
    uint64_t pad_bytes; /* alignment, PADs and holes between start and tail */
    bool lost;          /* acknowledged bytes are provably missing, or bytes could not be read */
    bool unread;        /* the latter: what is there may be readable later */
};

/*
 * Reads needles from start, where seq first_seq is expected, up to limit.
 * verify: also check payloads (bytes that may not have been acknowledged); otherwise headers only.
 * Works as follows. A needle is looked for at the end of the one before, then at every multiple of 64 up to limit (the
 * next batch is on the next 4 KiB boundary): an unsynced batch may reach the disk in any order, so valid needles behind
 * invalid bytes are a normal sight after a crash, and all are kept. A needle whose header is valid but whose payload is
 * not counts as a hole if it may be unacknowledged, and stays (damaged) if a later needle's synced seq proves that it
 * was acknowledged. A missing seq that is covered by a later synced seq sets lost.
 */
int recovery_scan(struct volume *volume, uint64_t start, uint64_t first_seq, uint64_t limit, bool verify,
                  const struct delete_set *deleted, struct recovery *recovery, engine_error *error);
void recovery_free(struct recovery *recovery);

/* Covers the holes with PADs, zeroes whatever was written between tail and the volume's end, and syncs. Changes nothing
 * when there is nothing to cover or zero. */
int recovery_repair(struct volume *volume, const struct recovery *recovery, engine_error *error);

#endif
