/*
 * MANIFEST: records of 256 bytes, each append on a 4 KiB boundary of its own.
 *      0 u32 magic "MANF"     4 u16 version (1)   6 u16 event (manifest_event)   8 u64 seq, dense from 1
 *     16 u8[16] volume uuid  32 u32 volume id    36 u32 zero                   40 u64 volume size
 *     48 u64 tail            56 u64 fid max      64 u64 Unix time, µs          72 zeros
 *    252 u32 CRC of bytes 0..251
 * Reader: every 256 bytes; all-zero slots are alignment; invalid ones are counted and skipped (what they said about a
 * volume is found again in its superblock or by scanning it). Appends go behind the end of the file, rounded up, so a
 * torn record is never overwritten and never mistaken for the end. When the file is larger than 1 MiB and mostly
 * alignment or history, it is rewritten packed at open.
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
#define CRC_AT 252
#define PACK_ABOVE_BYTES ((uint64_t)1 << 20)
#define FILE_BYTES_MAX ((uint64_t)1 << 30)

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
    if (event == MANIFEST_SEAL) {
        row->sealed = true;
        row->tail = volume->tail;
    } else if (event == MANIFEST_FAIL) {
        row->failed = true;
        row->tail = volume->tail;
    } else if (event == MANIFEST_QUARANTINE) {
        row->quarantined = true;
    } else if (event == MANIFEST_REPLACE) {
        row->replaced = true;
    }
    return true;
}

static int read_records(struct manifest *manifest, const uint8_t *content, uint64_t size, engine_error *error)
{
    for (uint64_t at = 0; at + RECORD_BYTES <= size; at += RECORD_BYTES) {
        const uint8_t *record = content + at;
        if (all_zero(record, RECORD_BYTES))
            continue;
        if (!record_is_valid(record)) {
            manifest->damaged_records++;
            continue;
        }
        struct manifest_volume volume = {.id = load_u32(record + 32), .size = load_u64(record + 40)};
        memcpy(volume.uuid, record + 16, 16);
        volume.tail = load_u64(record + 48);
        volume.fid_max = load_u64(record + 56);
        if (!apply(manifest, load_u16(record + 6), &volume))
            return failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
        if (load_u64(record + 8) >= manifest->next_seq)
            manifest->next_seq = load_u64(record + 8) + 1;
    }
    return ENGINE_OK;
}

/* History that nobody needs: alignment, and what happened to volumes that are gone. */
static int pack(struct manifest *manifest, uint64_t size, engine_error *error)
{
    uint64_t needed = 5 * manifest->count * RECORD_BYTES;
    if (size <= PACK_ABOVE_BYTES || size / 4 <= needed)
        return ENGINE_OK;
    uint8_t *content = malloc(needed);
    if (content == NULL)
        return ENGINE_OK; /* packing can wait */
    size_t used = 0;
    uint64_t seq = manifest->next_seq;
    for (size_t i = 0; i < manifest->count; i++) {
        const struct manifest_volume *volume = &manifest->volumes[i];
        const bool happened[] = {true, volume->sealed, volume->failed, volume->quarantined, volume->replaced};
        /* The highest id stays although replaced: ids are not reused. */
        if (volume->replaced && i + 1 < manifest->count)
            continue;
        for (int event = MANIFEST_CREATE; event <= MANIFEST_REPLACE; event++) {
            if (happened[event - MANIFEST_CREATE]) {
                encode(content + used, (enum manifest_event)event, volume, seq++);
                used += RECORD_BYTES;
            }
        }
    }
    int failed = io_replace(manifest->io, manifest->directory, "MANIFEST", NULL, content, used);
    int reason = errno;
    free(content);
    if (failed != 0)
        return failure_os(error, reason, "cannot rewrite MANIFEST");
    manifest->next_seq = seq;
    manifest->tail = round_up(used, BLOCK_BYTES);
    io_close(manifest->io, manifest->file);
    manifest->file = io_open(manifest->io, manifest->directory, "MANIFEST", O_RDWR);
    if (manifest->file < 0)
        return failure_os(error, errno, "cannot open MANIFEST");
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
    manifest->file = io_open(io, directory, "MANIFEST", O_RDWR | O_CREAT);
    if (manifest->file < 0 || io->size(io->context, manifest->file, &size) != 0)
        return failure_os(error, errno, "cannot open MANIFEST");
    if (size > FILE_BYTES_MAX)
        return failure(error, ENGINE_FAILED, 0, "MANIFEST has an absurd size");
    /* The process before us may have seen an fsync fail: what is read must be what the disk has. */
    if (io->fsync(io->context, manifest->file) != 0)
        return failure_os(error, errno, "cannot sync MANIFEST");
    (void)io->drop_cache(io->context, manifest->file, 0, size);
    manifest->tail = round_up(size, BLOCK_BYTES);
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
    return status == ENGINE_OK ? pack(manifest, size, error) : status;
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

int manifest_append(struct manifest *manifest, enum manifest_event event, const struct manifest_volume *volume,
                    engine_error *error)
{
    const struct engine_io *io = manifest->io;
    uint8_t record[RECORD_BYTES];
    int status = ENGINE_OK;
    pthread_mutex_lock(&manifest->lock);
    if (manifest->failed) {
        status = failure(error, ENGINE_FAILED, 0, "MANIFEST failed before and takes no records");
        goto cleanup;
    }
    encode(record, event, volume, manifest->next_seq);
    if (io_write(io, manifest->file, record, sizeof record, manifest->tail) != 0) {
        /* Not synced, so the place may hold anything; the next record goes to the next block. */
        status = failure_os(error, errno, "cannot write MANIFEST");
        manifest->failed = status != ENGINE_DISK_FULL;
        manifest->tail += BLOCK_BYTES;
        goto cleanup;
    }
    manifest->tail += BLOCK_BYTES;
    manifest->next_seq++;
    /* fsync, not fdatasync: cheap here, and the size must be durable. The first one also covers the name. */
    if (io->fsync(io->context, manifest->file) != 0 ||
        (manifest->tail == BLOCK_BYTES && io->fsync(io->context, manifest->directory) != 0)) {
        status = failure(error, ENGINE_FAILED, errno, "cannot sync MANIFEST");
        manifest->failed = true;
        goto cleanup;
    }
    if (!apply(manifest, (uint16_t)event, volume))
        status = failure(error, ENGINE_NO_MEMORY, 0, "no memory for the volume table");
cleanup:
    pthread_mutex_unlock(&manifest->lock);
    return status;
}
