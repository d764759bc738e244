#include "needle.h"

#include <string.h>

#include "bytes.h"
#include "engine.h"

#define CRC_AT 12

uint32_t needle_block_count(uint64_t payload_length, uint8_t block_log2)
{
    return (uint32_t)((payload_length + ((uint64_t)1 << block_log2) - 1) >> block_log2);
}

uint32_t needle_header_length(uint64_t payload_length, uint16_t fields_length)
{
    uint64_t bytes = NEEDLE_FIXED_BYTES + 4 * (uint64_t)needle_block_count(payload_length, NEEDLE_BLOCK_LOG2);
    bytes = round_up(bytes + fields_length, NEEDLE_ALIGNMENT);
    return bytes < NEEDLE_HEADER_BYTES_MIN ? NEEDLE_HEADER_BYTES_MIN : (uint32_t)bytes;
}

uint64_t needle_footprint(uint64_t payload_length, uint32_t header_length)
{
    return round_up(header_length + payload_length, NEEDLE_ALIGNMENT);
}

void needle_encode(const struct needle *needle, uint8_t *header)
{
    store_u32(header, NEEDLE_MAGIC);
    store_u16(header + 4, NEEDLE_VERSION);
    store_u16(header + 6, needle->flags);
    store_u32(header + 8, needle->header_length);
    store_u32(header + CRC_AT, 0);
    memcpy(header + 16, needle->volume_uuid, 16);
    store_u64(header + 32, needle->offset);
    store_u64(header + 40, needle->fid);
    store_u64(header + 48, needle->seq);
    store_u64(header + 56, needle->synced_seq);
    store_u64(header + 64, needle->payload_length);
    store_u64(header + 72, needle->created_us);
    store_u32(header + 80, needle->payload_crc);
    header[84] = needle->block_log2;
    header[85] = 0;
    store_u16(header + 86, needle->fields_length);
    store_u32(header + 88, needle->block_count);
    store_u32(header + 92, needle->seq_span);
}

void needle_place(uint8_t *header, const uint8_t volume_uuid[16], uint64_t offset, uint64_t seq, uint64_t synced_seq)
{
    memcpy(header + 16, volume_uuid, 16);
    store_u64(header + 32, offset);
    store_u64(header + 48, seq);
    store_u64(header + 56, synced_seq);
    store_u32(header + CRC_AT, 0);
    store_u32(header + CRC_AT, engine_crc32c(0, header, load_u32(header + 8)));
}

static void read_fields(const uint8_t *header, struct needle *needle)
{
    needle->flags = load_u16(header + 6);
    needle->header_length = load_u32(header + 8);
    memcpy(needle->volume_uuid, header + 16, 16);
    needle->offset = load_u64(header + 32);
    needle->fid = load_u64(header + 40);
    needle->seq = load_u64(header + 48);
    needle->synced_seq = load_u64(header + 56);
    needle->payload_length = load_u64(header + 64);
    needle->created_us = load_u64(header + 72);
    needle->payload_crc = load_u32(header + 80);
    needle->block_log2 = header[84];
    needle->fields_length = load_u16(header + 86);
    needle->block_count = load_u32(header + 88);
    needle->seq_span = load_u32(header + 92);
}

static bool shape_is_valid(const struct needle *needle, uint64_t offset, uint64_t limit)
{
    uint32_t header = needle->header_length;
    if (header < NEEDLE_HEADER_BYTES_MIN || header > NEEDLE_HEADER_BYTES_MAX || header % NEEDLE_ALIGNMENT != 0)
        return false;
    if (offset > limit || header > limit - offset || needle->payload_length > limit - offset - header)
        return false;
    if (needle->seq == 0 || needle->seq_span == 0 || needle->seq > UINT64_MAX - needle->seq_span)
        return false;
    if (needle->flags & NEEDLE_PAD)
        return needle->block_count == 0;
    if (needle->payload_length > ENGINE_CHUNK_BYTES_MAX || needle->fid == 0 || needle->seq_span != 1)
        return false;
    if (needle->block_log2 < 12 || needle->block_log2 > 26)
        return false;
    uint64_t used = NEEDLE_FIXED_BYTES + 4 * (uint64_t)needle->block_count + needle->fields_length;
    return used <= header && needle->block_count == needle_block_count(needle->payload_length, needle->block_log2);
}

bool needle_decode(const uint8_t *header, size_t available, const uint8_t volume_uuid[16], uint64_t offset,
                   uint64_t limit, struct needle *needle, size_t *more_bytes)
{
    static const uint8_t zero_crc[4] = {0};
    *more_bytes = 0;
    if (available < NEEDLE_FIXED_BYTES)
        return false;
    if (load_u32(header) != NEEDLE_MAGIC || load_u16(header + 4) != NEEDLE_VERSION)
        return false;
    read_fields(header, needle);
    if (memcmp(needle->volume_uuid, volume_uuid, 16) != 0 || needle->offset != offset)
        return false;
    if (!shape_is_valid(needle, offset, limit))
        return false;
    if (available < needle->header_length) {
        *more_bytes = needle->header_length;
        return false;
    }
    uint32_t crc = engine_crc32c(0, header, CRC_AT);
    crc = engine_crc32c(crc, zero_crc, sizeof zero_crc);
    crc = engine_crc32c(crc, header + CRC_AT + 4, needle->header_length - CRC_AT - 4);
    return crc == load_u32(header + CRC_AT);
}
