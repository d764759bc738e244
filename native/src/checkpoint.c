/*
 * v<id>.ckp: a header of 128 bytes, then entries of 32 bytes, ascending by fid.
 *      0 u64 magic "SPDYCKP1"  8 u32 version (1)   12 u32 volume id   16 u8[16] volume uuid
 *     32 u64 tail: the entries are all chunks before it that were live; recovery scans from here
 *     40 u64 next seq         48 u64 entries       56 u64 fid max (deleted ones included)
 *     64 u64 pad bytes        72 u64 delete seq up to which dead needles were punched      80 u64 punched bytes
 *     88 u64 Unix time, µs    96 u32 CRC of all entries   100 zeros      124 u32 CRC of bytes 0..123
 * Entry: 0 u64 fid   8 u64 offset   16 u32 length   20 u32 payload CRC   24 u32 header length   28 u32 created, s
 * Valid if and only if both CRCs, uuid, id, the file's length, the order and every offset hold. Deletes are not part of
 * it: the delete log is applied on top, always whole.
 */
#include "checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "failure.h"
#include "needle.h"

#define CHECKPOINT_MAGIC 0x31504b4359445053u
#define CHECKPOINT_VERSION 1
#define HEADER_BYTES 128u
#define ENTRY_BYTES 32u
#define HEADER_CRC_AT 124
#define FILE_BYTES_MAX ((uint64_t)1 << 33)

static int by_fid(const void *left, const void *right)
{
    const struct chunk_place *a = left;
    const struct chunk_place *b = right;
    return a->fid < b->fid ? -1 : a->fid > b->fid;
}

/* It is whole, and the file as long as it says. */
static bool header_fits(const uint8_t *header, uint64_t file_size)
{
    return load_u64(header) == CHECKPOINT_MAGIC && load_u32(header + 8) == CHECKPOINT_VERSION &&
           load_u32(header + HEADER_CRC_AT) == engine_crc32c(0, header, HEADER_CRC_AT) &&
           load_u64(header + 48) == (file_size - HEADER_BYTES) / ENTRY_BYTES &&
           (file_size - HEADER_BYTES) % ENTRY_BYTES == 0;
}

static bool header_is_valid(const struct volume *volume, const uint8_t *header, uint64_t file_size)
{
    uint64_t tail = load_u64(header + 32);
    return header_fits(header, file_size) && load_u32(header + 12) == volume->id &&
           memcmp(header + 16, volume->uuid, 16) == 0 && tail >= VOLUME_DATA_START && tail <= volume->size &&
           load_u64(header + 40) != 0;
}

void checkpoint_place(const struct checkpoint *checkpoint, size_t i, struct chunk_place *place)
{
    const uint8_t *entry = checkpoint->content + HEADER_BYTES + i * ENTRY_BYTES;
    place->fid = load_u64(entry);
    place->offset = load_u64(entry + 8);
    place->length = load_u32(entry + 16);
    place->crc32c = load_u32(entry + 20);
    place->header_length = load_u32(entry + 24);
    place->created_s = load_u32(entry + 28);
    place->slot = 0;
}

uint64_t checkpoint_fid(const struct checkpoint *checkpoint, size_t i)
{
    return load_u64(checkpoint->content + HEADER_BYTES + i * ENTRY_BYTES);
}

static bool entries_are_valid(const struct checkpoint *checkpoint)
{
    uint64_t fid_before = 0;
    for (size_t i = 0; i < checkpoint->count; i++) {
        struct chunk_place place;
        checkpoint_place(checkpoint, i, &place);
        if (place.fid <= fid_before || place.offset < VOLUME_DATA_START || place.offset % NEEDLE_ALIGNMENT != 0 ||
            place.header_length % NEEDLE_ALIGNMENT != 0 || place.header_length > NEEDLE_HEADER_BYTES_MAX ||
            place.length > ENGINE_CHUNK_BYTES_MAX || place.offset > checkpoint->tail ||
            needle_footprint(place.length, place.header_length) > checkpoint->tail - place.offset)
            return false;
        fid_before = place.fid;
    }
    return true;
}

/* Checks checkpoint->content and fills in the rest. */
static bool decode(const struct volume *volume, uint64_t size, struct checkpoint *checkpoint)
{
    const uint8_t *content = checkpoint->content;
    if (!header_is_valid(volume, content, size) ||
        load_u32(content + 96) != engine_crc32c(0, content + HEADER_BYTES, size - HEADER_BYTES))
        return false;
    checkpoint->tail = load_u64(content + 32);
    checkpoint->next_seq = load_u64(content + 40);
    checkpoint->count = load_u64(content + 48);
    checkpoint->fid_max = load_u64(content + 56);
    checkpoint->pad_bytes = load_u64(content + 64);
    checkpoint->punched_seq = load_u64(content + 72);
    checkpoint->punched_bytes = load_u64(content + 80);
    return entries_are_valid(checkpoint);
}

