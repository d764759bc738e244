/*
 * MANIFEST: records of 256 bytes, each append on a 4 KiB boundary of its own. REPLACE, COMPACT and WITHDRAW stand there
 * twice, at 0 and at 2048: a damaged bit must not bring replaced volumes back. A rewrite puts records behind each other.
 *      0 u32 magic "MANF"     4 u16 version (1)   6 u16 event (manifest_event)   8 u64 seq, ascending from 1
 *     16 u8[16] volume uuid  32 u32 volume id    36 u32 zero                   40 u64 volume size
 *     48 u64 tail            56 u64 fid max      64 u64 Unix time, µs
 *     72 u32 count and 76 u32[] ids of the volumes that a COMPACT record replaces, at most 44; else zeros
 *    252 u32 CRC of bytes 0..251
 * Reader: every 256 bytes; all-zero slots are alignment or set aside; invalid ones are counted and skipped (what they said
 * about a volume is found again in its superblock or by scanning it). Appends go behind the last slot that is not zero,
 * rounded up, so a torn record is never overwritten and never mistaken for the end. A few blocks behind them are set
 * aside: on a full disk empty volumes can still be given up. When the records take more than 1 MiB and are mostly
 * alignment or history, the file is rewritten packed at open.
 *
 * A COMPACT record is the moment at which a compaction counts. Its volume is called v<id>.dat.tmp until then and gets its
 * name afterwards, then the replaced files are removed. So a reader takes a COMPACT record as never written when its volume has
 * no file under either name and was not replaced itself, or a WITHDRAW record says so (whoever wrote it did not learn if it
 * got to the disk, and withdrew it by removing the file); the volumes it lists then hold their chunks as before.
 * Otherwise these are not read, whether their files are still there or not. The last COMPACT that lists a volume counts.
 */
#include "manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "clock.h"
#include "failure.h"

#define RECORD_BYTES 256u
#define RECORD_MAGIC 0x464e414du
#define RECORD_VERSION 1
#define COUNT_AT 72
#define IDS_AT 76
#define CRC_AT 252
#define COPY_AT 2048 /* in another sector */
#define PACK_ABOVE_BYTES ((uint64_t)1 << 20)
#define PACKED_EVENTS 6 /* that a rewrite keeps of a volume */
#define FILE_BYTES_MAX ((uint64_t)1 << 30)
#define AHEAD_BYTES (8u * BLOCK_BYTES) /* set aside for the next records */

static void encode(uint8_t *record, enum manifest_event event, const struct manifest_volume *volume, uint64_t seq)
{
    memset(record, 0, RECORD_BYTES);
    store_u32(record, RECORD_MAGIC);
    store_u16(record + 4, RECORD_VERSION);
    store_u16(record + 6, (uint16_t)event);
    store_u64(record + 8, seq);
    memcpy(record + 16, volume->uuid, 16);
    store_u32(record + 32, volume->id);
    store_u64(record + 40, volume->size);
    store_u64(record + 48, volume->tail);
    store_u64(record + 56, volume->fid_max);
    store_u64(record + 64, clock_unix_us());
    store_u32(record + CRC_AT, engine_crc32c(0, record, CRC_AT));
}

