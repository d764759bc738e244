/*
 * DISK, 8192 bytes: the same 4 KiB record twice (at 0 and 4096), so that one bad sector does not lose a disk.
 *      0 u64 magic "SPDYDISK"    8 u32 format (ENGINE_FORMAT)    12 u32 zero
 *     16 u8[16] cluster id      32 u8[16] disk id                48 u64 created, microseconds of Unix time
 *     56 zeros                4092 u32 CRC of bytes 0..4091
 */
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "bytes.h"
#include "clock.h"
#include "failure.h"

#define DISK_MAGIC 0x4b53494459445053u
#define CRC_AT (BLOCK_BYTES - 4)
#define LOCK_POLL_NS 20000000

int identity_random(uint8_t *bytes, size_t length, engine_error *error)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = getrandom(bytes + done, length - done, 0);
        if (got < 0 && errno != EINTR)
            return failure(error, ENGINE_FAILED, errno, "no random bytes for an id");
        if (got > 0)
            done += (size_t)got;
    }
    return ENGINE_OK;
}

int identity_lock(const struct engine_io *io, int directory, double timeout_s, int *file, engine_error *error)
{
    uint64_t deadline = clock_deadline(timeout_s);
    *file = io_open(io, directory, "LOCK", O_RDWR | O_CREAT);
    if (*file < 0)
        return failure_os(error, errno, "cannot open LOCK");
    while (io->lock(io->context, *file) != 0) {
        int reason = errno;
        if (reason != EWOULDBLOCK && reason != EINTR) {
            io_close(io, *file);
            *file = -1;
            return failure(error, ENGINE_FAILED, reason, "cannot lock LOCK");
        }
        if (clock_monotonic_ns() >= deadline) {
            io_close(io, *file);
            *file = -1;
            return failure(error, ENGINE_LOCKED, 0, "another process has this directory open");
        }
        struct timespec pause = {.tv_sec = 0, .tv_nsec = LOCK_POLL_NS};
        (void)nanosleep(&pause, NULL);
    }
    return ENGINE_OK;
}

static bool record_is_valid(const uint8_t *record)
{
    return load_u64(record) == DISK_MAGIC && load_u32(record + CRC_AT) == engine_crc32c(0, record, CRC_AT);
}

int identity_read(const struct engine_io *io, int directory, const uint8_t cluster_id[16], struct identity *identity,
                  engine_error *error)
{
    uint8_t record[BLOCK_BYTES];
    int file = io_open(io, directory, "DISK", O_RDONLY);
    if (file < 0 && errno == ENOENT)
        return ENGINE_NOT_FOUND;
    if (file < 0)
        return failure(error, ENGINE_FAILED, errno, "cannot open DISK");
    bool valid = false;
    for (uint64_t copy = 0; copy < 2 && !valid; copy++)
        valid = io_read(io, file, record, sizeof record, copy * BLOCK_BYTES) == 0 && record_is_valid(record);
    io_close(io, file);
    if (!valid)
        return failure(error, ENGINE_MISMATCH, 0, "both copies of DISK are damaged");
    uint32_t format = load_u32(record + 8);
    if (format > ENGINE_FORMAT)
        return failure(error, ENGINE_MISMATCH, 0, "format %u is newer than this program's (%u)", (unsigned)format,
                       (unsigned)ENGINE_FORMAT);
    memcpy(identity->cluster_id, record + 16, 16);
    memcpy(identity->disk_id, record + 32, 16);
    if (memcmp(identity->cluster_id, cluster_id, 16) != 0)
        return failure(error, ENGINE_MISMATCH, 0, "the directory belongs to another cluster");
    return ENGINE_OK;
}

int identity_create(const struct engine_io *io, int directory, const struct identity *identity, engine_error *error)
{
    uint8_t content[2 * BLOCK_BYTES] = {0};
    store_u64(content, DISK_MAGIC);
    store_u32(content + 8, ENGINE_FORMAT);
    memcpy(content + 16, identity->cluster_id, 16);
    memcpy(content + 32, identity->disk_id, 16);
    store_u64(content + 48, clock_unix_us());
    store_u32(content + CRC_AT, engine_crc32c(0, content, CRC_AT));
    memcpy(content + BLOCK_BYTES, content, BLOCK_BYTES);
    if (io_replace(io, directory, "DISK", NULL, content, sizeof content) != 0)
        return failure_os(error, errno, "cannot write DISK");
    return ENGINE_OK;
}
