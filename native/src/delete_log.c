/*
 * v<id>.del: blocks of 4 KiB with up to 64 records of 64 bytes.
 *      0 u32 magic "DELE"    4 u32 CRC of bytes 8..63    8 u8[16] volume uuid   24 u64 delete seq, ascending from 1
 *     32 u64 fid            40 u64 offset of the needle, or 0: every needle of this fid in the volume is dead
 *     48 u32 header length  52 u32 payload length
 *     56 u64 Unix time, µs
 * Reader: every 64 bytes; all-zero slots are unused, invalid ones are counted and skipped. Records do not depend on each
 * other: a valid record always counts, also from a group that was never acknowledged, and may stand there twice.
 *
 * Writer: no block that holds the only copy of a record is written again. The records of the open block, the one that is
 * not full yet, are written anew, followed by the next group, to the spare block or behind the end; when that is durable
 * the block they came from is the spare. So n records take n / 64 blocks, rounded up, and one, however many syncs made
 * them. That much is set aside on the disk before a chunk is written: on a disk that others fill it can still be deleted.
 */
#include "delete_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "failure.h"

#define RECORD_BYTES 64u
#define RECORD_MAGIC 0x454c4544u
#define BLOCK_RECORDS (BLOCK_BYTES / RECORD_BYTES)
#define STEP_BYTES_MAX 65536u /* set aside at once; less for small volumes: */
#define STEP_SHARE 1024       /* this part of the volume */
#define FILE_BYTES_MAX ((uint64_t)1 << 36)

/* A record and the block in which it stands. */
struct entry {
    struct delete_record record;
    uint64_t block;
};

struct entry_list {
    struct entry *items; /* owned */
    size_t count;
    size_t capacity;
};

struct block_use {
    unsigned records;
    unsigned only_here; /* of them, in no other block */
    unsigned damaged;
};

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

static uint64_t blocks_for(uint64_t records)
{
    return (records + BLOCK_RECORDS - 1) / BLOCK_RECORDS;
}

static int by_place(const void *left, const void *right)
{
    const struct entry *a = left;
    const struct entry *b = right;
    if (a->record.offset != b->record.offset)
        return a->record.offset < b->record.offset ? -1 : 1;
    if (a->record.fid != b->record.fid)
        return a->record.fid < b->record.fid ? -1 : 1;
    return a->block < b->block ? -1 : a->block > b->block;
}

static bool add_entry(struct entry_list *list, const struct entry *entry)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? BLOCK_RECORDS : 2 * list->capacity;
        struct entry *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL)
            return false;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *entry;
    return true;
}

static int read_slots(struct volume *volume, const uint8_t *content, uint64_t size, struct entry_list *list,
                      struct block_use *uses, engine_error *error)
{
    for (uint64_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        const uint8_t *slot = content + at;
        if (all_zero(slot, RECORD_BYTES))
            continue;
        volume->delete_end = at / BLOCK_BYTES + 1;
        if (!slot_is_valid(slot, volume)) {
            uses[at / BLOCK_BYTES].damaged++;
            continue;
        }
        struct entry entry = {
            .record =
                {
                    .delete_seq = load_u64(slot + 24),
                    .fid = load_u64(slot + 32),
                    .offset = load_u64(slot + 40),
                    .header_length = load_u32(slot + 48),
                    .payload_length = load_u32(slot + 52),
                },
            .block = at / BLOCK_BYTES,
        };
        if (entry.record.delete_seq >= volume->delete_next_seq)
            volume->delete_next_seq = entry.record.delete_seq + 1;
        if (!add_entry(list, &entry))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory for a delete log");
    }
    return ENGINE_OK;
}

/* Fills the set from the sorted list, each record once, and counts what the blocks are there for. */
static void gather(const struct entry_list *list, struct delete_set *set, struct block_use *uses)
{
    for (size_t start = 0; start < list->count;) {
        struct delete_record record = list->items[start].record;
        size_t end = start;
        bool elsewhere = false;
        for (; end < list->count; end++) {
            const struct entry *entry = &list->items[end];
            if (entry->record.offset != record.offset || entry->record.fid != record.fid)
                break;
            elsewhere = elsewhere || entry->block != list->items[start].block;
            if (entry->record.delete_seq > record.delete_seq)
                record.delete_seq = entry->record.delete_seq;
            uses[entry->block].records++;
        }
        if (!elsewhere)
            uses[list->items[start].block].only_here++;
        set->records[set->count++] = record;
        start = end;
    }
}

