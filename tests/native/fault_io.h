/*
 * A disk that fails: an I/O table over the real one, with a memory of what was written and not yet synced.
 *
 * fault_io_arm chooses the N-th call that may fail (1-based, over all functions that touch the disk) and how. A failed
 * sync forgets the file's unsynced writes, as a kernel does that drops dirty pages. fault_io_crash undoes a random part of
 * everything unsynced, in sectors of 512 bytes, as a power cut does.
 */
#ifndef SPEEDY_FAULT_IO_H
#define SPEEDY_FAULT_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "io.h"

enum fault_kind {
    FAULT_EIO_ONCE,
    FAULT_EIO_FOREVER, /* from the N-th call on */
    FAULT_ENOSPC_ONCE, /* only where a file system can answer that */
    FAULT_ENOSPC_FOREVER,
    FAULT_SHORT, /* every write from the N-th on ends early; nothing is lost */
    FAULT_KINDS,        /* the kinds above are those of a disk that fails */
    FAULT_POWER = FAULT_KINDS, /* as EIO_FOREVER, but nothing is forgotten before fault_io_crash: a power cut at call N */
    FAULT_POWER_AT_SYNC, /* as FAULT_POWER, at the N-th fdatasync: a batch is written and its sync does not return */
    FAULT_SYNC_ONCE,    /* the first fdatasync from the N-th call on */
    FAULT_PRIMITIVE,    /* never an error, but a file system without fallocate and SEEK_DATA */
};

struct fault_io;

struct fault_io *fault_io_new(void);
void fault_io_free(struct fault_io *fault);
const struct engine_io *fault_io_table(struct fault_io *fault);
void fault_io_arm(struct fault_io *fault, enum fault_kind kind, uint64_t call);
void fault_io_disarm(struct fault_io *fault);
/* True when the armed call was reached. */
bool fault_io_fired(struct fault_io *fault);
uint64_t fault_io_calls(struct fault_io *fault);
/* Call after the store is gone. */
void fault_io_crash(struct fault_io *fault, uint64_t seed);

#endif
