#include "recovery.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"

#define WINDOW_BYTES ((size_t)1 << 20)

/* A piece of the volume in memory; needles are parsed and searched in it. */
struct window {
    struct volume *volume;
    uint64_t limit;
    uint64_t base;
    size_t length;
    uint8_t *bytes; /* WINDOW_BYTES, owned */
    uint32_t read_errors;
};

/* Whatever cannot be read becomes zeros, block by block, so that one bad sector hides only its own needles. */
static void window_fill_by_block(struct window *window)
{
    for (size_t at = 0; at < window->length; at += BLOCK_BYTES) {
        size_t piece = window->length - at < BLOCK_BYTES ? window->length - at : BLOCK_BYTES;
        if (io_read(window->volume->io, window->volume->file, window->bytes + at, piece, window->base + at) != 0) {
            memset(window->bytes + at, 0, piece);
            window->read_errors++;
        }
    }
}

/* Up to length bytes at offset; *available says how many, fewer only at the limit. length <= WINDOW_BYTES / 2. */
static const uint8_t *window_at(struct window *window, uint64_t offset, size_t length, size_t *available)
{
    if (offset >= window->limit) {
        *available = 0;
        return window->bytes;
    }
    if (length > window->limit - offset)
        length = (size_t)(window->limit - offset);
    if (offset < window->base || offset + length > window->base + window->length) {
        window->base = round_down(offset, BLOCK_BYTES);
        uint64_t rest = window->limit - window->base;
        window->length = rest < WINDOW_BYTES ? (size_t)rest : WINDOW_BYTES;
        if (io_read(window->volume->io, window->volume->file, window->bytes, window->length, window->base) != 0)
            window_fill_by_block(window);
    }
    *available = length;
    return window->bytes + (offset - window->base);
}

static bool header_at(struct window *window, uint64_t offset, uint64_t seq_min, struct needle *needle,
                      const uint8_t **header)
{
    size_t available;
    size_t wanted = 512;
    for (int tries = 0; tries < 2; tries++) {
        size_t more = 0;
        *header = window_at(window, offset, wanted, &available);
        if (needle_decode(*header, available, window->volume->uuid, offset, window->limit, needle, &more))
            return needle->seq >= seq_min;
        if (more == 0)
            return false;
        wanted = more;
    }
    return false;
}

/* Compares every block with its CRC. crcs is a copy of the header: the window moves on over the payload. */
static bool payload_is_valid(struct window *window, const struct needle *needle, const uint8_t *header)
{
    uint64_t at = needle->offset + needle->header_length;
    uint64_t left = needle->payload_length;
    for (uint32_t block = 0; block < needle->block_count; block++) {
        uint64_t in_block = (uint64_t)1 << needle->block_log2;
        if (in_block > left)
            in_block = left;
        left -= in_block;
        uint32_t crc = 0;
        while (in_block > 0) {
            size_t piece = in_block < WINDOW_BYTES / 4 ? (size_t)in_block : WINDOW_BYTES / 4;
            size_t available;
            const uint8_t *bytes = window_at(window, at, piece, &available);
            if (available != piece)
                return false;
            crc = engine_crc32c(crc, bytes, piece);
            at += piece;
            in_block -= piece;
        }
        if (crc != load_u32(needle_block_crc(header, block)))
            return false;
    }
    return true;
}

/* The first multiple of 64 in [from, from + length) with the magic of a header; *end is how far it looked. */
static bool magic_within(struct window *window, uint64_t from, size_t length, uint64_t *found, uint64_t *end)
{
    size_t available;
    const uint8_t *bytes = window_at(window, from, length, &available);
    for (size_t at = 0; at + 4 <= available; at += NEEDLE_ALIGNMENT) {
        if (load_u32(bytes + at) == NEEDLE_MAGIC) {
            *found = from + at;
            return true;
        }
    }
    *end = available == 0 ? window->limit : round_up(from + available, NEEDLE_ALIGNMENT);
    return false;
}

/* The next multiple of 64 at or behind from where a header may begin; limit when there is none. */
static uint64_t next_magic(struct window *window, uint64_t from)
{
    const struct engine_io *io = window->volume->io;
    uint64_t found = window->limit;
    /* Usually it is the next batch, on the next block: no system call for that. */
    size_t nearby = (size_t)(round_up(from, BLOCK_BYTES) + NEEDLE_ALIGNMENT - from);
    if (magic_within(window, from, nearby, &found, &from))
        return found;
    while (from < window->limit) {
        uint64_t data = from;
        if (io->seek_data(io->context, window->volume->file, from, &data) != 0) {
            if (errno == ENXIO)
                return window->limit; /* a hole up to the end: zeros */
            data = from;
        }
        if (data > from)
            from = round_down(data, NEEDLE_ALIGNMENT) > from ? round_down(data, NEEDLE_ALIGNMENT) : from;
        if (magic_within(window, from, WINDOW_BYTES / 2, &found, &from))
            return found;
    }
    return window->limit;
}

