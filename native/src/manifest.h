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
    MANIFEST_REPLACE = 5,    /* its live chunks are elsewhere; the file may go */
};

struct manifest_volume {
    uint32_t id;
    uint8_t uuid[16];
    uint64_t size;
    uint64_t tail;    /* of SEAL or FAIL */
    uint64_t fid_max; /* as known at the last event */
    bool sealed;
    bool failed;
    bool quarantined;
    bool replaced;
};

struct manifest {
    const struct engine_io *io;
    pthread_mutex_t lock; /* guards everything below, and appends */
    int directory;
    int file;
    bool failed; /* a write failed: no record is written any more */
    uint64_t tail;
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
/* NULL when unknown. Valid until the next append; for use while the store is being opened. */
const struct manifest_volume *manifest_find(const struct manifest *manifest, uint32_t id);

#endif
