/* An I/O table that cannot change anything: what a store opened for reading only works on. */
#ifndef SPEEDY_IO_READ_ONLY_H
#define SPEEDY_IO_READ_ONLY_H

#include "io.h"

struct io_read_only {
    struct engine_io table;
    const struct engine_io *under;
};

/* Files are opened for reading and never made; writes, allocations, truncations, renames and unlinks fail with EROFS;
 * syncs do nothing. What only looks goes to under, which outlives the table. */
void io_read_only_init(struct io_read_only *own, const struct engine_io *under);

#endif
