/* Who a directory belongs to (DISK) and who has it open (LOCK). */
#ifndef SPEEDY_IDENTITY_H
#define SPEEDY_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "io.h"

struct identity {
    uint8_t cluster_id[16];
    uint8_t disk_id[16];
};

/* Takes LOCK, waiting up to timeout_s. *file is to be closed last of all. */
int identity_lock(const struct engine_io *io, int directory, double timeout_s, int *file, engine_error *error);
/* Reads DISK. ENGINE_NOT_FOUND when there is none, MISMATCH when damaged, newer or of another cluster. */
int identity_read(const struct engine_io *io, int directory, const uint8_t cluster_id[16], struct identity *identity,
                  engine_error *error);
int identity_create(const struct engine_io *io, int directory, const struct identity *identity, engine_error *error);
/* Random bytes for ids. */
int identity_random(uint8_t *bytes, size_t length, engine_error *error);

#endif
