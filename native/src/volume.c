/*
 * Superblock, 4 KiB, written once, two copies at 0 and 4096:
 *      0 u64 magic "SPDYVOL1"    8 u32 format     12 u32 incompatible features   16 u32 compatible features
 *     20 u32 volume id          24 u64 group (0: not bound)                      32 u8[16] volume uuid
 *     48 u8[16] disk id         64 u8[16] cluster id                             80 u64 size of the volume
 *     88 u64 where needles begin (8192)          96 u64 created, µs             104 zeros
 *   4092 u32 CRC of bytes 0..4091
 * An unknown incompatible feature makes the volume unreadable to this program; it is quarantined and left alone.
 */
#include "volume.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "delete_log.h"
#include "failure.h"

#define SUPERBLOCK_MAGIC 0x314c4f5659445053u
#define CRC_AT (BLOCK_BYTES - 4)

void volume_name(char name[VOLUME_NAME_BYTES], uint32_t id, const char *suffix)
{
    (void)snprintf(name, VOLUME_NAME_BYTES, "v%08" PRIu32 "%s", id, suffix);
}

uint32_t volume_id_of(const char *name, const char *suffix)
{
    char expected[VOLUME_NAME_BYTES];
    if (name[0] != 'v')
        return 0;
    char *end = NULL;
    errno = 0;
    unsigned long id = strtoul(name + 1, &end, 10);
    if (errno != 0 || id == 0 || id > VOLUME_ID_MAX)
        return 0;
    volume_name(expected, (uint32_t)id, suffix);
    return strcmp(name, expected) == 0 ? (uint32_t)id : 0;
}

struct volume *volume_new(const struct engine_io *io, int directory, uint32_t id)
{
    struct volume *volume = calloc(1, sizeof *volume);
    if (volume == NULL)
        return NULL;
    volume->io = io;
    volume->directory = directory;
    volume->file = -1;
    volume->id = id;
    volume->tail = VOLUME_DATA_START;
    volume->checkpoint_tail = VOLUME_DATA_START;
    volume->checkpoint_ns = clock_monotonic_ns();
    volume->next_seq = 1;
    volume->delete_next_seq = 1;
    volume->delete_open = DELETE_NO_BLOCK;
    volume->delete_spare = DELETE_NO_BLOCK;
    (void)pthread_mutex_init(&volume->space_lock, NULL);
    (void)pthread_mutex_init(&volume->sync_lock, NULL);
    (void)pthread_mutex_init(&volume->lock, NULL);
    (void)pthread_mutex_init(&volume->delete_lock, NULL);
    return volume;
}

void volume_free(struct volume *volume)
{
    if (volume == NULL)
        return;
    io_close(volume->io, volume->file);
    free(volume->waiting.items);
    free(volume->leaving.items);
    (void)pthread_mutex_destroy(&volume->space_lock);
    (void)pthread_mutex_destroy(&volume->sync_lock);
    (void)pthread_mutex_destroy(&volume->lock);
    (void)pthread_mutex_destroy(&volume->delete_lock);
    free(volume);
}

static void encode_superblock(const struct volume *volume, const struct identity *owner, uint8_t *block)
{
    memset(block, 0, BLOCK_BYTES);
    store_u64(block, SUPERBLOCK_MAGIC);
    store_u32(block + 8, ENGINE_FORMAT);
    store_u32(block + 20, volume->id);
    memcpy(block + 32, volume->uuid, 16);
    memcpy(block + 48, owner->disk_id, 16);
    memcpy(block + 64, owner->cluster_id, 16);
    store_u64(block + 80, volume->size);
    store_u64(block + 88, VOLUME_DATA_START);
    store_u64(block + 96, clock_unix_us());
    store_u32(block + CRC_AT, engine_crc32c(0, block, CRC_AT));
}

/* An append cannot meet a full disk: space is taken before anything is written. In steps, so that a volume takes little
 * more than it holds. Where preallocation does not exist the file is sparse, and allocated only counts. */