/* Where the writer goes on. */
static void choose_blocks(struct volume *volume, const struct block_use *uses)
{
    for (uint64_t block = 0; block < volume->delete_end && volume->delete_spare == DELETE_NO_BLOCK; block++)
        if (uses[block].only_here == 0 && uses[block].records < BLOCK_RECORDS)
            volume->delete_spare = block;
    for (uint64_t block = volume->delete_end; block-- > 0 && volume->delete_open == DELETE_NO_BLOCK;)
        if (block != volume->delete_spare && uses[block].damaged == 0 && uses[block].records > 0 &&
            uses[block].records < BLOCK_RECORDS) {
            volume->delete_open = block;
            volume->delete_open_records = uses[block].records;
        }
}

static int decode(struct volume *volume, const uint8_t *content, uint64_t size, struct delete_set *set,
                  engine_error *error)
{
    struct entry_list list = {NULL, 0, 0};
    int status = ENGINE_OK;
    struct block_use *uses = calloc(size / BLOCK_BYTES + 1, sizeof *uses);
    if (uses != NULL)
        status = read_slots(volume, content, size, &list, uses, error);
    if (status != ENGINE_OK)
        goto cleanup;
    set->records = malloc((list.count + 1) * sizeof set->records[0]);
    if (uses == NULL || set->records == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for a delete log");
        goto cleanup;
    }
    if (list.count > 1)
        qsort(list.items, list.count, sizeof list.items[0], by_place);
    gather(&list, set, uses);
    for (uint64_t block = 0; block < volume->delete_end; block++)
        set->damaged_records += uses[block].damaged;
    choose_blocks(volume, uses);
cleanup:
    free(uses);
    free(list.items);
    return status;
}

/* Where the last byte of the file ends that may be non-zero. */
static uint64_t written_end(const struct engine_io *io, int file, uint64_t length)
{
    uint64_t end = 0;
    while (end < length) {
        uint64_t data = end;
        uint64_t hole = length;
        if (io->seek_data(io->context, file, end, &data) != 0)
            return errno == ENXIO ? end : length;
        if (io->seek_hole(io->context, file, data, &hole) != 0 || hole <= end)
            return length;
        end = hole < length ? round_up(hole, BLOCK_BYTES) : length;
    }
    return length;
}

/* The log's content up to what is only set aside, owned by the caller; NULL with *size 0 when there is none. */
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
        return failure_os(error, errno, "cannot open %s", name);
    int status = ENGINE_OK;
    uint64_t length = 0;
    uint64_t taken = 0;
    if (io->size(io->context, file, &length) != 0 || io->allocated(io->context, file, &taken) != 0 ||
        io->fsync(io->context, file) != 0) {
        status = failure(error, ENGINE_FAILED, errno, "cannot sync %s", name);
        goto cleanup;
    }
    (void)io->drop_cache(io->context, file, 0, length);
    if (length > FILE_BYTES_MAX) {
        status = failure(error, ENGINE_FAILED, 0, "%s has an absurd size", name);
        goto cleanup;
    }
    volume->delete_named = true; /* names are made durable before they are read */
    volume->delete_allocated = round_down(length < taken ? length : taken, BLOCK_BYTES);
    /* Asked before anything is read: pages of zeros that are read ahead would count as written. */
    length = written_end(io, file, length);
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

/* Blocks that are not written again. */
static uint64_t closed_blocks(const struct volume *volume)
{
    return volume->delete_end - (volume->delete_open == DELETE_NO_BLOCK ? 0 : 1) -
           (volume->delete_spare == DELETE_NO_BLOCK ? 0 : 1);
}

/* delete_lock is held. */
static void update_room(struct volume *volume)
{
    uint64_t blocks = volume->delete_allocated / BLOCK_BYTES;
    uint64_t room = 0;
    if (blocks > closed_blocks(volume) + 1)
        room = (blocks - closed_blocks(volume) - 1) * BLOCK_RECORDS - volume->delete_open_records;
    pthread_mutex_lock(&volume->lock);
    volume->delete_room = room;
    pthread_mutex_unlock(&volume->lock);
}

