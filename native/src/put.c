/* Storing chunks: what a put checks and prepares in its caller's thread before an appender takes it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "clock.h"
#include "failure.h"
#include "reader.h"
#include "store.h"

/* Fills put, whose header (the caller's, zeroed, of header_length bytes) is complete but for its place. The checksums are
 * computed here, in the caller's thread, so that as many cores work as there are callers. */
static int prepare(struct put *put, uint64_t fid, const void *payload, size_t length, uint32_t crc32c, uint64_t now_us,
                   uint8_t *header, engine_error *error)
{
    struct needle needle = {
        .fid = fid,
        .payload_length = length,
        .created_us = now_us,
        .header_length = needle_header_length(length, 0),
        .block_count = needle_block_count(length, NEEDLE_BLOCK_LOG2),
        .seq_span = 1,
        .block_log2 = NEEDLE_BLOCK_LOG2,
    };
    needle.payload_crc = checksum_blocks(payload, length, NEEDLE_BLOCK_LOG2, header + NEEDLE_FIXED_BYTES);
    if (needle.payload_crc != crc32c) {
        int status = failure(error, ENGINE_CHECKSUM, 0, "payload of chunk %" PRIu64 " does not match its checksum", fid);
        error->expected = crc32c;
        error->actual = needle.payload_crc;
        return status;
    }
    needle_encode(&needle, header);
    memset(put, 0, sizeof *put);
    put->payload = payload;
    put->header = header;
    put->fid = fid;
    put->footprint = needle_footprint(length, needle.header_length);
    put->header_length = needle.header_length;
    put->length = (uint32_t)length;
    put->crc32c = crc32c;
    put->created_s = (uint32_t)(now_us / 1000000u);
    put->error = error;
    return ENGINE_OK;
}

static int check(uint64_t fid, size_t length, engine_error *error)
{
    if (fid == 0)
        return failure(error, ENGINE_INVALID, 0, "fid 0 is not a chunk");
    if (length > ENGINE_CHUNK_BYTES_MAX)
        return failure(error, ENGINE_RANGE, 0, "%zu bytes are more than a chunk may have (%d)", length,
                       ENGINE_CHUNK_BYTES_MAX);
    return ENGINE_OK;
}

/* A put of a fid that is stored already: fine if the bytes are the same and good, a repair if they are the same but the
 * stored copy is damaged, refused otherwise. */
static int put_again(engine_store *store, struct put *put, bool *repair, engine_error *error)
{
    struct chunk_place place;
    *repair = false;
    if (!chunk_index_get(store->index, put->fid, &place, NULL, NULL)) {
        *repair = true; /* deleted meanwhile: store it */
        return ENGINE_OK;
    }
    if (place.length != put->length || place.crc32c != put->crc32c)
        return failure(error, ENGINE_EXISTS, 0, "chunk %" PRIu64 " exists with other bytes", put->fid);
    /* It may be gone after the next opening, so it is not promised once more. */
    if (deletes_doubt(store, put->fid))
        return failure(error, ENGINE_FAILED, 0, "a delete of chunk %" PRIu64 " failed and may yet hold", put->fid);
    int status = reader_verify(store, put->fid, error);
    if (status == ENGINE_CORRUPT || status == ENGINE_NOT_FOUND) {
        *repair = true;
        return no_failure(error);
    }
    return status;
}

static int repair_chunk(engine_store *store, struct put *put, engine_error *error)
{
    struct repair repair = {.fid = put->fid};
    deletes_repair_begins(store, &repair);
    int status = queue_put(store, put, true);
    if (status == ENGINE_OK && put->replaced)
        status = deletes_supersede(store, &put->before, error);
    deletes_repair_ends(store, &repair);
    return status;
}

/* What follows the appender's first answer. */
static int settle(engine_store *store, struct put *put, int status, engine_error *error)
{
    if (status != ENGINE_EXISTS || error->code != 0)
        return status;
    bool repair = false;
    status = put_again(store, put, &repair, error);
    if (status == ENGINE_OK && repair)
        status = repair_chunk(store, put, error);
    return status;
}

int engine_put(engine_store *store, uint64_t fid, const void *payload, size_t length, uint32_t crc32c,
               engine_error *error)
{
    struct put put;
    uint8_t *header = NULL;
    int status = store_enter_to_write(store, error);
    if (status != ENGINE_OK)
        return status;
    status = check(fid, length, error);
    if (status != ENGINE_OK)
        goto cleanup;
    header = calloc(1, needle_header_length(length, 0));
    if (header == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for a header");
        goto cleanup;
    }
    status = prepare(&put, fid, payload, length, crc32c, clock_unix_us(), header, error);
    if (status == ENGINE_OK)
        status = settle(store, &put, queue_put(store, &put, false), error);
cleanup:
    free(header);
    return store_leave(store, status);
}

static int refuse_all(engine_item *items, size_t count, engine_error *errors, int status, const char *why)
{
    for (size_t i = 0; i < count; i++)
        items[i].status = failure(&errors[i], status, 0, "%s", why);
    return count == 0 ? ENGINE_OK : status;
}

static size_t header_bytes(const engine_item *items, size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        if (items[i].length <= ENGINE_CHUNK_BYTES_MAX)
            sum += needle_header_length(items[i].length, 0);
    return sum;
}

/* Queues what can be queued. */
static void submit_all(engine_store *store, struct put *puts, uint8_t *header, engine_item *items, size_t count,
                       engine_error *errors)
{
    uint64_t now_us = clock_unix_us();
    for (size_t i = 0; i < count; i++) {
        engine_item *item = &items[i];
        (void)no_failure(&errors[i]);
        item->status = check(item->fid, item->length, &errors[i]);
        if (item->status == ENGINE_OK)
            item->status = prepare(&puts[i], item->fid, item->payload, item->length, item->crc32c, now_us, header,
                                   &errors[i]);
        if (item->status == ENGINE_OK) {
            header += puts[i].header_length;
            puts[i].in_group = true;
            item->status = queue_submit(store, &puts[i], false);
        }
    }
}

int engine_put_many(engine_store *store, engine_item *items, size_t count, engine_error *errors)
{
    engine_error closed;
    if (store_enter_to_write(store, &closed) != ENGINE_OK)
        return refuse_all(items, count, errors, closed.code, closed.detail);
    int status = ENGINE_OK;
    struct put *puts = NULL;
    uint8_t *headers = NULL;
    if (count > ENGINE_PUT_MANY_MAX) {
        status = refuse_all(items, count, errors, ENGINE_INVALID, "more chunks than one call may store");
        goto cleanup;
    }
    puts = calloc(count + 1, sizeof *puts);
    headers = calloc(1, header_bytes(items, count) + 1);
    if (puts == NULL || headers == NULL) {
        status = refuse_all(items, count, errors, ENGINE_NO_MEMORY, "no memory for so many chunks");
        goto cleanup;
    }
    submit_all(store, puts, headers, items, count, errors);
    for (size_t i = 0; i < count; i++)
        if (items[i].status == ENGINE_OK)
            items[i].status = queue_wait(store, &puts[i]);
    /* Not before nothing of this call is queued any more: a repair may wait for other calls. */
    for (size_t i = 0; i < count; i++) {
        items[i].status = settle(store, &puts[i], items[i].status, &errors[i]);
        if (status == ENGINE_OK)
            status = items[i].status;
    }
cleanup:
    free(headers);
    free(puts);
    return store_leave(store, status);
}
