#include "io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define INTERRUPTS_MAX 1000 /* a call that is interrupted this often in a row is reported as failed */

static int system_open_directory(void *context, const char *path)
{
    (void)context;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int system_open(void *context, int directory, const char *name, int flags)
{
    (void)context;
    return openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static int system_close(void *context, int file)
{
    (void)context;
    return close(file);
}

static ssize_t system_preadv(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    (void)context;
    if (count == 1) /* a shorter way through the kernel, which small reads notice */
        return pread(file, parts[0].iov_base, parts[0].iov_len, (off_t)offset);
    return preadv(file, parts, count, (off_t)offset);
}

static ssize_t system_pwritev(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    (void)context;
    return pwritev(file, parts, count, (off_t)offset);
}

static int system_fdatasync(void *context, int file)
{
    (void)context;
    return fdatasync(file);
}

static int system_fsync(void *context, int file)
{
    (void)context;
    return fsync(file);
}

static int system_fallocate(void *context, int file, int mode, uint64_t offset, uint64_t length)
{
    (void)context;
    return fallocate(file, mode, (off_t)offset, (off_t)length);
}

static int system_ftruncate(void *context, int file, uint64_t length)
{
    (void)context;
    return ftruncate(file, (off_t)length);
}

static int system_rename(void *context, int directory, const char *from, const char *to)
{
    (void)context;
    return renameat(directory, from, directory, to);
}

static int system_unlink(void *context, int directory, const char *name)
{
    (void)context;
    return unlinkat(directory, name, 0);
}

static int system_lock(void *context, int file)
{
    (void)context;
    return flock(file, LOCK_EX | LOCK_NB);
}

static int system_size(void *context, int file, uint64_t *size)
{
    (void)context;
    struct stat status;
    if (fstat(file, &status) != 0)
        return -1;
    *size = (uint64_t)status.st_size;
    return 0;
}

static int system_allocated(void *context, int file, uint64_t *bytes)
{
    (void)context;
    struct stat status;
    if (fstat(file, &status) != 0)
        return -1;
    *bytes = (uint64_t)status.st_blocks * 512;
    return 0;
}

static int system_space(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes)
{
    (void)context;
    struct statvfs status;
    if (fstatvfs(file, &status) != 0)
        return -1;
    *free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    *total_bytes = (uint64_t)status.f_blocks * status.f_frsize;
    return 0;
}

static int system_list(void *context, int directory, io_list_visitor visit, void *argument)
{
    (void)context;
    /* A fresh description: reading a directory moves an offset that duplicates share. */
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0)
        return -1;
    DIR *stream = fdopendir(copy);
    if (stream == NULL) {
        int saved = errno;
        close(copy);
        errno = saved;
        return -1;
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL)
            break;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            visit(argument, entry->d_name);
    }
    int saved = errno;
    closedir(stream);
    errno = saved;
    return saved == 0 ? 0 : -1;
}

