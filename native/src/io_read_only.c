#include "io_read_only.h"

#include <errno.h>
#include <fcntl.h>

static const struct engine_io *under(void *context)
{
    const struct io_read_only *own = context;
    return own->under;
}

static int refuse(void)
{
    errno = EROFS;
    return -1;
}

static int ro_open_directory(void *context, const char *path)
{
    return under(context)->open_directory(under(context)->context, path);
}

static int ro_open(void *context, int directory, const char *name, int flags)
{
    if (flags & (O_TRUNC | O_EXCL))
        return refuse(); /* somebody begins a new file */
    return under(context)->open(under(context)->context, directory, name, (flags & ~(O_ACCMODE | O_CREAT)) | O_RDONLY);
}

static int ro_close(void *context, int file)
{
    return under(context)->close(under(context)->context, file);
}

static ssize_t ro_preadv(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    return under(context)->preadv(under(context)->context, file, parts, count, offset);
}

static ssize_t ro_pwritev(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    (void)context, (void)file, (void)parts, (void)count, (void)offset;
    return refuse();
}

/* There is nothing of ours to write, and what a process before us left is not ours to push. */
static int ro_sync(void *context, int file)
{
    (void)context, (void)file;
    return 0;
}

static int ro_fallocate(void *context, int file, int mode, uint64_t offset, uint64_t length)
{
    (void)context, (void)file, (void)mode, (void)offset, (void)length;
    return refuse();
}

static int ro_ftruncate(void *context, int file, uint64_t length)
{
    (void)context, (void)file, (void)length;
    return refuse();
}

static int ro_rename(void *context, int directory, const char *from, const char *to)
{
    (void)context, (void)directory, (void)from, (void)to;
    return refuse();
}

static int ro_unlink(void *context, int directory, const char *name)
{
    (void)context, (void)directory, (void)name;
    return refuse();
}

static int ro_lock(void *context, int file)
{
    return under(context)->lock(under(context)->context, file);
}

static int ro_size(void *context, int file, uint64_t *size)
{
    return under(context)->size(under(context)->context, file, size);
}

static int ro_allocated(void *context, int file, uint64_t *bytes)
{
    return under(context)->allocated(under(context)->context, file, bytes);
}

static int ro_space(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes)
{
    return under(context)->space(under(context)->context, file, free_bytes, total_bytes);
}

static int ro_list(void *context, int directory, io_list_visitor visit, void *argument)
{
    return under(context)->list(under(context)->context, directory, visit, argument);
}

static int ro_drop_cache(void *context, int file, uint64_t offset, uint64_t length)
{
    return under(context)->drop_cache(under(context)->context, file, offset, length);
}

static int ro_seek_data(void *context, int file, uint64_t offset, uint64_t *data)
{
    return under(context)->seek_data(under(context)->context, file, offset, data);
}

static int ro_seek_hole(void *context, int file, uint64_t offset, uint64_t *hole)
{
    return under(context)->seek_hole(under(context)->context, file, offset, hole);
}

void io_read_only_init(struct io_read_only *own, const struct engine_io *below)
{
    const struct engine_io table = {
        .context = own,
        .open_directory = ro_open_directory,
        .open = ro_open,
        .close = ro_close,
        .preadv = ro_preadv,
        .pwritev = ro_pwritev,
        .fdatasync = ro_sync,
        .fsync = ro_sync,
        .fallocate = ro_fallocate,
        .ftruncate = ro_ftruncate,
        .rename = ro_rename,
        .unlink = ro_unlink,
        .lock = ro_lock,
        .size = ro_size,
        .allocated = ro_allocated,
        .space = ro_space,
        .list = ro_list,
        .drop_cache = ro_drop_cache,
        .seek_data = ro_seek_data,
        .seek_hole = ro_seek_hole,
    };
    own->table = table;
    own->under = below;
}
