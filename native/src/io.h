/*
 * Every system call of the engine goes through this table, so that a test can fail, shorten or forget the N-th one.
 *
 * Members behave like the call they are named after: -1 and errno on failure, short counts and EINTR allowed. The
 * functions below the table add the loops. A table and its context are owned by whoever opened the store with it and
 * outlive the store.
 */
#ifndef SPEEDY_IO_H
#define SPEEDY_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef void (*io_list_visitor)(void *argument, const char *name);

struct engine_io {
    void *context;
    int (*open_directory)(void *context, const char *path);
    int (*open)(void *context, int directory, const char *name, int flags); /* new files: mode 0600; O_CLOEXEC added */
    int (*close)(void *context, int file);
    ssize_t (*preadv)(void *context, int file, const struct iovec *parts, int count, uint64_t offset);
    ssize_t (*pwritev)(void *context, int file, const struct iovec *parts, int count, uint64_t offset);
    int (*fdatasync)(void *context, int file);
    int (*fsync)(void *context, int file); /* also for directories */
    int (*fallocate)(void *context, int file, int mode, uint64_t offset, uint64_t length);
    int (*ftruncate)(void *context, int file, uint64_t length);
    int (*rename)(void *context, int directory, const char *from, const char *to);
    int (*unlink)(void *context, int directory, const char *name);
    int (*lock)(void *context, int file); /* exclusive, never waits: EWOULDBLOCK */
    int (*size)(void *context, int file, uint64_t *size);
    int (*allocated)(void *context, int file, uint64_t *bytes); /* that the file takes on the disk */
    int (*space)(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes);
    int (*list)(void *context, int directory, io_list_visitor visit, void *argument);
    int (*drop_cache)(void *context, int file, uint64_t offset, uint64_t length); /* advice: forget clean pages */
    /* First byte >= offset that may be non-zero; ENXIO when there is none up to the end of the file. */
    int (*seek_data)(void *context, int file, uint64_t offset, uint64_t *data);
    /* Where the data at offset end: first byte >= offset from which on the next ones are zeros without a place on the
     * disk, or set aside and never written; the end of the file when there are none. */
    int (*seek_hole)(void *context, int file, uint64_t offset, uint64_t *hole);
};

/* The table of the operating system; constant. */
const struct engine_io *io_system(void);

/* All of length bytes, or -1; ENODATA when the file ends before. */
int io_read(const struct engine_io *io, int file, void *buffer, size_t length, uint64_t offset);
/* As io_read into several parts; count <= 4. */
int io_readv(const struct engine_io *io, int file, const struct iovec *parts, int count, uint64_t offset);
/* All bytes of all parts, or -1. The parts are consumed (changed) on the way. */
int io_writev(const struct engine_io *io, int file, struct iovec *parts, int count, uint64_t offset);
int io_write(const struct engine_io *io, int file, const void *buffer, size_t length, uint64_t offset);
/* Takes space for these bytes of the file, which grows if it ends before. 0 also where a file system cannot do that. */
int io_allocate(const struct engine_io *io, int file, uint64_t offset, uint64_t length);
/* Opens, or -1; retries EINTR. */
int io_open(const struct engine_io *io, int directory, const char *name, int flags);
void io_close(const struct engine_io *io, int file);
/* Writes a whole file beside name and moves it there: a reader sees the old content or the new, never a mixture.
 * keep, when not NULL, is the name that the old file gets. */
int io_replace(const struct engine_io *io, int directory, const char *name, const char *keep, const void *content,
               size_t length);

#endif