int volume_allocate(struct volume *volume, uint64_t end)
{
    const struct engine_io *io = volume->io;
    int result = 0;
    pthread_mutex_lock(&volume->space_lock);
    pthread_mutex_lock(&volume->lock);
    uint64_t start = volume->allocated;
    bool writable = volume_is_writable(volume);
    pthread_mutex_unlock(&volume->lock);
    if (end <= start)
        goto cleanup;
    if (!writable) {
        /* Whoever prepares space asked a moment too late: what a closed volume gave back must not be taken again. */
        errno = EROFS;
        result = -1;
        goto cleanup;
    }
    if (io_allocate(io, volume->file, start, end - start) != 0) {
        result = -1;
        goto cleanup;
    }
    pthread_mutex_lock(&volume->lock);
    volume->allocated = end;
    pthread_mutex_unlock(&volume->lock);
cleanup:
    pthread_mutex_unlock(&volume->space_lock);
    return result;
}

void volume_give_back(struct volume *volume)
{
    const struct engine_io *io = volume->io;
    pthread_mutex_lock(&volume->space_lock);
    pthread_mutex_lock(&volume->lock);
    uint64_t start = round_up(volume->tail, BLOCK_BYTES);
    bool sound = volume->state != VOLUME_FAILED && volume->state != VOLUME_QUARANTINED;
    pthread_mutex_unlock(&volume->lock);
    /* Up to the end of the volume: after a restart allocated is an estimate. */
    if (sound && start < volume->size &&
        io->fallocate(io->context, volume->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start,
                      volume->size - start) == 0) {
        pthread_mutex_lock(&volume->lock);
        if (volume->allocated > start)
            volume->allocated = start;
        pthread_mutex_unlock(&volume->lock);
    }
    pthread_mutex_unlock(&volume->space_lock);
}

int volume_prepare(struct volume *volume, const struct identity *owner, uint64_t size, uint64_t allocated,
                   uint64_t chunks, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    uint8_t blocks[2 * BLOCK_BYTES];
    volume_name(name, volume->id, ".dat.tmp");
    int status = identity_random(volume->uuid, sizeof volume->uuid, error);
    if (status != ENGINE_OK)
        return status;
    volume->size = size;
    encode_superblock(volume, owner, blocks);
    memcpy(blocks + BLOCK_BYTES, blocks, BLOCK_BYTES);
    volume->file = io_open(io, volume->directory, name, O_RDWR | O_CREAT | O_EXCL);
    if (volume->file < 0)
        return failure_os(error, errno, "cannot create %s", name);
    /* The size is final at once: an append changes no metadata that its sync would have to write as well. */
    if (io->ftruncate(io->context, volume->file, size) == 0 &&
        volume_allocate(volume, allocated < size ? allocated : size) == 0 &&
        io_write(io, volume->file, blocks, sizeof blocks, 0) == 0 && io->fsync(io->context, volume->file) == 0)
        status = delete_log_reserve(volume, chunks, error);
    else
        status = failure_os(error, errno, "cannot create %s", name);
    if (status != ENGINE_OK) {
        (void)volume_withdraw(volume);
        (void)volume_remove(io, volume->directory, volume->id);
    }
    return status;
}

int volume_publish(struct volume *volume, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    char temporary[VOLUME_NAME_BYTES];
    volume_name(name, volume->id, ".dat");
    volume_name(temporary, volume->id, ".dat.tmp");
    if (io->rename(io->context, volume->directory, temporary, name) != 0 ||
        io->fsync(io->context, volume->directory) != 0)
        return failure_os(error, errno, "cannot name %s", name);
    return ENGINE_OK;
}

int volume_withdraw(struct volume *volume)
{
    const struct engine_io *io = volume->io;
    char temporary[VOLUME_NAME_BYTES];
    volume_name(temporary, volume->id, ".dat.tmp");
    io_close(io, volume->file);
    volume->file = -1;
    return io->unlink(io->context, volume->directory, temporary) == 0 &&
                   io->fsync(io->context, volume->directory) == 0
               ? 0
               : -1;
}

int volume_remove(const struct engine_io *io, int directory, uint32_t id)
{
    static const char *const suffixes[] = {".dat", ".ckp", ".ckp.old", ".del"};
    int result = 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        char name[VOLUME_NAME_BYTES];
        volume_name(name, id, suffixes[i]);
        if (io->unlink(io->context, directory, name) != 0 && errno != ENOENT)
            result = -1;
    }
    return result;
}

