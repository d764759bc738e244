/* CRC32C of a payload and of its blocks in one pass over the bytes. */
#ifndef SPEEDY_CHECKSUM_H
#define SPEEDY_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Writes the little-endian CRC of every 2^block_log2 bytes of data (the last may be short) to block_crcs, which has room
 * for all of them, and returns the CRC of the whole. */
uint32_t checksum_blocks(const void *data, size_t length, unsigned block_log2, uint8_t *block_crcs);

#endif