static int system_drop_cache(void *context, int file, uint64_t offset, uint64_t length)
{
    (void)context;
    int failed = posix_fadvise(file, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
    if (failed != 0) {
        errno = failed;
        return -1;
    }
    return 0;
}

static int system_seek_data(void *context, int file, uint64_t offset, uint64_t *data)
{
    (void)context;
    off_t found = lseek(file, (off_t)offset, SEEK_DATA);
    if (found < 0) {
        if (errno != EINVAL && errno != EOPNOTSUPP)
            return -1;
        found = (off_t)offset; /* a file system that cannot tell: everything may be data */
    }
    *data = (uint64_t)found;
    return 0;
}

static int system_seek_hole(void *context, int file, uint64_t offset, uint64_t *hole)
{
    off_t found = lseek(file, (off_t)offset, SEEK_HOLE);
    if (found < 0) {
        if (errno != EINVAL && errno != EOPNOTSUPP)
            return -1;
        return system_size(context, file, hole);
    }
    *hole = (uint64_t)found;
    return 0;
}

static const struct engine_io system_table = {
    .open_directory = system_open_directory,
    .open = system_open,
    .close = system_close,
    .preadv = system_preadv,
    .pwritev = system_pwritev,
    .fdatasync = system_fdatasync,
    .fsync = system_fsync,
    .fallocate = system_fallocate,
    .ftruncate = system_ftruncate,
    .rename = system_rename,
    .unlink = system_unlink,
    .lock = system_lock,
    .size = system_size,
    .allocated = system_allocated,
    .space = system_space,
    .list = system_list,
    .drop_cache = system_drop_cache,
    .seek_data = system_seek_data,
    .seek_hole = system_seek_hole,
};

const struct engine_io *io_system(void)
{
    return &system_table;
}

/* Skips done bytes of the parts; returns how many parts are finished. */
static int consume(struct iovec *parts, int count, size_t done)
{
    int finished = 0;
    while (finished < count && done >= parts[finished].iov_len) {
        done -= parts[finished].iov_len;
        finished++;
    }
    if (finished < count) {
        parts[finished].iov_base = (uint8_t *)parts[finished].iov_base + done;
        parts[finished].iov_len -= done;
    }
    return finished;
}

typedef ssize_t (*vector_call)(void *context, int file, const struct iovec *parts, int count, uint64_t offset);

/* Calls until all parts are moved, and uses them up. A call that moves nothing and gives no reason fails with zero_errno:
 * it would be a loop without end. */
static int move_all(const struct engine_io *io, vector_call call, int file, struct iovec *parts, int count,
                    uint64_t offset, int zero_errno)
{
    int interrupts = 0;
    int finished = consume(parts, count, 0);
    parts += finished;
    count -= finished;
    while (count > 0) {
        ssize_t done = call(io->context, file, parts, count < IOV_MAX ? count : IOV_MAX, offset);
        if (done < 0) {
            if (errno == EINTR && ++interrupts < INTERRUPTS_MAX)
                continue;
            return -1;
        }
        if (done == 0) {
            errno = zero_errno;
            return -1;
        }
        interrupts = 0;
        offset += (uint64_t)done;
        finished = consume(parts, count, (size_t)done);
        parts += finished;
        count -= finished;
    }
    return 0;
}

int io_writev(const struct engine_io *io, int file, struct iovec *parts, int count, uint64_t offset)
{
    return move_all(io, io->pwritev, file, parts, count, offset, EIO);
}

int io_write(const struct engine_io *io, int file, const void *buffer, size_t length, uint64_t offset)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)buffer, .iov_len = length};
    return io_writev(io, file, &part, 1, offset);
}

int io_readv(const struct engine_io *io, int file, const struct iovec *wanted, int count, uint64_t offset)
{
    struct iovec parts[4];
    if (count < 0 || (size_t)count > sizeof parts / sizeof parts[0]) {
        errno = EINVAL;
        return -1;
    }
    memcpy(parts, wanted, (size_t)count * sizeof parts[0]);
    return move_all(io, io->preadv, file, parts, count, offset, ENODATA); /* the file ends here */
}

int io_read(const struct engine_io *io, int file, void *buffer, size_t length, uint64_t offset)
{
    struct iovec part = {.iov_base = buffer, .iov_len = length};
    return io_readv(io, file, &part, 1, offset);
}

int io_allocate(const struct engine_io *io, int file, uint64_t offset, uint64_t length)
{
    for (int interrupts = 0;; interrupts++) {
        if (io->fallocate(io->context, file, 0, offset, length) == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
            return 0;
        if (errno != EINTR || interrupts >= INTERRUPTS_MAX)
            return -1;
    }
}

int io_open(const struct engine_io *io, int directory, const char *name, int flags)
{
    for (int interrupts = 0;; interrupts++) {
        int file = io->open(io->context, directory, name, flags);
        if (file >= 0 || errno != EINTR || interrupts >= INTERRUPTS_MAX)
            return file;
    }
}

void io_close(const struct engine_io *io, int file)
{
    /* What had to be durable was synced before; an error here has nobody left to tell. */
    if (file >= 0) {
        int saved = errno;
        (void)io->close(io->context, file);
        errno = saved;
    }
}

int io_replace(const struct engine_io *io, int directory, const char *name, const char *keep, const void *content,
               size_t length)
{
    char temporary[64];
    int size = snprintf(temporary, sizeof temporary, "%s.tmp", name);
    if (size < 0 || (size_t)size >= sizeof temporary) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int file = io_open(io, directory, temporary, O_RDWR | O_CREAT | O_TRUNC);
    if (file < 0)
        return -1;
    if (io_write(io, file, content, length, 0) != 0 || io->fsync(io->context, file) != 0)
        goto failed;
    io_close(io, file);
    file = -1;
    if (keep != NULL && io->rename(io->context, directory, name, keep) != 0 && errno != ENOENT)
        goto failed;
    if (io->rename(io->context, directory, temporary, name) != 0)
        goto failed;
    /* Without this the new name may be gone after a power cut although the file is there. */
    return io->fsync(io->context, directory);
failed:
    io_close(io, file);
    int saved = errno;
    (void)io->unlink(io->context, directory, temporary);
    errno = saved;
    return -1;
}
