/*
 * Needle: one stored chunk in a volume, a header and behind it the payload.
 *
 *      0  u32  magic "NEDL"               4  u16  version (1)             6  u16  flags
 *      8  u32  header length              12 u32  header CRC, of all header bytes with this field zero
 *     16  u8[16] volume uuid              32 u64  offset of this needle in its volume
 *     40  u64  fid                        48 u64  seq                     56 u64  synced seq
 *     64  u64  payload length             72 u64  created, microseconds of Unix time
 *     80  u32  payload CRC                84 u8   block size log2         85 u8   zero
 *     86  u16  length of optional fields  88 u32  number of blocks        92 u32  seq span
 *     96  u32[] one CRC per block, then optional fields (u16 type, u16 length, value), then zeros up to header length
 *
 * header length is a multiple of 64, and so is the offset of a needle. seq counts the needles of a volume from 1 without
 * gaps; a PAD, which covers a hole, stands for seq .. seq + span - 1 and its payload is arbitrary. synced seq is the
 * highest seq known durable when this needle was written: whatever is missing up to there was acknowledged and is lost.
 *
 * A header is valid if and only if magic, version, the lengths (within the volume, block count fits the payload) and the
 * header CRC hold, and volume uuid and offset are those of the place where it was found: stale or misdirected bytes are
 * neither. An all-zero region is not valid. A needle is valid if its header is and every block has its CRC.
 */
#ifndef SPEEDY_NEEDLE_H
#define SPEEDY_NEEDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEEDLE_MAGIC 0x4c44454eu
#define NEEDLE_VERSION 1
#define NEEDLE_ALIGNMENT 64u
#define NEEDLE_FIXED_BYTES 96u
#define NEEDLE_HEADER_BYTES_MIN 128u
#define NEEDLE_HEADER_BYTES_MAX 8192u
#define NEEDLE_BLOCK_LOG2 18 /* 256 KiB */

enum needle_flags {
    NEEDLE_PAD = 1,
    NEEDLE_TOMBSTONE = 2, /* reserved: a delete written into a volume */
};

struct needle {
    uint8_t volume_uuid[16];
    uint64_t offset;
    uint64_t fid;
    uint64_t seq;
    uint64_t synced_seq;
    uint64_t payload_length;
    uint64_t created_us;
    uint32_t header_length;
    uint32_t payload_crc;
    uint32_t block_count;
    uint32_t seq_span;
    uint16_t flags;
    uint16_t fields_length;
    uint8_t block_log2;
};

/* Bytes of the header of a chunk. */
uint32_t needle_header_length(uint64_t payload_length, uint16_t fields_length);
/* Bytes that a needle takes in its volume, rounded up to the next needle's alignment. */
uint64_t needle_footprint(uint64_t payload_length, uint32_t header_length);
uint32_t needle_block_count(uint64_t payload_length, uint8_t block_log2);

/* Writes the fixed part; block CRCs and fields stand in header already or follow before needle_place. */
void needle_encode(const struct needle *needle, uint8_t *header);
/* Fills in what is known only when the batch is laid out, and closes the header with its CRC. */
void needle_place(uint8_t *header, const uint8_t volume_uuid[16], uint64_t offset, uint64_t seq, uint64_t synced_seq);

/* Reads a header from the first available bytes at offset of the volume; limit is where needles must end. Returns true
 * when it is valid. When *more_bytes is not zero the answer needs that many bytes from the start of the header. */
bool needle_decode(const uint8_t *header, size_t available, const uint8_t volume_uuid[16], uint64_t offset,
                   uint64_t limit, struct needle *needle, size_t *more_bytes);

static inline const uint8_t *needle_block_crc(const uint8_t *header, uint32_t block)
{
    return header + NEEDLE_FIXED_BYTES + (size_t)4 * block;
}

#endif
