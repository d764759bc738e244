/* Reading chunks, verified. Internal. */
#ifndef SPEEDY_READER_H
#define SPEEDY_READER_H

#include <stddef.h>
#include <stdint.h>

#include "engine.h"

/* As engine_read. */
int reader_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, uint32_t *crc32c,
                engine_error *error);
/* Reads and verifies the whole chunk without keeping it. */
int reader_verify(engine_store *store, uint64_t fid, engine_error *error);
void reader_free_scratch(engine_store *store);

#endif
