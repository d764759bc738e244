/*
 * v<id>.del: records of 64 bytes; each group that one sync covers starts on a 4 KiB boundary.
 *      0 u32 magic "DELE"    4 u32 CRC of bytes 8..63    8 u8[16] volume uuid   24 u64 delete seq, ascending from 1
 *     32 u64 fid            40 u64 offset of the needle  48 u32 header length   52 u32 payload length
 *     56 u64 Unix time, µs
 * Reader: every 64 bytes; all-zero slots are alignment or preallocation, invalid ones are counted and skipped. Records
 * do not depend on each other: a valid record always counts, also from a group that was never acknowledged. The next
 * group goes behind the last slot that is not zero, rounded up.
 */
#include "delete_log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "failure.h"

#define RECORD_BYTES 64u
#define RECORD_MAGIC 0x454c4544u
#define ALLOCATION_BYTES 65536u
#define PACK_ABOVE_BYTES 262144u
#define FILE_BYTES_MAX ((uint64_t)1 << 36)

static void encode(uint8_t *slot, const struct volume *volume, const struct delete_record *record)
{
    store_u32(slot, RECORD_MAGIC);
    memcpy(slot + 8, volume->uuid, 16);
    store_u64(slot + 24, record->delete_seq);
    store_u64(slot + 32, record->fid);
    store_u64(slot + 40, record->offset);
    store_u32(slot + 48, record->header_length);
    store_u32(slot + 52, record->payload_length);
    store_u64(slot + 56, clock_unix_us());
    store_u32(slot + 4, engine_crc32c(0, slot + 8, RECORD_BYTES - 8));
}

static bool slot_is_valid(const uint8_t *slot, const struct volume *volume)
{
    return load_u32(slot) == RECORD_MAGIC && load_u32(slot + 4) == engine_crc32c(0, slot + 8, RECORD_BYTES - 8) &&
           memcmp(slot + 8, volume->uuid, 16) == 0;
}