int delete_log_load(struct volume *volume, struct delete_set *set, engine_error *error)
{
    uint8_t *content = NULL;
    uint64_t size = 0;
    memset(set, 0, sizeof *set);
    pthread_mutex_lock(&volume->delete_lock);
    int status = read_file(volume, &content, &size, error);
    if (status == ENGINE_OK)
        status = decode(volume, content, size, set, error);
    free(content);
    /* Records that could not be read may say that a needle is dead: no further delete may rely on this log. */
    volume->delete_failed = status != ENGINE_OK;
    update_room(volume);
    pthread_mutex_unlock(&volume->delete_lock);
    return status;
}

void delete_set_free(struct delete_set *set)
{
    free(set->records);
    memset(set, 0, sizeof *set);
}

static const struct delete_record *find(const struct delete_set *set, uint64_t offset, uint64_t fid)
{
    size_t low = 0;
    size_t high = set->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct delete_record *record = &set->records[middle];
        if (record->offset < offset || (record->offset == offset && record->fid < fid))
            low = middle + 1;
        else
            high = middle;
    }
    if (low < set->count && set->records[low].offset == offset && set->records[low].fid == fid)
        return &set->records[low];
    return NULL;
}

bool delete_set_has_everywhere(const struct delete_set *set)
{
    return set->count > 0 && set->records[0].offset == 0;
}

const struct delete_record *delete_set_find(const struct delete_set *set, uint64_t offset, uint64_t fid)
{
    const struct delete_record *record = find(set, offset, fid);
    if (record == NULL && delete_set_has_everywhere(set))
        record = find(set, 0, fid);
    return record;
}

/* delete_lock is held. Sets space aside up to end. */
static int allocate(struct volume *volume, int file, uint64_t end, engine_error *error)
{
    if (end <= volume->delete_allocated)
        return ENGINE_OK;
    if (io_allocate(volume->io, file, 0, end) != 0)
        return failure_os(error, errno, "volume %u: no space for delete records", (unsigned)volume->id);
    volume->delete_allocated = end;
    return ENGINE_OK;
}

static uint64_t step_of(const struct volume *volume)
{
    uint64_t step = BLOCK_BYTES; /* a power of two */
    while (step < STEP_BYTES_MAX && step < volume->size / STEP_SHARE)
        step *= 2;
    return step;
}

int delete_log_reserve(struct volume *volume, uint64_t more, engine_error *error)
{
    char name[VOLUME_NAME_BYTES];
    int status = ENGINE_OK;
    volume_name(name, volume->id, ".del");
    pthread_mutex_lock(&volume->delete_lock);
    uint64_t needed = (closed_blocks(volume) + blocks_for(volume->delete_open_records + more) + 1) * BLOCK_BYTES;
    volume->delete_lacking = false;
    if (more == 0 || needed <= volume->delete_allocated || volume->delete_failed)
        goto cleanup;
    int file = io_open(volume->io, volume->directory, name, O_RDWR | O_CREAT);
    if (file < 0) {
        status = failure_os(error, errno, "cannot open %s", name);
    } else {
        status = allocate(volume, file, round_up(needed, step_of(volume)), error);
        if (status == ENGINE_DISK_FULL)
            status = allocate(volume, file, needed, error);
    }
    io_close(volume->io, file);
    volume->delete_lacking = status != ENGINE_OK;
cleanup:
    update_room(volume);
    pthread_mutex_unlock(&volume->delete_lock);
    return status;
}

/* delete_lock is held. Copies the records of the open block to slots; returns how many. 0: it stays as it is. */
static size_t carry(const struct volume *volume, int file, uint8_t *slots)
{
    uint8_t block[BLOCK_BYTES];
    size_t count = 0;
    if (volume->delete_open == DELETE_NO_BLOCK ||
        io_read(volume->io, file, block, sizeof block, volume->delete_open * BLOCK_BYTES) != 0)
        return 0;
    for (size_t at = 0; at < BLOCK_BYTES; at += RECORD_BYTES) {
        if (slot_is_valid(block + at, volume))
            memcpy(slots + RECORD_BYTES * count++, block + at, RECORD_BYTES);
        else if (!all_zero(block + at, RECORD_BYTES))
            return 0; /* what it says is not to be lost by writing over it */
    }
    return count;
}

