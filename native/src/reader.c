/* Reading: every byte that leaves is part of a block that was compared with its CRC in this call. */
#include "reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "pinned.h"
#include "store.h"

#define SCRATCH_BYTES ((size_t)1 << NEEDLE_BLOCK_LOG2)
#define PIECE_BYTES ((size_t)1 << 20)

/* A block of memory for a block that the caller wants only a part of. A few are kept: fresh ones cost page faults. */
static uint8_t *take_scratch(engine_store *store)
{
    pthread_mutex_lock(&store->scratch_lock);
    struct scratch *scratch = store->scratch;
    if (scratch != NULL) {
        store->scratch = scratch->next;
        store->scratch_kept--;
    }
    pthread_mutex_unlock(&store->scratch_lock);
    return scratch != NULL ? (uint8_t *)scratch : malloc(SCRATCH_BYTES);
}

static void give_scratch(engine_store *store, uint8_t *bytes)
{
    if (bytes == NULL)
        return;
    struct scratch *scratch = (struct scratch *)(void *)bytes;
    pthread_mutex_lock(&store->scratch_lock);
    bool keep = store->scratch_kept < SCRATCH_KEPT_MAX;
    if (keep) {
        scratch->next = store->scratch;
        store->scratch = scratch;
        store->scratch_kept++;
    }
    pthread_mutex_unlock(&store->scratch_lock);
    if (!keep)
        free(bytes);
}

void reader_free_scratch(engine_store *store)
{
    while (store->scratch != NULL) {
        struct scratch *next = store->scratch->next;
        free(store->scratch);
        store->scratch = next;
    }
    store->scratch_kept = 0;
}

/* One chunk being read. */
struct reading {
    engine_store *store;
    struct volume *volume;
    const struct chunk_place *place;
    struct needle needle;
    uint8_t *header; /* NEEDLE_HEADER_BYTES_MAX bytes; not zeroed, which would cost a small read a tenth of its time */
    uint8_t *scratch;
    engine_error *error;
};

static int corrupt(struct reading *reading, int os_error, const char *what)
{
    atomic_fetch_add(&reading->store->counters.corrupt_reads, 1);
    return failure(reading->error, ENGINE_CORRUPT, os_error, "fid %" PRIu64 ", volume %u, offset %" PRIu64 ": %s",
                   reading->place->fid, (unsigned)reading->volume->id, reading->place->offset, what);
}

static int read_header(struct reading *reading)
{
    const struct chunk_place *place = reading->place;
    size_t more;
    if (reading->volume->file < 0)
        return corrupt(reading, 0, "the volume cannot be opened");
    if (place->header_length > NEEDLE_HEADER_BYTES_MAX)
        return corrupt(reading, 0, "impossible header length");
    struct iovec part = {.iov_base = reading->header, .iov_len = place->header_length};
    if (volume_readv(reading->volume, &part, 1, place->offset) != 0)
        return corrupt(reading, errno, "cannot read the header");
    if (!needle_decode(reading->header, place->header_length, reading->volume->uuid, place->offset,
                       reading->volume->size, &reading->needle, &more))
        return corrupt(reading, 0, "the header is damaged");
    const struct needle *needle = &reading->needle;
    if ((needle->flags & NEEDLE_PAD) != 0 || needle->fid != place->fid || needle->payload_length != place->length ||
        needle->payload_crc != place->crc32c || needle->header_length != place->header_length)
        return corrupt(reading, 0, "header and index disagree");
    return ENGINE_OK;
}

static size_t block_length(const struct needle *needle, uint64_t block_start)
{
    uint64_t block = (uint64_t)1 << needle->block_log2;
    uint64_t left = needle->payload_length - block_start;
    return (size_t)(left < block ? left : block);
}

/* Copies [offset, offset + length) of the block that starts at block_start, through scratch unless it is the whole. */
static int read_block(struct reading *reading, uint64_t block_start, uint64_t offset, uint8_t *to, size_t length)
{
    const struct needle *needle = &reading->needle;
    uint32_t block = (uint32_t)(block_start >> needle->block_log2);
    size_t whole = block_length(needle, block_start);
    uint8_t *bytes = to;
    if (length != whole) {
        if (whole > SCRATCH_BYTES)
            return corrupt(reading, 0, "unsupported block size");
        if (reading->scratch == NULL)
            reading->scratch = take_scratch(reading->store);
        if (reading->scratch == NULL)
            return failure(reading->error, ENGINE_NO_MEMORY, 0, "no memory to read a block");
        bytes = reading->scratch;
    }
    struct iovec part = {.iov_base = bytes, .iov_len = whole};
    if (volume_readv(reading->volume, &part, 1, reading->place->offset + needle->header_length + block_start) != 0)
        return corrupt(reading, errno, "cannot read the payload");
    if (engine_crc32c(0, bytes, whole) != load_u32(needle_block_crc(reading->header, block)))
        return corrupt(reading, 0, "a block fails its checksum");
    if (bytes != to)
        memcpy(to, bytes + (offset - block_start), length);
    return ENGINE_OK;
}

