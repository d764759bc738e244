/*
 * Reading a volume for the scrub: what the disk has, not what the page cache shows, in large pieces, and without pushing
 * out what others have in the cache.
 *
 * O_DIRECT does all of that, but a file system may make writers of the same file wait for it, so volumes that still take
 * chunks are read through the cache after it was told to forget the range. That is also the way where O_DIRECT does not
 * work. The descriptors are the scrub's own: nobody waits for them, and a volume that is unlinked meanwhile stays readable.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "needle.h"
#include "scrub.h"

#define WINDOW_BYTES ((size_t)1 << 20)
#define GAP_BYTES_MAX ((uint64_t)64 << 10) /* dead bytes that are read rather than asked for twice */

static void close_files(struct scrub_reading *reading)
{
    if (reading->volume == NULL)
        return;
    io_close(reading->volume->io, reading->direct);
    io_close(reading->volume->io, reading->file);
    reading->volume = NULL;
    reading->direct = -1;
    reading->file = -1;
}

static void forget_window(struct scrub_reading *reading)
{
    reading->length = 0;
    reading->stop = 0;
}

bool scrub_reading_open(struct scrub_reading *reading, struct volume *volume)
{
    if (reading->volume == volume)
        return true;
    if (reading->bytes == NULL)
        reading->bytes = aligned_alloc(BLOCK_BYTES, WINDOW_BYTES);
    if (reading->bytes == NULL)
        return false;
    close_files(reading);
    forget_window(reading);
    int file = volume_open_file(volume, O_RDONLY);
    if (file < 0 && is_shortage(errno))
        return false; /* of the volume that says nothing */
    reading->volume = volume;
    reading->file = file;
    pthread_mutex_lock(&volume->lock);
    bool writable = volume_is_writable(volume);
    pthread_mutex_unlock(&volume->lock);
    if (!writable)
        reading->direct = volume_open_file(volume, O_RDONLY | O_DIRECT);
    return true;
}

void scrub_reading_end(struct scrub_reading *reading)
{
    close_files(reading);
    free(reading->bytes);
    reading->bytes = NULL;
}

static void stop_direct(struct scrub_reading *reading)
{
    io_close(reading->volume->io, reading->direct);
    reading->direct = -1;
}

/* Moves the window to offset, which is before stop. 0, or -1 and errno. */
static int fill(struct scrub_reading *reading, uint64_t offset)
{
    const struct engine_io *io = reading->volume->io;
    uint64_t base = round_down(offset, BLOCK_BYTES);
    uint64_t rest = reading->stop - base;
    size_t length = rest < WINDOW_BYTES ? (size_t)rest : WINDOW_BYTES;
    reading->length = 0;
    if (reading->file < 0) {
        errno = EBADF;
        return -1;
    }
    bool read = reading->direct >= 0 && io_read(io, reading->direct, reading->bytes, length, base) == 0;
    if (!read) {
        if (reading->direct >= 0 && errno == EINVAL)
            stop_direct(reading); /* a file system, or a size, that it does not work with */
        uint64_t aligned = round_up(length, BLOCK_BYTES);
        (void)io->drop_cache(io->context, reading->file, base, aligned);
        if (io_read(io, reading->file, reading->bytes, length, base) != 0)
            return -1;
        (void)io->drop_cache(io->context, reading->file, base, aligned);
    }
    reading->base = base;
    reading->length = length;
    reading->read_bytes += length;
    return 0;
}

static bool covers(const struct scrub_reading *reading, uint64_t offset, size_t length)
{
    return offset >= reading->base && offset + length <= reading->base + reading->length;
}

/* length bytes at offset, at most half a window; NULL and errno. */
static const uint8_t *bytes_at(struct scrub_reading *reading, uint64_t offset, size_t length)
{
    if (!covers(reading, offset, length) && fill(reading, offset) != 0)
        return NULL;
    if (!covers(reading, offset, length)) {
        errno = ENODATA;
        return NULL;
    }
    return reading->bytes + (offset - reading->base);
}

static bool say(char what[ENGINE_DAMAGE_WHAT_BYTES], const char *reason)
{
    (void)snprintf(what, ENGINE_DAMAGE_WHAT_BYTES, "%s", reason);
    return false;
}

static bool say_unreadable(char what[ENGINE_DAMAGE_WHAT_BYTES], const char *part, int reason)
{
    char text[64];
    (void)snprintf(what, ENGINE_DAMAGE_WHAT_BYTES, "%s cannot be read: %s", part,
                   strerror_r(reason, text, sizeof text));
    return false;
}