/* delete_lock is held. Writes `blocks` blocks and makes them durable. */
static int write_blocks(struct volume *volume, int file, const uint8_t *slots, uint64_t blocks, engine_error *error)
{
    const struct engine_io *io = volume->io;
    uint64_t first = volume->delete_spare == DELETE_NO_BLOCK ? 0 : 1;
    int failed = 0;
    if (first > 0)
        failed = io_write(io, file, slots, BLOCK_BYTES, volume->delete_spare * BLOCK_BYTES);
    if (failed == 0 && blocks > first)
        failed = io_write(io, file, slots + first * BLOCK_BYTES, (size_t)(blocks - first) * BLOCK_BYTES,
                          volume->delete_end * BLOCK_BYTES);
    if (failed != 0) {
        volume->delete_in_doubt = true;
        int status = failure_os(error, errno, "volume %u: cannot write delete records", (unsigned)volume->id);
        volume->delete_failed = status != ENGINE_DISK_FULL;
        return status;
    }
    if (io->fdatasync(io->context, file) != 0 ||
        (!volume->delete_named && io->fsync(io->context, volume->directory) != 0)) {
        volume->delete_failed = true;
        volume->delete_in_doubt = true;
        return failure(error, ENGINE_FAILED, errno, "volume %u: cannot sync delete records", (unsigned)volume->id);
    }
    volume->delete_named = true;
    return ENGINE_OK;
}

bool delete_log_is_in_doubt(struct volume *volume)
{
    pthread_mutex_lock(&volume->delete_lock);
    bool in_doubt = volume->delete_in_doubt;
    pthread_mutex_unlock(&volume->delete_lock);
    return in_doubt;
}

int delete_log_append(struct volume *volume, struct delete_record *records, size_t count, engine_error *error)
{
    char name[VOLUME_NAME_BYTES];
    int file = -1;
    int status = ENGINE_OK;
    uint8_t *slots = calloc(blocks_for(count) + 1, BLOCK_BYTES);
    if (slots == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for delete records");
    volume_name(name, volume->id, ".del");
    pthread_mutex_lock(&volume->delete_lock);
    volume->delete_in_doubt = false;
    if (volume->delete_failed) {
        status = failure(error, ENGINE_FAILED, 0, "%s failed before and takes no records", name);
        goto cleanup;
    }
    file = io_open(volume->io, volume->directory, name, O_RDWR | O_CREAT);
    if (file < 0) {
        status = failure_os(error, errno, "cannot open %s", name);
        goto cleanup;
    }
    size_t carried = carry(volume, file, slots);
    for (size_t i = 0; i < count; i++) {
        records[i].delete_seq = volume->delete_next_seq + i;
        encode(slots + (carried + i) * RECORD_BYTES, volume, &records[i]);
    }
    bool has_spare = volume->delete_spare != DELETE_NO_BLOCK;
    uint64_t blocks = blocks_for(carried + count);
    uint64_t end = volume->delete_end + blocks - (has_spare ? 1 : 0);
    /* Space first, bytes second: a full disk is noticed before anything is half written. */
    status = allocate(volume, file, end * BLOCK_BYTES, error);
    if (status == ENGINE_OK)
        status = write_blocks(volume, file, slots, blocks, error);
    if (status != ENGINE_OK)
        goto cleanup;
    uint64_t last = has_spare && blocks == 1 ? volume->delete_spare : end - 1;
    volume->delete_spare = carried > 0 ? volume->delete_open : DELETE_NO_BLOCK;
    volume->delete_open_records = (carried + count) % BLOCK_RECORDS;
    volume->delete_open = volume->delete_open_records == 0 ? DELETE_NO_BLOCK : last;
    volume->delete_end = end;
    volume->delete_next_seq += count;
    update_room(volume);
cleanup:
    io_close(volume->io, file);
    pthread_mutex_unlock(&volume->delete_lock);
    free(slots);
    return status;
}