uint64_t checkpoint_announces(const struct engine_io *io, int directory, uint32_t volume_id)
{
    char name[VOLUME_NAME_BYTES];
    uint8_t header[HEADER_BYTES];
    uint64_t size = 0;
    uint64_t count = 0;
    volume_name(name, volume_id, ".ckp");
    int file = io_open(io, directory, name, O_RDONLY);
    if (file < 0)
        return 0;
    if (io->size(io->context, file, &size) == 0 && size >= HEADER_BYTES && size <= FILE_BYTES_MAX &&
        io_read(io, file, header, sizeof header, 0) == 0 && header_fits(header, size))
        count = load_u64(header + 48);
    io_close(io, file);
    return count;
}

static int load_file(struct volume *volume, const char *suffix, struct checkpoint *checkpoint, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    uint64_t size = 0;
    int status = ENGINE_NOT_FOUND;
    volume_name(name, volume->id, suffix);
    int file = io_open(io, volume->directory, name, O_RDONLY);
    if (file < 0)
        return ENGINE_NOT_FOUND;
    /* Written, synced and then renamed: what the cache shows is what the disk has. Unreadable counts as absent. */
    if (io->size(io->context, file, &size) != 0 || size < HEADER_BYTES || size > FILE_BYTES_MAX)
        goto cleanup;
    checkpoint->content = malloc(size);
    if (checkpoint->content == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for %s", name);
        goto cleanup;
    }
    if (io_read(io, file, checkpoint->content, size, 0) == 0 && decode(volume, size, checkpoint))
        status = ENGINE_OK;
    else
        checkpoint_free(checkpoint);
cleanup:
    io_close(io, file);
    return status;
}

int checkpoint_load(struct volume *volume, struct checkpoint *checkpoint, engine_error *error)
{
    memset(checkpoint, 0, sizeof *checkpoint);
    int status = load_file(volume, ".ckp", checkpoint, error);
    if (status == ENGINE_NOT_FOUND)
        status = load_file(volume, ".ckp.old", checkpoint, error);
    return status;
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    free(checkpoint->content);
    memset(checkpoint, 0, sizeof *checkpoint);
}

static void encode(const struct volume *volume, const struct checkpoint *checkpoint, uint8_t *content, size_t size)
{
    uint8_t *entry = content + HEADER_BYTES;
    for (size_t i = 0; i < checkpoint->count; i++, entry += ENTRY_BYTES) {
        const struct chunk_place *place = &checkpoint->places[i];
        store_u64(entry, place->fid);
        store_u64(entry + 8, place->offset);
        store_u32(entry + 16, place->length);
        store_u32(entry + 20, place->crc32c);
        store_u32(entry + 24, place->header_length);
        store_u32(entry + 28, place->created_s);
    }
    memset(content, 0, HEADER_BYTES);
    store_u64(content, CHECKPOINT_MAGIC);
    store_u32(content + 8, CHECKPOINT_VERSION);
    store_u32(content + 12, volume->id);
    memcpy(content + 16, volume->uuid, 16);
    store_u64(content + 32, checkpoint->tail);
    store_u64(content + 40, checkpoint->next_seq);
    store_u64(content + 48, checkpoint->count);
    store_u64(content + 56, checkpoint->fid_max);
    store_u64(content + 64, checkpoint->pad_bytes);
    store_u64(content + 72, checkpoint->punched_seq);
    store_u64(content + 80, checkpoint->punched_bytes);
    store_u64(content + 88, clock_unix_us());
    store_u32(content + 96, engine_crc32c(0, content + HEADER_BYTES, size - HEADER_BYTES));
    store_u32(content + HEADER_CRC_AT, engine_crc32c(0, content, HEADER_CRC_AT));
}

int checkpoint_write(struct volume *volume, struct checkpoint *checkpoint, engine_error *error)
{
    char name[VOLUME_NAME_BYTES];
    char old[VOLUME_NAME_BYTES];
    size_t size = HEADER_BYTES + checkpoint->count * ENTRY_BYTES;
    uint8_t *content = malloc(size);
    if (content == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a checkpoint");
    if (checkpoint->count > 1)
        qsort(checkpoint->places, checkpoint->count, sizeof checkpoint->places[0], by_fid);
    encode(volume, checkpoint, content, size);
    volume_name(name, volume->id, ".ckp");
    volume_name(old, volume->id, ".ckp.old");
    int failed = io_replace(volume->io, volume->directory, name, old, content, size);
    int reason = errno;
    free(content);
    if (failed != 0)
        return failure_os(error, reason, "cannot write %s", name);
    return ENGINE_OK;
}