/* A whole chunk needs no header: the index has the CRC of all its bytes. Read in pieces, so that each is summed up while
 * it is in a cache. */
static int read_whole(struct reading *reading, uint8_t *to, uint32_t *crc32c)
{
    const struct chunk_place *place = reading->place;
    uint64_t payload = place->offset + place->header_length;
    uint32_t crc = 0;
    if (reading->volume->file < 0)
        return corrupt(reading, 0, "the volume cannot be opened");
    for (size_t at = 0; at < place->length;) {
        size_t left = place->length - at;
        struct iovec part = {.iov_base = to + at, .iov_len = left < PIECE_BYTES ? left : PIECE_BYTES};
        if (volume_readv(reading->volume, &part, 1, payload + at) != 0)
            return corrupt(reading, errno, "cannot read the payload");
        crc = engine_crc32c(crc, part.iov_base, part.iov_len);
        at += part.iov_len;
    }
    if (crc32c != NULL)
        *crc32c = crc;
    return crc == place->crc32c ? ENGINE_OK : corrupt(reading, 0, "the payload fails its checksum");
}

static int read_range(struct reading *reading, uint64_t offset, uint8_t *to, size_t length, uint32_t *crc32c)
{
    int status = read_header(reading);
    if (status != ENGINE_OK)
        return status; /* nothing in the header, its block size for one, can be relied on */
    uint64_t block = (uint64_t)1 << reading->needle.block_log2;
    uint64_t end = offset + length;
    uint64_t at = offset;
    uint32_t crc = 0;
    while (status == ENGINE_OK && at < end) {
        uint64_t block_start = round_down(at, block);
        uint64_t stop = block_start + block < end ? block_start + block : end;
        uint8_t *piece = to + (at - offset);
        status = read_block(reading, block_start, at, piece, (size_t)(stop - at));
        if (crc32c != NULL && status == ENGINE_OK)
            crc = engine_crc32c(crc, piece, (size_t)(stop - at));
        at = stop;
    }
    if (crc32c != NULL)
        *crc32c = crc;
    return status;
}

int reader_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, uint32_t *crc32c,
                engine_error *error)
{
    struct chunk_place place;
    struct pinned pinned;
    if (!pinned_find(store, fid, &place, &pinned))
        return failure(error, ENGINE_NOT_FOUND, 0, "no chunk %" PRIu64, fid);
    int status;
    if (offset > place.length || length > place.length - offset) {
        status = failure(error, ENGINE_RANGE, 0, "chunk %" PRIu64 " has %u bytes, asked for %zu at %" PRIu64, fid,
                         (unsigned)place.length, length, offset);
    } else {
        uint8_t header[NEEDLE_HEADER_BYTES_MAX];
        struct reading reading = {
            .store = store, .volume = pinned.volume, .place = &place, .header = header, .error = error};
        status = length == place.length ? read_whole(&reading, buffer, crc32c)
                                        : read_range(&reading, offset, buffer, length, crc32c);
        give_scratch(store, reading.scratch);
        atomic_fetch_add(&store->counters.reads, 1);
    }
    pinned_release(&pinned);
    return status;
}

int reader_verify(engine_store *store, uint64_t fid, engine_error *error)
{
    struct chunk_place place;
    struct pinned pinned;
    if (!pinned_find(store, fid, &place, &pinned))
        return failure(error, ENGINE_NOT_FOUND, 0, "no chunk %" PRIu64, fid);
    uint8_t *bytes = take_scratch(store);
    uint8_t header[NEEDLE_HEADER_BYTES_MAX];
    struct reading reading = {
        .store = store, .volume = pinned.volume, .place = &place, .header = header, .error = error};
    int status;
    if (bytes == NULL)
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory to read a block");
    else
        status = read_header(&reading);
    if (status == ENGINE_OK && ((size_t)1 << reading.needle.block_log2) > SCRATCH_BYTES)
        status = corrupt(&reading, 0, "unsupported block size");
    for (uint64_t at = 0; status == ENGINE_OK && at < place.length;) {
        size_t piece = block_length(&reading.needle, at);
        status = read_block(&reading, at, at, bytes, piece);
        at += piece;
    }
    give_scratch(store, bytes);
    pinned_release(&pinned);
    return status;
}
