/*
 * The copies follow each other at 64 bytes, without the alignment of batches: nothing of a new volume is acknowledged before
 * all of it is durable. Their seq begins at 1 and synced seq is the seq before, so that a later reader takes any missing
 * one for what it is, a loss. Both sides move in pieces of up to 4 MiB.
 */
#include "copying.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"

#define OUT_BYTES ((size_t)4 << 20)
#define IN_BYTES ((size_t)4 << 20)
#define PIECE_BYTES ((size_t)256 << 10) /* of payload, compared and copied at a time */
#define GAP_BYTES_MAX ((uint64_t)64 << 10) /* dead bytes between two needles that are read along */

int copying_begin(struct copying *copying, engine_store *store, struct volume *target, engine_error *error)
{
    memset(copying, 0, sizeof *copying);
    copying->store = store;
    copying->target = target;
    copying->next_seq = 1;
    copying->tail = copying->out_base = VOLUME_DATA_START;
    copying->out = malloc(OUT_BYTES);
    copying->in = malloc(IN_BYTES);
    if (copying->out == NULL || copying->in == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory to copy needles");
    return ENGINE_OK;
}

void copying_free(struct copying *copying)
{
    free(copying->out);
    free(copying->in);
    copying->out = copying->in = NULL;
}

/* Writes what is there; only copying_end leaves out a part of a block. */
static int flush(struct copying *copying, engine_error *error)
{
    const struct volume *target = copying->target;
    size_t used = copying->out_used;
    if (used == 0)
        return ENGINE_OK;
    if (io_write(target->io, target->file, copying->out, used, copying->out_base) != 0)
        return failure_os(error, errno, "volume %u: cannot write copies", (unsigned)target->id);
    copying->out_base += used;
    copying->out_used = 0;
    copying->flushed_bytes += used;
    if (copying->go_on != NULL && !copying->go_on(copying->argument, used)) {
        copying->stopped = true;
        return failure(error, ENGINE_CLOSED, 0, "the compaction was stopped");
    }
    return ENGINE_OK;
}

/* bytes NULL: zeros. */
static int append(struct copying *copying, const uint8_t *bytes, size_t length, engine_error *error)
{
    int status = ENGINE_OK;
    while (length > 0 && status == ENGINE_OK) {
        size_t piece = OUT_BYTES - copying->out_used;
        if (piece > length)
            piece = length;
        if (bytes != NULL) {
            memcpy(copying->out + copying->out_used, bytes, piece);
            bytes += piece;
        } else {
            memset(copying->out + copying->out_used, 0, piece);
        }
        copying->out_used += piece;
        length -= piece;
        if (copying->out_used == OUT_BYTES)
            status = flush(copying, error);
    }
    return status;
}

/* Forgets everything from tail on. */
static int go_back(struct copying *copying, uint64_t tail, uint64_t next_seq, engine_error *error)
{
    const struct volume *target = copying->target;
    if (tail < copying->out_base) {
        copying->out_base = round_down(tail, BLOCK_BYTES);
        if (io_read(target->io, target->file, copying->out, (size_t)(tail - copying->out_base), copying->out_base) != 0)
            return failure(error, ENGINE_FAILED, errno, "volume %u: cannot read copies back", (unsigned)target->id);
    }
    copying->out_used = (size_t)(tail - copying->out_base);
    copying->tail = tail;
    copying->next_seq = next_seq;
    return ENGINE_OK;
}

static uint64_t end_of(const struct chunk_place *place)
{
    return place->offset + needle_footprint(place->length, place->header_length);
}

/* Where the bytes end that are worth reading together from offset, which lies in the first of the needles. */
static uint64_t run_end(const struct move *moves, size_t count, uint64_t offset)
{
    uint64_t end = end_of(&moves[0].from);
    for (size_t i = 1; i < count && end - offset < IN_BYTES; i++) {
        if (moves[i].from.offset > end + GAP_BYTES_MAX)
            break;
        end = end_of(&moves[i].from);
    }
    return end;
}

/* length (<= PIECE_BYTES) bytes of source at offset, within the first of the needles; NULL and errno when unreadable. */
static const uint8_t *fetch(struct copying *copying, const struct volume *source, const struct move *moves, size_t count,
                            uint64_t offset, size_t length)
{
    if (copying->in_volume == source && offset >= copying->in_base &&
        offset + length <= copying->in_base + copying->in_length)
        return copying->in + (offset - copying->in_base);
    uint64_t rest = run_end(moves, count, offset) - offset;
    size_t wanted = rest < IN_BYTES ? (size_t)rest : IN_BYTES;
    copying->in_volume = NULL;
    if (io_read(source->io, source->file, copying->in, wanted, offset) != 0) {
        /* Perhaps only what is dead between the needles, or another needle, cannot be read. */
        wanted = length;
        if (io_read(source->io, source->file, copying->in, wanted, offset) != 0)
            return NULL;
    }
    copying->in_volume = source;
    copying->in_base = offset;
    copying->in_length = wanted;
    return copying->in;
}

static int damage(const struct volume *source, const struct chunk_place *place, int os_error, const char *what,
                  engine_error *error)
{
    return failure(error, ENGINE_CORRUPT, os_error, "fid %" PRIu64 ", volume %u, offset %" PRIu64 ": %s", place->fid,
                   (unsigned)source->id, place->offset, what);
}

static int copy_block(struct copying *copying, const struct volume *source, const struct move *moves, size_t count,
                      uint64_t offset, uint64_t length, uint32_t expected, engine_error *error)
{
    uint32_t crc = 0;
    while (length > 0) {
        size_t piece = length < PIECE_BYTES ? (size_t)length : PIECE_BYTES;
        const uint8_t *bytes = fetch(copying, source, moves, count, offset, piece);
        if (bytes == NULL)
            return damage(source, &moves[0].from, errno, "cannot read the payload", error);
        crc = engine_crc32c(crc, bytes, piece);
        int status = append(copying, bytes, piece, error);
        if (status != ENGINE_OK)
            return status;
        offset += piece;
        length -= piece;
    }
    if (crc != expected)
        return damage(source, &moves[0].from, 0, "a block fails its checksum", error);
    return ENGINE_OK;
}

/* The first of the needles. */
static int copy_needle(struct copying *copying, const struct volume *source, const struct move *moves, size_t count,
                       engine_error *error)
{
    const struct chunk_place *place = &moves[0].from;
    struct needle needle;
    size_t more;
    uint8_t header[NEEDLE_HEADER_BYTES_MAX];
    if (place->header_length > sizeof header)
        return damage(source, place, 0, "impossible header length", error);
    const uint8_t *bytes = fetch(copying, source, moves, count, place->offset, place->header_length);
    if (bytes == NULL)
        return damage(source, place, errno, "cannot read the header", error);
    if (!needle_decode(bytes, place->header_length, source->uuid, place->offset, source->size, &needle, &more))
        return damage(source, place, 0, "the header is damaged", error);
    if (needle.fid != place->fid || needle.payload_length != place->length || needle.payload_crc != place->crc32c ||
        needle.header_length != place->header_length || (needle.flags & NEEDLE_PAD) != 0)
        return damage(source, place, 0, "header and index disagree", error);
    memcpy(header, bytes, place->header_length);
    needle_place(header, copying->target->uuid, copying->tail, copying->next_seq, copying->next_seq - 1);
    int status = append(copying, header, place->header_length, error);
    uint64_t offset = place->offset + place->header_length;
    uint64_t left = place->length;
    for (uint32_t block = 0; block < needle.block_count && status == ENGINE_OK; block++) {
        uint64_t length = (uint64_t)1 << needle.block_log2;
        if (length > left)
            length = left;
        status = copy_block(copying, source, moves, count, offset, length,
                            load_u32(needle_block_crc(header, block)), error);
        offset += length;
        left -= length;
    }
    uint64_t footprint = needle_footprint(place->length, place->header_length);
    if (status == ENGINE_OK)
        status = append(copying, NULL, (size_t)(footprint - place->header_length - place->length), error);
    return status;
}

static bool is_live(engine_store *store, const struct chunk_place *place)
{
    struct chunk_place now;
    return chunk_index_get(store->index, place->fid, &now, NULL, NULL) && now.slot == place->slot &&
           now.offset == place->offset;
}

int copying_volume(struct copying *copying, struct volume *source, struct move *moves, size_t count,
                   struct chunk_place *damaged, engine_error *error)
{
    const uint64_t tail = copying->tail;
    const uint64_t next_seq = copying->next_seq;
    int status = ENGINE_OK;
    for (size_t i = 0; i < count && status == ENGINE_OK; i++) {
        const struct chunk_place *place = &moves[i].from;
        moves[i].to = 0;
        if (!is_live(copying->store, place))
            continue;
        status = copy_needle(copying, source, moves + i, count - i, error);
        if (status == ENGINE_OK) {
            moves[i].to = copying->tail;
            copying->tail += needle_footprint(place->length, place->header_length);
            copying->next_seq++;
        } else if (status == ENGINE_CORRUPT && !is_live(copying->store, place)) {
            /* Nobody has it any more. */
            status = go_back(copying, copying->tail, copying->next_seq, error);
        }
        *damaged = *place;
    }
    if (status != ENGINE_CORRUPT)
        return status;
    for (size_t i = 0; i < count; i++)
        moves[i].to = 0;
    int failed = go_back(copying, tail, next_seq, error);
    return failed != ENGINE_OK ? failed : ENGINE_CORRUPT;
}

int copying_end(struct copying *copying, engine_error *error)
{
    const struct volume *target = copying->target;
    uint64_t end = round_up(copying->tail, BLOCK_BYTES);
    int status = append(copying, NULL, (size_t)(end - copying->tail), error);
    if (status == ENGINE_OK)
        status = flush(copying, error);
    if (status != ENGINE_OK)
        return status;
    atomic_fetch_add(&copying->store->counters.syncs, 1);
    if (target->io->fdatasync(target->io->context, target->file) != 0)
        return failure(error, ENGINE_FAILED, errno, "volume %u: cannot sync copies", (unsigned)target->id);
    return ENGINE_OK;
}