int volume_create(struct volume *volume, const struct identity *owner, uint64_t size, uint64_t allocated,
                  uint64_t chunks, engine_error *error)
{
    int status = volume_prepare(volume, owner, size, allocated, chunks, error);
    if (status != ENGINE_OK)
        return status;
    status = volume_publish(volume, error);
    if (status != ENGINE_OK) {
        (void)volume_remove(volume->io, volume->directory, volume->id);
        (void)volume_withdraw(volume);
    }
    return status;
}

static bool is_superblock(const uint8_t *block)
{
    return load_u64(block) == SUPERBLOCK_MAGIC && load_u32(block + CRC_AT) == engine_crc32c(0, block, CRC_AT);
}

bool volume_superblock_is_valid(const struct volume *volume, const uint8_t *block)
{
    return is_superblock(block) && load_u32(block + 20) == volume->id && memcmp(block + 32, volume->uuid, 16) == 0;
}

static int read_superblock(struct volume *volume, const struct identity *owner, const char *name, engine_error *error)
{
    uint8_t block[BLOCK_BYTES];
    bool valid = false;
    for (uint64_t copy = 0; copy < 2 && !valid; copy++) {
        valid = io_read(volume->io, volume->file, block, sizeof block, copy * BLOCK_BYTES) == 0 &&
                is_superblock(block);
    }
    if (!valid)
        return failure(error, ENGINE_CORRUPT, 0, "%s: both superblocks are damaged", name);
    if (load_u32(block + 8) > ENGINE_FORMAT || load_u32(block + 12) != 0)
        return failure(error, ENGINE_MISMATCH, 0, "%s: newer format or unknown features", name);
    if (load_u32(block + 20) != volume->id || memcmp(block + 48, owner->disk_id, 16) != 0 ||
        memcmp(block + 64, owner->cluster_id, 16) != 0)
        return failure(error, ENGINE_CORRUPT, 0, "%s: belongs to another disk or has another id", name);
    memcpy(volume->uuid, block + 32, 16);
    volume->size = load_u64(block + 80);
    if (load_u64(block + 88) != VOLUME_DATA_START || volume->size < VOLUME_DATA_START ||
        volume->size > ((uint64_t)1 << 38))
        return failure(error, ENGINE_CORRUPT, 0, "%s: impossible sizes", name);
    return ENGINE_OK;
}

int volume_open_file(const struct volume *volume, int flags)
{
    char name[VOLUME_NAME_BYTES];
    volume_name(name, volume->id, ".dat");
    int file = io_open(volume->io, volume->directory, name, flags);
    if (file >= 0 || errno != ENOENT)
        return file;
    volume_name(name, volume->id, ".dat.tmp");
    return io_open(volume->io, volume->directory, name, flags);
}

int volume_open(struct volume *volume, const struct identity *owner, bool *short_file, engine_error *error)
{
    const struct engine_io *io = volume->io;
    char name[VOLUME_NAME_BYTES];
    uint64_t file_size = 0;
    volume_name(name, volume->id, ".dat");
    *short_file = false;
    volume->file = volume_open_file(volume, O_RDWR);
    if (volume->file < 0 && is_shortage(errno))
        return failure_os(error, errno, "cannot open %s", name);
    if (volume->file < 0)
        return failure(error, ENGINE_CORRUPT, errno, "cannot open %s", name);
    int status = read_superblock(volume, owner, name, error);
    if (status == ENGINE_OK && (io->size(io->context, volume->file, &file_size) != 0 ||
                                io->allocated(io->context, volume->file, &volume->allocated) != 0))
        status = failure(error, ENGINE_CORRUPT, errno, "cannot measure %s", name);
    if (status != ENGINE_OK) {
        io_close(io, volume->file);
        volume->file = -1;
        return status;
    }
    *short_file = file_size < volume->size;
    return ENGINE_OK;
}