static bool header_is_good(struct scrub_reading *reading, const struct chunk_place *place, uint8_t *header,
                           struct needle *needle, bool *unreadable, char what[ENGINE_DAMAGE_WHAT_BYTES])
{
    size_t more = 0;
    if (place->header_length > NEEDLE_HEADER_BYTES_MAX || place->header_length < NEEDLE_HEADER_BYTES_MIN)
        return say(what, "impossible header length");
    const uint8_t *found = bytes_at(reading, place->offset, place->header_length);
    if (found == NULL) {
        *unreadable = true;
        return say_unreadable(what, "the header", errno);
    }
    memcpy(header, found, place->header_length); /* the window moves on over the payload */
    if (!needle_decode(header, place->header_length, reading->volume->uuid, place->offset, reading->volume->size,
                       needle, &more))
        return say(what, "the header is damaged");
    if (needle->fid != place->fid || needle->payload_length != place->length ||
        needle->payload_crc != place->crc32c || needle->header_length != place->header_length)
        return say(what, "header and index disagree");
    return true;
}

static bool payload_is_good(struct scrub_reading *reading, const uint8_t *header, const struct needle *needle,
                            bool *unreadable, char what[ENGINE_DAMAGE_WHAT_BYTES])
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
            const uint8_t *bytes = bytes_at(reading, at, 1);
            if (bytes == NULL) {
                *unreadable = true;
                return say_unreadable(what, "the payload", errno);
            }
            uint64_t available = reading->base + reading->length - at;
            size_t piece = (size_t)(available < in_block ? available : in_block);
            crc = engine_crc32c(crc, bytes, piece);
            at += piece;
            in_block -= piece;
        }
        if (crc != load_u32(needle_block_crc(header, block))) {
            (void)snprintf(what, ENGINE_DAMAGE_WHAT_BYTES, "block %u of %u fails its checksum", (unsigned)block + 1,
                           (unsigned)needle->block_count);
            return false;
        }
    }
    return true;
}

static uint64_t end_of(const struct chunk_place *place)
{
    return place->offset + needle_footprint(place->length, place->header_length);
}

/* Where reading ahead from places[0] on is to stop: behind the needles that lie close to each other. */
static uint64_t run_end(const struct chunk_place *places, size_t count)
{
    uint64_t end = end_of(&places[0]);
    for (size_t i = 1; i < count && places[i].offset < end + GAP_BYTES_MAX; i++) {
        if (end_of(&places[i]) > places[0].offset + WINDOW_BYTES)
            break;
        end = end_of(&places[i]);
    }
    return end;
}

static bool verify_once(struct scrub_reading *reading, const struct chunk_place *place, bool *unreadable,
                        char what[ENGINE_DAMAGE_WHAT_BYTES])
{
    uint8_t header[NEEDLE_HEADER_BYTES_MAX];
    struct needle needle;
    return header_is_good(reading, place, header, &needle, unreadable, what) &&
           payload_is_good(reading, header, &needle, unreadable, what);
}

bool scrub_reading_verify(struct scrub_reading *reading, const struct chunk_place *places, size_t count,
                          char what[ENGINE_DAMAGE_WHAT_BYTES])
{
    bool unreadable = false;
    if (end_of(&places[0]) > reading->stop || places[0].offset < reading->base) {
        uint64_t stop = round_up(run_end(places, count), BLOCK_BYTES);
        reading->stop = stop < reading->volume->size ? stop : reading->volume->size;
    }
    if (verify_once(reading, &places[0], &unreadable, what))
        return true;
    if (!unreadable)
        return false;
    /* Something near it may be what cannot be read, or the file ends here: exactly its own bytes. */
    unreadable = false;
    stop_direct(reading);
    forget_window(reading);
    reading->stop = places[0].offset + places[0].header_length + places[0].length;
    bool good = verify_once(reading, &places[0], &unreadable, what);
    forget_window(reading);
    return good;
}

bool scrub_reading_superblock(struct scrub_reading *reading, unsigned copy, char what[ENGINE_DAMAGE_WHAT_BYTES])
{
    uint64_t at = (uint64_t)copy * BLOCK_BYTES;
    forget_window(reading);
    reading->stop = at + BLOCK_BYTES;
    const uint8_t *block = bytes_at(reading, at, BLOCK_BYTES);
    int reason = errno;
    forget_window(reading);
    if (block == NULL)
        return say_unreadable(what, "a superblock", reason);
    return volume_superblock_is_valid(reading->volume, block) || say(what, "one of two superblocks is damaged");
}
