/*
 * SCRUB, 128 bytes: how far the scrub has come. Replaced as a whole; if it is lost or damaged the round starts over.
 *      0 u64 magic "SPDYSCRB"   8 u32 version (1)   12 u32 1: a round is under way   16 u8[16] disk id
 *     32 u64 round             40 u64 offset        48 u32 volume                    52 u32 last volume
 *     56 u64 started, µs       64 u64 ended, µs     72 u64 total bytes               80 u64 checked bytes
 *     88 u64 checked chunks    96 u64 damaged      104 zeros                        124 u32 CRC of bytes 0..123
 * What the fields mean: struct scrub_cursor in scrub.h.
 */
#include <fcntl.h>
#include <string.h>

#include "bytes.h"
#include "scrub.h"

#define CURSOR_MAGIC 0x4252435359445053u
#define CURSOR_VERSION 1
#define CURSOR_BYTES 128
#define CRC_AT 124

void scrub_cursor_load(const struct engine_io *io, int directory, const uint8_t disk_id[16],
                       struct scrub_cursor *cursor)
{
    uint8_t content[CURSOR_BYTES];
    int file = io_open(io, directory, "SCRUB", O_RDONLY);
    if (file < 0)
        return;
    bool whole = io_read(io, file, content, sizeof content, 0) == 0;
    io_close(io, file);
    if (!whole || load_u64(content) != CURSOR_MAGIC || load_u32(content + 8) != CURSOR_VERSION ||
        load_u32(content + CRC_AT) != engine_crc32c(0, content, CRC_AT) || memcmp(content + 16, disk_id, 16) != 0)
        return;
    cursor->active = load_u32(content + 12) == 1;
    cursor->round = load_u64(content + 32);
    cursor->offset = load_u64(content + 40);
    cursor->volume = load_u32(content + 48);
    cursor->last_volume = load_u32(content + 52);
    cursor->started_us = load_u64(content + 56);
    cursor->ended_us = load_u64(content + 64);
    cursor->total_bytes = load_u64(content + 72);
    cursor->checked_bytes = load_u64(content + 80);
    cursor->checked_chunks = load_u64(content + 88);
    cursor->damaged = load_u64(content + 96);
}

int scrub_cursor_save(const struct engine_io *io, int directory, const uint8_t disk_id[16],
                      const struct scrub_cursor *cursor)
{
    uint8_t content[CURSOR_BYTES] = {0};
    store_u64(content, CURSOR_MAGIC);
    store_u32(content + 8, CURSOR_VERSION);
    store_u32(content + 12, cursor->active ? 1 : 0);
    memcpy(content + 16, disk_id, 16);
    store_u64(content + 32, cursor->round);
    store_u64(content + 40, cursor->offset);
    store_u32(content + 48, cursor->volume);
    store_u32(content + 52, cursor->last_volume);
    store_u64(content + 56, cursor->started_us);
    store_u64(content + 64, cursor->ended_us);
    store_u64(content + 72, cursor->total_bytes);
    store_u64(content + 80, cursor->checked_bytes);
    store_u64(content + 88, cursor->checked_chunks);
    store_u64(content + 96, cursor->damaged);
    store_u32(content + CRC_AT, engine_crc32c(0, content, CRC_AT));
    return io_replace(io, directory, "SCRUB", NULL, content, sizeof content);
}