int volume_readv(struct volume *volume, const struct iovec *parts, int count, uint64_t offset)
{
    const struct engine_io *io = volume->io;
    if (volume->state == VOLUME_FAILED) {
        /* After a failed fsync the page cache may show bytes that the disk never got. */
        uint64_t length = 0;
        for (int i = 0; i < count; i++)
            length += parts[i].iov_len;
        uint64_t start = round_down(offset, BLOCK_BYTES);
        (void)io->drop_cache(io->context, volume->file, start, round_up(offset + length, BLOCK_BYTES) - start);
    }
    return io_readv(io, volume->file, parts, count, offset);
}

void volume_pin(struct volume *volume, unsigned *epoch)
{
    pthread_mutex_lock(&volume->lock);
    *epoch = volume->epoch;
    volume->readers[volume->epoch]++;
    pthread_mutex_unlock(&volume->lock);
}

bool volume_unpin(struct volume *volume, unsigned epoch)
{
    pthread_mutex_lock(&volume->lock);
    volume->readers[epoch]--;
    bool last = volume->readers[epoch] == 0 && epoch != volume->epoch && volume->leaving.count > 0;
    pthread_mutex_unlock(&volume->lock);
    return last;
}

static bool punch_list_add(struct punch_list *list, const struct punch *punch)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        struct punch *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL)
            return false;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *punch;
    return true;
}

void volume_bury(struct volume *volume, const struct punch *punch)
{
    pthread_mutex_lock(&volume->lock);
    volume->changed = true;
    /* Failed and quarantined volumes are not touched. Out of memory only delays the return of the space: the next open punches what the checkpoint does not cover. */
    if (punch->delete_seq != 0 && volume->state != VOLUME_FAILED && volume->state != VOLUME_QUARANTINED)
        (void)punch_list_add(&volume->waiting, punch);
    pthread_mutex_unlock(&volume->lock);
}

static uint64_t punch_one(struct volume *volume, const struct punch *punch)
{
    const struct engine_io *io = volume->io;
    uint64_t payload = punch->offset + punch->header_length;
    uint64_t start = round_up(payload, BLOCK_BYTES);
    uint64_t end = round_down(payload + punch->payload_length, BLOCK_BYTES);
    if (start >= end)
        return 0;
    if (io->fallocate(io->context, volume->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start) != 0)
        return 0; /* not every file system can; the bytes stay dead until the volume is compacted */
    return end - start;
}

bool volume_punch(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    if (volume->leaving.count == 0 && volume->waiting.count > 0 && volume->readers[!volume->epoch] == 0) {
        struct punch_list empty = volume->leaving;
        volume->leaving = volume->waiting;
        volume->waiting = empty;
        volume->waiting.count = 0;
        volume->epoch = !volume->epoch;
    }
    struct punch_list ready = {NULL, 0, 0};
    if (volume->leaving.count > 0 && volume->readers[!volume->epoch] == 0 && volume->file >= 0) {
        ready = volume->leaving;
        memset(&volume->leaving, 0, sizeof volume->leaving);
    }
    pthread_mutex_unlock(&volume->lock);

    uint64_t returned = 0;
    uint64_t seq = 0;
    for (size_t i = 0; i < ready.count; i++) {
        returned += punch_one(volume, &ready.items[i]);
        if (ready.items[i].delete_seq > seq)
            seq = ready.items[i].delete_seq;
    }
    free(ready.items);

    pthread_mutex_lock(&volume->lock);
    volume->punched_bytes += returned;
    if (seq > volume->punched_seq)
        volume->punched_seq = seq;
    bool waits = volume->waiting.count > 0 || volume->leaving.count > 0;
    pthread_mutex_unlock(&volume->lock);
    return waits;
}

bool volume_release(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    bool unread = volume->readers[0] + volume->readers[1] == 0;
    int file = volume->file;
    if (unread)
        volume->file = -1;
    pthread_mutex_unlock(&volume->lock);
    if (unread)
        io_close(volume->io, file);
    return unread;
}

bool volume_is_writable(const struct volume *volume)
{
    return volume->state == VOLUME_ACTIVE || volume->state == VOLUME_STANDBY;
}

bool volume_is_there(struct volume *volume)
{
    pthread_mutex_lock(&volume->lock);
    bool there = volume->state != VOLUME_GONE;
    pthread_mutex_unlock(&volume->lock);
    return there;
}
