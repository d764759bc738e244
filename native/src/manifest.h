/* MANIFEST: which volumes exist and what became of them. Byte layout in manifest.c. */
#ifndef SPEEDY_MANIFEST_H
#define SPEEDY_MANIFEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "io.h"

enum manifest_event {
    MANIFEST_CREATE = 1,
    MANIFEST_SEAL = 2,       /* no more appends; tail is final */
    MANIFEST_FAIL = 3,       /* a write or fsync failed; nothing behind tail was acknowledged */
    MANIFEST_QUARANTINE = 4, /* acknowledged bytes are missing or the file is damaged; never written again */
    MANIFEST_REPLACE = 5,    /* nothing in it is live; the file may go */
    MANIFEST_COMPACT = 6,    /* the volume is made, sealed, and holds all that is live in those it lists; their files may go */
    MANIFEST_WITHDRAW = 7,   /* its COMPACT record does not hold: it has no file, those that it lists are what they were */
};

#define MANIFEST_REPLACED_MAX 44 /* volumes that one COMPACT record can list */

struct manifest_volume {
    uint32_t id;
    uint8_t uuid[16];
    uint64_t size;
    uint64_t tail;    /* of SEAL, FAIL or COMPACT */
    uint32_t replaced_by; /* of the last COMPACT that lists it, or 0 */
    uint64_t fid_max; /* as known at the last event */
    bool sealed;
    bool failed;
    bool quarantined;
    bool replaced;
    bool withdrawn;
};

struct manifest {
    const struct engine_io *io;
    pthread_mutex_t lock; /* guards everything below, and appends */
    int directory;
    int file;
    bool failed; /* a write failed: no record is written any more */
    bool named;  /* the file's name is durable */
    uint64_t tail;
    uint64_t allocated; /* bytes that the disk has set aside for the file */
    uint64_t next_seq;
    struct manifest_volume *volumes; /* owned; ascending by id */
    size_t count;
    size_t capacity;
    uint32_t damaged_records;
};

/* Opens or creates the MANIFEST and reads it. End with manifest_close also after a failure. */
int manifest_open(struct manifest *manifest, const struct engine_io *io, int directory, engine_error *error);
void manifest_close(struct manifest *manifest);
/* Appends one record durably; the fields that the event does not use are ignored by readers. */
int manifest_append(struct manifest *manifest, enum manifest_event event, const struct manifest_volume *volume,
                    engine_error *error);
/* Appends the COMPACT record that makes the volume and replaces count others, at most MANIFEST_REPLACED_MAX, in one step.
 * After a failure with *in_doubt set a later open may find the record or not: the caller must remove the volume's file
 * before anything relies on one of the two. */
int manifest_append_compaction(struct manifest *manifest, const struct manifest_volume *made, const uint32_t *replaced,
                               size_t count, bool *in_doubt, engine_error *error);
/* Sets space aside for the next records, as far as the disk has it. */
void manifest_provide(struct manifest *manifest);
/* While the store is being opened, before any file is removed: decides which COMPACT records hold. has_file says whether
 * a volume has its file, under its own name or its temporary one. */
void manifest_settle(struct manifest *manifest, bool (*has_file)(void *argument, uint32_t id), void *argument);
/* Rewrites a file that is mostly history. Only when no replaced volume has a file any more: it forgets them. */
int manifest_pack(struct manifest *manifest, engine_error *error);
/* The highest fid that the replaced volumes ever held. */
uint64_t manifest_replaced_fid_max(const struct manifest *manifest);
/* NULL when unknown. Valid until the next append; for use while the store is being opened. */
const struct manifest_volume *manifest_find(const struct manifest *manifest, uint32_t id);

#endif
