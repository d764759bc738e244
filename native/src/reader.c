/* Reading: every byte that leaves is part of a block that was compared with its CRC in this call. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "store.h"

#define SCRATCH_BYTES ((size_t)1 << NEEDLE_BLOCK_LOG2)

struct pinned {
    engine_store *store;
    struct volume *volume;
    unsigned epoch;
};

static void pin(void *argument, const struct chunk_place *place)
{
    struct pinned *pinned = argument;
    pinned->volume = volumes_get(pinned->store, place->slot);
    volume_pin(pinned->volume, &pinned->epoch);
}

static void unpin(struct pinned *pinned)
{
    if (volume_unpin(pinned->volume, pinned->epoch))
        keeper_wake(pinned->store);
}

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

/* Reads the header, and in the same call the first first_length payload bytes into first. What fits behind the header in
 * its memory is copied from there: the system call for one piece is cheaper by more than the copy costs. */
static int read_header(struct reading *reading, uint8_t *first, size_t first_length)
{
    const struct chunk_place *place = reading->place;
    size_t more;
    if (reading->volume->file < 0)
        return corrupt(reading, 0, "the volume cannot be opened");
    if (place->header_length > NEEDLE_HEADER_BYTES_MAX)
        return corrupt(reading, 0, "impossible header length");
    bool together = first_length <= NEEDLE_HEADER_BYTES_MAX - place->header_length;
    struct iovec parts[2] = {
        {.iov_base = reading->header, .iov_len = place->header_length + (together ? first_length : 0)},
        {.iov_base = first, .iov_len = first_length},
    };
    if (volume_readv(reading->volume, parts, together ? 1 : 2, place->offset) != 0)
        return corrupt(reading, errno, "cannot read the header");
    if (together && first_length > 0)
        memcpy(first, reading->header + place->header_length, first_length);
    if (!needle_decode(reading->header, place->header_length, reading->volume->uuid, place->offset,
                       reading->volume->size, &reading->needle, &more))
        return corrupt(reading, 0, "the header is damaged");
    const struct needle *needle = &reading->needle;
    if ((needle->flags & NEEDLE_PAD) != 0 || needle->fid != place->fid || needle->payload_length != place->length ||
        needle->payload_crc != place->crc32c || needle->header_length != place->header_length)
        return corrupt(reading, 0, "header and index disagree");
    return ENGINE_OK;
}

static int check_block(struct reading *reading, uint32_t block, const uint8_t *bytes, size_t length)
{
    if (engine_crc32c(0, bytes, length) != load_u32(needle_block_crc(reading->header, block)))
        return corrupt(reading, 0, "a block fails its checksum");
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
    int status = check_block(reading, block, bytes, whole);
    if (status == ENGINE_OK && bytes != to)
        memcpy(to, bytes + (offset - block_start), length);
    return status;
}

static int read_range(struct reading *reading, uint64_t offset, uint8_t *to, size_t length)
{
    uint64_t block = (uint64_t)1 << NEEDLE_BLOCK_LOG2;
    uint64_t chunk_length = reading->place->length;
    /* When the range begins with the whole first block, its bytes come with the header in one system call. */
    uint64_t first = chunk_length < block ? chunk_length : block;
    if (offset != 0 || length < first)
        first = 0;
    int status = read_header(reading, to, (size_t)first);
    if (status == ENGINE_OK && first > 0) {
        if (reading->needle.block_log2 == NEEDLE_BLOCK_LOG2)
            status = check_block(reading, 0, to, (size_t)first);
        else
            first = 0; /* written with other blocks: read it again in those */
    }
    if (status != ENGINE_OK)
        return status; /* nothing in the header, its block size for one, can be relied on */
    block = (uint64_t)1 << reading->needle.block_log2;
    uint64_t end = offset + length;
    uint64_t at = offset + first;
    while (status == ENGINE_OK && at < end) {
        uint64_t block_start = round_down(at, block);
        uint64_t stop = block_start + block < end ? block_start + block : end;
        status = read_block(reading, block_start, at, to + (at - offset), (size_t)(stop - at));
        at = stop;
    }
    return status;
}

int reader_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, engine_error *error)
{
    struct chunk_place place;
    struct pinned pinned = {.store = store};
    if (!chunk_index_get(store->index, fid, &place, pin, &pinned))
        return failure(error, ENGINE_NOT_FOUND, 0, "no chunk %" PRIu64, fid);
    int status;
    if (offset > place.length || length > place.length - offset) {
        status = failure(error, ENGINE_RANGE, 0, "chunk %" PRIu64 " has %u bytes, asked for %zu at %" PRIu64, fid,
                         (unsigned)place.length, length, offset);
    } else {
        uint8_t header[NEEDLE_HEADER_BYTES_MAX];
        struct reading reading = {
            .store = store, .volume = pinned.volume, .place = &place, .header = header, .error = error};
        status = read_range(&reading, offset, buffer, length);
        give_scratch(store, reading.scratch);
        atomic_fetch_add(&store->counters.reads, 1);
    }
    unpin(&pinned);
    return status;
}

int reader_verify(engine_store *store, uint64_t fid, engine_error *error)
{
    struct chunk_place place;
    struct pinned pinned = {.store = store};
    if (!chunk_index_get(store->index, fid, &place, pin, &pinned))
        return failure(error, ENGINE_NOT_FOUND, 0, "no chunk %" PRIu64, fid);
    uint8_t *bytes = take_scratch(store);
    uint8_t header[NEEDLE_HEADER_BYTES_MAX];
    struct reading reading = {
        .store = store, .volume = pinned.volume, .place = &place, .header = header, .error = error};
    int status;
    if (bytes == NULL)
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory to read a block");
    else
        status = read_header(&reading, NULL, 0);
    if (status == ENGINE_OK && ((size_t)1 << reading.needle.block_log2) > SCRATCH_BYTES)
        status = corrupt(&reading, 0, "unsupported block size");
    for (uint64_t at = 0; status == ENGINE_OK && at < place.length;) {
        size_t piece = block_length(&reading.needle, at);
        status = read_block(&reading, at, at, bytes, piece);
        at += piece;
    }
    give_scratch(store, bytes);
    unpin(&pinned);
    return status;
}