static void encode_replaced(uint8_t *record, const uint32_t *replaced, size_t count)
{
    store_u32(record + COUNT_AT, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        store_u32(record + IDS_AT + 4 * i, replaced[i]);
    store_u32(record + CRC_AT, engine_crc32c(0, record, CRC_AT));
}

static bool record_is_valid(const uint8_t *record)
{
    return load_u32(record) == RECORD_MAGIC && load_u16(record + 4) == RECORD_VERSION &&
           load_u32(record + CRC_AT) == engine_crc32c(0, record, CRC_AT);
}

static size_t position_of(const struct manifest *manifest, uint32_t id)
{
    size_t low = 0;
    size_t high = manifest->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (manifest->volumes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct manifest_volume *manifest_find(const struct manifest *manifest, uint32_t id)
{
    size_t at = position_of(manifest, id);
    return at < manifest->count && manifest->volumes[at].id == id ? &manifest->volumes[at] : NULL;
}

/* The table's row of this volume, made when missing; NULL when out of memory. */
static struct manifest_volume *row_of(struct manifest *manifest, const struct manifest_volume *volume)
{
    size_t at = position_of(manifest, volume->id);
    if (at < manifest->count && manifest->volumes[at].id == volume->id)
        return &manifest->volumes[at];
    if (manifest->count == manifest->capacity) {
        size_t capacity = manifest->capacity == 0 ? 16 : 2 * manifest->capacity;
        struct manifest_volume *volumes = realloc(manifest->volumes, capacity * sizeof *volumes);
        if (volumes == NULL)
            return NULL;
        manifest->volumes = volumes;
        manifest->capacity = capacity;
    }
    memmove(&manifest->volumes[at + 1], &manifest->volumes[at],
            (manifest->count - at) * sizeof manifest->volumes[0]);
    manifest->count++;
    memset(&manifest->volumes[at], 0, sizeof manifest->volumes[at]);
    manifest->volumes[at].id = volume->id;
    memcpy(manifest->volumes[at].uuid, volume->uuid, 16);
    manifest->volumes[at].size = volume->size;
    return &manifest->volumes[at];
}

static bool apply(struct manifest *manifest, uint16_t event, const struct manifest_volume *volume)
{
    struct manifest_volume *row = row_of(manifest, volume);
    if (row == NULL)
        return false;
    if (volume->fid_max > row->fid_max)
        row->fid_max = volume->fid_max;
    if (event == MANIFEST_SEAL || event == MANIFEST_COMPACT) {
        row->sealed = true;
        row->tail = volume->tail;
    } else if (event == MANIFEST_FAIL) {
        row->failed = true;
        row->tail = volume->tail;
    } else if (event == MANIFEST_QUARANTINE) {
        row->quarantined = true;
    } else if (event == MANIFEST_REPLACE) {
        row->replaced = true;
    } else if (event == MANIFEST_WITHDRAW) {
        row->withdrawn = true;
    }
    return true;
}

static bool apply_replaced(struct manifest *manifest, uint32_t by, const uint32_t *replaced, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct manifest_volume named = {.id = replaced[i]};
        struct manifest_volume *row = row_of(manifest, &named);
        if (row == NULL)
            return false;
        row->replaced_by = by;
    }
    return true;
}

/* The ids that a valid COMPACT record lists; how many. */
static size_t replaced_of(const uint8_t *record, uint32_t replaced[MANIFEST_REPLACED_MAX])
{
    size_t count = load_u32(record + COUNT_AT);
    if (count > MANIFEST_REPLACED_MAX)
        count = MANIFEST_REPLACED_MAX;
    for (size_t i = 0; i < count; i++)
        replaced[i] = load_u32(record + IDS_AT + 4 * i);
    return count;
}

static int read_records(struct manifest *manifest, const uint8_t *content, uint64_t size, engine_error *error)
{
    for (uint64_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        const uint8_t *record = content + at;
        if (all_zero(record, RECORD_BYTES))
            continue;
        manifest->tail = round_up(at + RECORD_BYTES, BLOCK_BYTES);
        if (!record_is_valid(record)) {
            manifest->damaged_records++;
            continue;
        }
        struct manifest_volume volume = {.id = load_u32(record + 32), .size = load_u64(record + 40)};
        memcpy(volume.uuid, record + 16, 16);
        volume.tail = load_u64(record + 48);
        volume.fid_max = load_u64(record + 56);
        uint16_t event = load_u16(record + 6);
        uint32_t replaced[MANIFEST_REPLACED_MAX];
        size_t count = event == MANIFEST_COMPACT ? replaced_of(record, replaced) : 0;
        if (!apply(manifest, event, &volume) || !apply_replaced(manifest, volume.id, replaced, count))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
        if (load_u64(record + 8) >= manifest->next_seq)
            manifest->next_seq = load_u64(record + 8) + 1;
    }
    return ENGINE_OK;
}

void manifest_settle(struct manifest *manifest, bool (*has_file)(void *argument, uint32_t id), void *argument)
{
    /* Downwards: what replaces a volume has a higher id and is decided before. */
    for (size_t i = manifest->count; i-- > 0;) {
        struct manifest_volume *row = &manifest->volumes[i];
        if (row->replaced_by == 0)
            continue;
        const struct manifest_volume *by = manifest_find(manifest, row->replaced_by);
        if (by != NULL && by->id > row->id && !by->withdrawn && (by->replaced || has_file(argument, by->id)))
            row->replaced = true;
    }
    for (size_t i = 0; i < manifest->count; i++) {
        struct manifest_volume *made = &manifest->volumes[i];
        bool withdrawn = false;
        if (made->replaced || made->withdrawn || has_file(argument, made->id))
            continue;
        /* Files are removed only when the record is known to hold: as long as all are there, this one was withdrawn and
         * is not missing. */
        for (size_t other = 0; other < i; other++) {
            const struct manifest_volume *row = &manifest->volumes[other];
            if (row->replaced_by != made->id)
                continue;
            withdrawn = has_file(argument, row->id);
            if (!withdrawn)
                break;
        }
        if (withdrawn) {
            engine_error ignored;
            struct manifest_volume gone = *made;
            made->withdrawn = true;
            /* On record, for when those that it lists are replaced by another. The next open tries again. */
            (void)manifest_append(manifest, MANIFEST_WITHDRAW, &gone, &ignored);
        }
    }
}

uint64_t manifest_replaced_fid_max(const struct manifest *manifest)
{
    uint64_t fid_max = 0;
    for (size_t i = 0; i < manifest->count; i++)
        if (manifest->volumes[i].replaced && manifest->volumes[i].fid_max > fid_max)
            fid_max = manifest->volumes[i].fid_max;
    return fid_max;
}

int manifest_pack(struct manifest *manifest, engine_error *error)
{
    uint64_t size = manifest->tail;
    uint64_t needed = PACKED_EVENTS * manifest->count * RECORD_BYTES;
    if (size <= PACK_ABOVE_BYTES || size / 4 <= needed)
        return ENGINE_OK;
    uint8_t *content = malloc(needed);
    if (content == NULL)
        return ENGINE_OK; /* packing can wait */
    uint64_t fid_max = manifest_replaced_fid_max(manifest);
    size_t used = 0;
    uint64_t seq = manifest->next_seq;
    for (size_t i = 0; i < manifest->count; i++) {
        struct manifest_volume *volume = &manifest->volumes[i];
        const struct {
            enum manifest_event event;
            bool happened;
        } events[PACKED_EVENTS] = {
            {MANIFEST_CREATE, true},
            {MANIFEST_SEAL, volume->sealed},
            {MANIFEST_FAIL, volume->failed},
            {MANIFEST_QUARANTINE, volume->quarantined},
            {MANIFEST_REPLACE, volume->replaced},
            {MANIFEST_WITHDRAW, volume->withdrawn},
        };
        /* The highest id stays although replaced: ids are not reused. And fids are not, so it keeps theirs. */
        if ((volume->replaced || volume->withdrawn) && i + 1 < manifest->count)
            continue;
        if (i + 1 == manifest->count && fid_max > volume->fid_max)
            volume->fid_max = fid_max;
        for (size_t at = 0; at < PACKED_EVENTS; at++) {
            if (events[at].happened) {
                encode(content + used, events[at].event, volume, seq++);
                used += RECORD_BYTES;
            }
        }
    }
    int failed = io_replace(manifest->io, manifest->directory, "MANIFEST", NULL, content, used);
    int reason = errno;
    free(content);
    if (failed != 0 && reason == EROFS)
        return ENGINE_OK; /* nothing may be written: it is whole, only long */
    if (failed != 0 && reason != ENOSPC && reason != EDQUOT)
        return failure_os(error, reason, "cannot rewrite MANIFEST");
    manifest->named = failed == 0;
    manifest->next_seq = seq;
    io_close(manifest->io, manifest->file);
    manifest->file = io_open(manifest->io, manifest->directory, "MANIFEST", O_RDWR);
    if (manifest->file < 0 || manifest->io->size(manifest->io->context, manifest->file, &size) != 0)
        return failure_os(error, errno, "cannot open MANIFEST");
    /* A full disk does not keep a store from being opened: what bears the name is whole, at worst still the long one. */
    if (failed == 0 || size == used) {
        manifest->tail = round_up(used, BLOCK_BYTES);
        manifest->allocated = manifest->tail;
    }
    return ENGINE_OK;
}

int manifest_open(struct manifest *manifest, const struct engine_io *io, int directory, engine_error *error)
{
    memset(manifest, 0, sizeof *manifest);
    manifest->io = io;
    manifest->directory = directory;
    manifest->file = -1;
    manifest->next_seq = 1;
    (void)pthread_mutex_init(&manifest->lock, NULL);
    uint64_t size = 0;
    uint64_t taken = 0;
    manifest->file = io_open(io, directory, "MANIFEST", O_RDWR | O_CREAT);
    if (manifest->file < 0 && errno == ENOENT)
        return ENGINE_OK; /* none, and none may be made: the volumes tell enough for reading */
    if (manifest->file < 0 || io->size(io->context, manifest->file, &size) != 0 ||
        io->allocated(io->context, manifest->file, &taken) != 0)
        return failure_os(error, errno, "cannot open MANIFEST");
    if (size > FILE_BYTES_MAX)
        return failure(error, ENGINE_FAILED, 0, "MANIFEST has an absurd size");
    /* The process before us may have seen an fsync fail: what is read must be what the disk has. */
    if (io->fsync(io->context, manifest->file) != 0)
        return failure_os(error, errno, "cannot sync MANIFEST");
    (void)io->drop_cache(io->context, manifest->file, 0, size);
    manifest->allocated = round_down(size < taken ? size : taken, BLOCK_BYTES);
    manifest->named = size > 0;
    if (size == 0)
        return ENGINE_OK;
    uint8_t *content = malloc(size);
    if (content == NULL)
        return failure(error, ENGINE_NO_MEMORY, 0, "no memory for MANIFEST");
    int status;
    if (io_read(io, manifest->file, content, size, 0) != 0)
        status = failure(error, ENGINE_FAILED, errno, "cannot read MANIFEST");
    else
        status = read_records(manifest, content, size, error);
    free(content);
    return status;
}

void manifest_close(struct manifest *manifest)
{
    if (manifest->io == NULL)
        return;
    io_close(manifest->io, manifest->file);
    free(manifest->volumes);
    (void)pthread_mutex_destroy(&manifest->lock);
    memset(manifest, 0, sizeof *manifest);
    manifest->file = -1;
}

/* manifest.lock is held. Space for one record and a few more, or only for the one; 0, or -1 and errno. */
static int set_aside(struct manifest *manifest)
{
    uint64_t wanted = manifest->tail + BLOCK_BYTES + AHEAD_BYTES;
    uint64_t needed = manifest->tail + BLOCK_BYTES;
    if (wanted <= manifest->allocated)
        return 0;
    if (io_allocate(manifest->io, manifest->file, 0, wanted) == 0) {
        manifest->allocated = wanted;
        return 0;
    }
    if (needed <= manifest->allocated)
        return 0;
    if (io_allocate(manifest->io, manifest->file, 0, needed) != 0)
        return -1;
    manifest->allocated = needed;
    return 0;
}

void manifest_provide(struct manifest *manifest)
{
    pthread_mutex_lock(&manifest->lock);
    if (!manifest->failed && manifest->file >= 0)
        (void)set_aside(manifest);
    pthread_mutex_unlock(&manifest->lock);
}

/* manifest.lock is held. Makes one record durable and moves on. *reached: it may be on the disk. */
static int append_locked(struct manifest *manifest, const uint8_t *record, bool *reached, engine_error *error)
{
    const struct engine_io *io = manifest->io;
    uint8_t block[COPY_AT + RECORD_BYTES] = {0};
    size_t length = load_u16(record + 6) >= MANIFEST_REPLACE ? sizeof block : RECORD_BYTES;
    memcpy(block, record, RECORD_BYTES);
    memcpy(block + COPY_AT, record, RECORD_BYTES);
    if (set_aside(manifest) != 0)
        return failure_os(error, errno, "no space for a record of the MANIFEST");
    *reached = true;
    uint64_t start = manifest->tail;
    manifest->tail += BLOCK_BYTES;
    manifest->next_seq++;
    if (io_write(io, manifest->file, block, length, start) != 0) {
        /* Not synced, so the place may hold anything; the next record goes to the next block. */
        int status = failure_os(error, errno, "cannot write MANIFEST");
        manifest->failed = status != ENGINE_DISK_FULL;
        return status;
    }
    /* fsync, not fdatasync: cheap here, and the size must be durable. The first one also covers the name. */
    if (io->fsync(io->context, manifest->file) != 0 ||
        (!manifest->named && io->fsync(io->context, manifest->directory) != 0)) {
        manifest->failed = true;
        return failure(error, ENGINE_FAILED, errno, "cannot sync MANIFEST");
    }
    manifest->named = true;
    return ENGINE_OK;
}

int manifest_append(struct manifest *manifest, enum manifest_event event, const struct manifest_volume *volume,
                    engine_error *error)
{
    uint8_t record[RECORD_BYTES];
    bool reached = false;
    pthread_mutex_lock(&manifest->lock);
    int status;
    if (manifest->failed) {
        status = failure(error, ENGINE_FAILED, 0, "MANIFEST failed before and takes no records");
    } else {
        encode(record, event, volume, manifest->next_seq);
        status = append_locked(manifest, record, &reached, error);
    }
    if (status == ENGINE_OK && !apply(manifest, (uint16_t)event, volume))
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
    pthread_mutex_unlock(&manifest->lock);
    return status;
}

int manifest_append_compaction(struct manifest *manifest, const struct manifest_volume *made, const uint32_t *replaced,
                               size_t count, bool *in_doubt, engine_error *error)
{
    uint8_t record[RECORD_BYTES];
    int status;
    *in_doubt = false;
    pthread_mutex_lock(&manifest->lock);
    if (manifest->failed) {
        status = failure(error, ENGINE_FAILED, 0, "MANIFEST failed before and takes no records");
        goto cleanup;
    }
    /* Memory first: nothing may fail any more once the record is there. */
    if (row_of(manifest, made) == NULL) {
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
        goto cleanup;
    }
    encode(record, MANIFEST_COMPACT, made, manifest->next_seq);
    encode_replaced(record, replaced, count);
    status = append_locked(manifest, record, in_doubt, error);
    if (status == ENGINE_OK) {
        *in_doubt = false;
        (void)apply(manifest, MANIFEST_COMPACT, made);
        (void)apply_replaced(manifest, made->id, replaced, count);
    }
cleanup:
    pthread_mutex_unlock(&manifest->lock);
    return status;
}