static bool add_needle(struct recovery *recovery, const struct recovered_needle *found)
{
    if (recovery->count == recovery->capacity) {
        size_t capacity = recovery->capacity == 0 ? 64 : 2 * recovery->capacity;
        struct recovered_needle *needles = realloc(recovery->needles, capacity * sizeof *needles);
        if (needles == NULL)
            return false;
        recovery->needles = needles;
        recovery->capacity = capacity;
    }
    recovery->needles[recovery->count++] = *found;
    return true;
}

static bool add_hole(struct recovery *recovery, const struct recovered_hole *hole)
{
    if (recovery->hole_count == recovery->hole_capacity) {
        size_t capacity = recovery->hole_capacity == 0 ? 8 : 2 * recovery->hole_capacity;
        struct recovered_hole *holes = realloc(recovery->holes, capacity * sizeof *holes);
        if (holes == NULL)
            return false;
        recovery->holes = holes;
        recovery->hole_capacity = capacity;
    }
    recovery->holes[recovery->hole_count++] = *hole;
    return true;
}

/* Collects every needle with a valid header in [start, limit). */
static int collect(struct window *window, uint64_t start, uint64_t first_seq, bool verify,
                   const struct delete_set *deleted, struct recovery *recovery, engine_error *error)
{
    uint64_t at = start;
    uint64_t seq_min = first_seq;
    /* Every round moves at forward by 64 or more. */
    while (at < window->limit) {
        struct recovered_needle found = {.payload_ok = true};
        const uint8_t *header;
        uint64_t place = at;
        if (!header_at(window, place, seq_min, &found.needle, &header)) {
            place = next_magic(window, at);
            if (place >= window->limit)
                break;
            if (!header_at(window, place, seq_min, &found.needle, &header)) {
                at = place + NEEDLE_ALIGNMENT;
                continue;
            }
        }
        if (!(found.needle.flags & NEEDLE_PAD)) {
            found.deleted = delete_set_find(deleted, place, found.needle.fid) != NULL;
            if (verify && !found.deleted) {
                uint8_t copy[NEEDLE_HEADER_BYTES_MAX];
                memcpy(copy, header, found.needle.header_length);
                found.payload_ok = payload_is_valid(window, &found.needle, copy);
            }
        }
        if (!add_needle(recovery, &found))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory for recovered needles");
        seq_min = found.needle.seq + found.needle.seq_span;
        at = place + needle_footprint(found.needle.payload_length, found.needle.header_length);
    }
    return ENGINE_OK;
}

/* Decides what each needle and each gap means; needles that may never have been acknowledged and are torn go. */
static int judge(uint64_t start, uint64_t first_seq, struct recovery *recovery, engine_error *error)
{
    uint64_t synced = first_seq - 1;
    for (size_t i = 0; i < recovery->count; i++)
        if (recovery->needles[i].needle.synced_seq > synced)
            synced = recovery->needles[i].needle.synced_seq;
    uint64_t at = start;
    uint64_t seq = first_seq;
    size_t kept = 0;
    for (size_t i = 0; i < recovery->count; i++) {
        const struct recovered_needle found = recovery->needles[i];
        if (!found.payload_ok && found.needle.seq > synced)
            continue;
        if (found.needle.seq > seq) {
            struct recovered_hole hole = {at, found.needle.offset, seq, 0};
            uint64_t span = found.needle.seq - seq;
            hole.span = span > UINT32_MAX ? UINT32_MAX : (uint32_t)span;
            if (seq <= synced)
                recovery->lost = true;
            if (!add_hole(recovery, &hole))
                return failure(error, ENGINE_NO_MEMORY, 0, "no memory for recovered holes");
        }
        uint64_t footprint = needle_footprint(found.needle.payload_length, found.needle.header_length);
        recovery->pad_bytes += found.needle.offset - at;
        if (found.needle.flags & NEEDLE_PAD)
            recovery->pad_bytes += footprint;
        at = found.needle.offset + footprint;
        seq = found.needle.seq + found.needle.seq_span;
        recovery->needles[kept++] = found;
    }
    recovery->count = kept;
    recovery->tail = at;
    recovery->next_seq = seq;
    return ENGINE_OK;
}