static int by_offset(const void *left, const void *right)
{
    const struct delete_record *a = left;
    const struct delete_record *b = right;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static int read_slots(struct volume *volume, const uint8_t *content, uint64_t size, struct delete_set *set,
                      engine_error *error)
{
    size_t capacity = 0;
    for (uint64_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        const uint8_t *slot = content + at;
        if (all_zero(slot, RECORD_BYTES))
            continue;
        volume->delete_tail = at + RECORD_BYTES;
        if (!slot_is_valid(slot, volume)) {
            set->damaged_records++;
            continue;
        }
        if (set->count == capacity) {
            capacity = capacity == 0 ? 64 : 2 * capacity;
            struct delete_record *records = realloc(set->records, capacity * sizeof *records);
            if (records == NULL)
                return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a delete log");
            set->records = records;
        }
        struct delete_record record = {
            .delete_seq = load_u64(slot + 24),
            .fid = load_u64(slot + 32),
            .offset = load_u64(slot + 40),
            .header_length = load_u32(slot + 48),
            .payload_length = load_u32(slot + 52),
        };
        if (record.delete_seq >= volume->delete_next_seq)
            volume->delete_next_seq = record.delete_seq + 1;
        set->records[set->count++] = record;
    }
    return ENGINE_OK;
}

/* The log's content, owned by the caller; NULL with *size 0 when there is no log. */
static int read_file(struct volume *volume, uint8_t **content, uint64_t *size, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    volume_name(name, volume->id, ".del");
    *content = NULL;
    *size = 0;
    int file = io_open(io, volume->directory, name, O_RDWR);
    if (file < 0 && errno == ENOENT)
        return ENGINE_OK;
    if (file < 0)
        return failure(error, ENGINE_FAILED, errno, "cannot open %s", name);
    int status = ENGINE_OK;
    uint64_t length = 0;
    if (io->size(io->context, file, &length) != 0 || io->fsync(io->context, file) != 0) {
        status = failure(error, ENGINE_FAILED, errno, "cannot sync %s", name);
        goto cleanup;
    }
    (void)io->drop_cache(io->context, file, 0, length);
    if (length > FILE_BYTES_MAX) {
        status = failure(error, ENGINE_FAILED, 0, "%s has an absurd size", name);
        goto cleanup;
    }
    if (length == 0)
        goto cleanup;
    *content = malloc(length);
    if (*content == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for %s", name);
        goto cleanup;
    }
    if (io_read(io, file, *content, length, 0) != 0) {
        status = failure(error, ENGINE_FAILED, errno, "cannot read %s", name);
        free(*content);
        *content = NULL;
        goto cleanup;
    }
    *size = length;
cleanup:
    io_close(io, file);
    return status;
}

int delete_log_load(struct volume *volume, struct delete_set *set, engine_error *error)
{
    uint8_t *content = NULL;
    uint64_t size = 0;
    memset(set, 0, sizeof *set);
    pthread_mutex_lock(&volume->delete_lock);
    int status = read_file(volume, &content, &size, error);
    if (status == ENGINE_OK)
        status = read_slots(volume, content, size, set, error);
    free(content);
    volume->delete_tail = round_up(volume->delete_tail, BLOCK_BYTES);
    volume->delete_allocated = round_down(size, BLOCK_BYTES);
    volume->delete_records = set->count;
    /* Records that could not be read may say that a needle is dead: no further delete may rely on this log. */
    volume->delete_failed = status != ENGINE_OK;
    pthread_mutex_unlock(&volume->delete_lock);
    if (set->count > 1)
        qsort(set->records, set->count, sizeof set->records[0], by_offset);
    return status;
}

void delete_set_free(struct delete_set *set)
{
    free(set->records);
    memset(set, 0, sizeof *set);
}

const struct delete_record *delete_set_find(const struct delete_set *set, uint64_t offset, uint64_t fid)
{
    size_t low = 0;
    size_t high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->records[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < set->count && set->records[low].offset == offset; low++)
        if (set->records[low].fid == fid)
            return &set->records[low];
    return NULL;
}

/* Space first, bytes second: a full disk is noticed before anything is half written. */
static int allocate(struct volume *volume, int file, uint64_t end, engine_error *error)
{
    const struct engine_io *io = volume->io;
    if (end <= volume->delete_allocated)
        return ENGINE_OK;
    uint64_t length = round_up(end - volume->delete_allocated, ALLOCATION_BYTES);
    if (io->fallocate(io->context, file, 0, volume->delete_allocated, length) != 0) {
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return failure_os(error, errno, "no space for a delete record");
        return ENGINE_OK;
    }
    volume->delete_allocated += length;
    return ENGINE_OK;
}

int delete_log_append(struct volume *volume, struct delete_record *records, size_t count, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    int file = -1;
    int status = ENGINE_OK;
    uint8_t *slots = malloc(count * RECORD_BYTES);
    if (slots == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for delete records");
    volume_name(name, volume->id, ".del");
    pthread_mutex_lock(&volume->delete_lock);
    if (volume->delete_failed) {
        status = failure(error, ENGINE_FAILED, 0, "%s failed before and takes no records", name);
        goto cleanup;
    }
    bool fresh = volume->delete_tail == 0;
    file = io_open(io, volume->directory, name, O_RDWR | O_CREAT);
    if (file < 0) {
        status = failure_os(error, errno, "cannot open %s", name);
        goto cleanup;
    }
    for (size_t i = 0; i < count; i++) {
        records[i].delete_seq = volume->delete_next_seq + i;
        encode(slots + i * RECORD_BYTES, volume, &records[i]);
    }
    uint64_t end = volume->delete_tail + count * RECORD_BYTES;
    status = allocate(volume, file, end, error);
    if (status != ENGINE_OK)
        goto cleanup;
    uint64_t start = volume->delete_tail;
    volume->delete_tail = round_up(end, BLOCK_BYTES);
    volume->delete_next_seq += count;
    if (io_write(io, file, slots, count * RECORD_BYTES, start) != 0) {
        status = failure_os(error, errno, "cannot write %s", name);
        volume->delete_failed = status != ENGINE_DISK_FULL;
        goto cleanup;
    }
    if (io->fsync(io->context, file) != 0 || (fresh && io->fsync(io->context, volume->directory) != 0)) {
        status = failure(error, ENGINE_FAILED, errno, "cannot sync %s", name);
        volume->delete_failed = true;
        goto cleanup;
    }
    volume->delete_records += count;
cleanup:
    io_close(io, file);
    pthread_mutex_unlock(&volume->delete_lock);
    free(slots);
    return status;
}

int delete_log_pack(struct volume *volume, engine_error *error)
{
    uint8_t *content = NULL;
    uint64_t size = 0;
    int status = ENGINE_OK;
    pthread_mutex_lock(&volume->delete_lock);
    if (volume->delete_failed || volume->delete_tail < PACK_ABOVE_BYTES ||
        volume->delete_tail / 4 < volume->delete_records * RECORD_BYTES)
        goto cleanup;
    status = read_file(volume, &content, &size, error);
    if (status != ENGINE_OK)
        goto cleanup;
    uint64_t used = 0;
    for (uint64_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        if (slot_is_valid(content + at, volume)) {
            memmove(content + used, content + at, RECORD_BYTES);
            used += RECORD_BYTES;
        }
    }
    char name[VOLUME_NAME_BYTES];
    volume_name(name, volume->id, ".del");
    if (io_replace(volume->io, volume->directory, name, NULL, content, used) != 0) {
        status = failure_os(error, errno, "cannot rewrite %s", name);
        /* Whether the old file or the new one bears the name after a power cut is open; both hold every record, but
         * only the one that is open now would get the next. */
        volume->delete_failed = true;
        goto cleanup;
    }
    volume->delete_tail = round_up(used, BLOCK_BYTES);
    volume->delete_allocated = volume->delete_tail;
    volume->delete_records = used / RECORD_BYTES;
cleanup:
    pthread_mutex_unlock(&volume->delete_lock);
    free(content);
    return status;
}