int recovery_scan(struct volume *volume, uint64_t start, uint64_t first_seq, uint64_t limit, bool verify,
                  const struct delete_set *deleted, struct recovery *recovery, engine_error *error)
{
    memset(recovery, 0, sizeof *recovery);
    struct window window = {.volume = volume, .limit = limit};
    window.bytes = malloc(WINDOW_BYTES);
    if (window.bytes == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory to scan a volume");
    int status = collect(&window, start, first_seq, verify, deleted, recovery, error);
    if (status == ENGINE_OK)
        status = judge(start, first_seq, recovery, error);
    recovery->unread = window.read_errors > 0;
    if (recovery->unread)
        recovery->lost = true;
    /* A dead needle was durable before its delete record was. If it is gone, so may be others around it. */
    if (status == ENGINE_OK && deleted->count > 0 && deleted->records[deleted->count - 1].offset >= recovery->tail)
        recovery->lost = true;
    free(window.bytes);
    return status;
}

void recovery_free(struct recovery *recovery)
{
    free(recovery->needles);
    free(recovery->holes);
    memset(recovery, 0, sizeof *recovery);
}

static int read_is_zero(struct volume *volume, uint64_t start, uint64_t end, bool *zero)
{
    uint8_t bytes[BLOCK_BYTES];
    *zero = true;
    if (start >= end)
        return 0;
    if (io_read(volume->io, volume->file, bytes, (size_t)(end - start), start) != 0)
        return -1;
    *zero = all_zero(bytes, (size_t)(end - start));
    return 0;
}

/* A PAD begins on a block of its own where it can, so that no sector with acknowledged bytes is written again. */
static int cover_hole(struct volume *volume, const struct recovered_hole *hole)
{
    uint8_t header[NEEDLE_HEADER_BYTES_MIN] = {0};
    uint64_t start = round_up(hole->start, BLOCK_BYTES);
    bool zero = false;
    if (start + sizeof header <= hole->end && read_is_zero(volume, hole->start, start, &zero) != 0)
        return -1;
    if (!zero)
        start = hole->start;
    if (start + sizeof header > hole->end) {
        errno = EIO; /* a needle was there once, so its header's room is; if not, the volume is not what it seems */
        return -1;
    }
    struct needle pad = {
        .flags = NEEDLE_PAD,
        .header_length = sizeof header,
        .payload_length = hole->end - start - sizeof header,
        .block_log2 = NEEDLE_BLOCK_LOG2,
        .seq_span = hole->span,
    };
    needle_encode(&pad, header);
    needle_place(header, volume->uuid, start, hole->first_seq, 0);
    return io_write(volume->io, volume->file, header, sizeof header, start);
}

/* Zeroes every block behind tail that is not zero. */
static int zero_rest(struct volume *volume, uint64_t tail, bool *wrote)
{
    const struct engine_io *io = volume->io;
    static const size_t piece_max = WINDOW_BYTES;
    int result = -1;
    uint8_t *bytes = malloc(piece_max);
    uint8_t *zeros = calloc(1, BLOCK_BYTES);
    if (bytes == NULL || zeros == NULL)
        goto cleanup;
    uint64_t at = tail;
    while (at < volume->size) {
        uint64_t data = at;
        if (io->seek_data(io->context, volume->file, at, &data) != 0) {
            if (errno != ENXIO)
                goto cleanup;
            break;
        }
        if (data > at)
            at = data;
        size_t piece = volume->size - at < piece_max ? (size_t)(volume->size - at) : piece_max;
        if (io_read(io, volume->file, bytes, piece, at) != 0)
            goto cleanup;
        for (size_t done = 0; done < piece;) {
            size_t block = (size_t)(round_down(at + done, BLOCK_BYTES) + BLOCK_BYTES - (at + done));
            if (block > piece - done)
                block = piece - done;
            if (!all_zero(bytes + done, block)) {
                if (io_write(io, volume->file, zeros, block, at + done) != 0)
                    goto cleanup;
                *wrote = true;
            }
            done += block;
        }
        at += piece;
    }
    result = 0;
cleanup:
    free(zeros);
    free(bytes);
    return result;
}

int recovery_repair(struct volume *volume, const struct recovery *recovery, engine_error *error)
{
    bool wrote = false;
    for (size_t i = 0; i < recovery->hole_count; i++) {
        if (cover_hole(volume, &recovery->holes[i]) != 0)
            return failure_os(error, errno, "volume %u: cannot cover a hole", (unsigned)volume->id);
        wrote = true;
    }
    if (zero_rest(volume, recovery->tail, &wrote) != 0)
        return failure_os(error, errno, "volume %u: cannot clear its end", (unsigned)volume->id);
    if (wrote && volume->io->fdatasync(volume->io->context, volume->file) != 0)
        return failure(error, ENGINE_FAILED, errno, "volume %u: cannot sync", (unsigned)volume->id);
    return ENGINE_OK;
}
