#include "fault_io.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512u

struct written {
    struct written *next;
    ino_t inode;
    int file; /* a descriptor of our own: the engine's may be closed by the time of the crash */
    uint64_t offset;
    size_t length;
    uint8_t *before;
};

struct fault_io {
    struct engine_io table;
    const struct engine_io *real;
    pthread_mutex_t lock;
    enum fault_kind kind;
    uint64_t calls;
    uint64_t syncs;
    uint64_t target; /* 0: disarmed */
    bool fired;
    struct written *unsynced; /* newest first */
};

static void forget(struct written *written)
{
    close(written->file);
    free(written->before);
    free(written);
}

/* Counts a call; returns the errno to fail with, or 0. */
static int decide(struct fault_io *fault, bool needs_space)
{
    int reason = 0;
    pthread_mutex_lock(&fault->lock);
    fault->calls++;
    bool at = fault->target != 0 && fault->calls == fault->target;
    bool behind = fault->target != 0 && fault->calls >= fault->target && fault->kind != FAULT_POWER_AT_SYNC;
    if (behind)
        fault->fired = true;
    if ((fault->kind == FAULT_EIO_ONCE && at) || 
        ((fault->kind == FAULT_EIO_FOREVER || fault->kind == FAULT_POWER) && behind))
        reason = EIO;
    if (needs_space && fault->kind == FAULT_ENOSPC_FOREVER && behind)
        reason = ENOSPC;
    if (fault->kind == FAULT_ENOSPC_ONCE && behind && fault->target != 0) {
        if (needs_space) {
            reason = ENOSPC; /* the first call from N on that can run out of space */
            fault->target = 0;
        }
    }
    pthread_mutex_unlock(&fault->lock);
    return reason;
}

static int failed(int reason)
{
    errno = reason;
    return -1;
}

static ino_t inode_of(int file)
{
    struct stat status;
    int result = fstat(file, &status);
    assert(result == 0);
    return status.st_ino;
}

/* Puts back what was there before, sector by sector where keep says so. */
static void undo(struct written *written, bool (*drop)(void *), void *argument)
{
    size_t at = 0;
    while (at < written->length) {
        size_t piece = SECTOR_BYTES - (size_t)((written->offset + at) % SECTOR_BYTES);
        if (piece > written->length - at)
            piece = written->length - at;
        if (drop(argument)) {
            ssize_t put = pwrite(written->file, written->before + at, piece, (off_t)(written->offset + at));
            assert(put == (ssize_t)piece);
        }
        at += piece;
    }
}

static bool always(void *argument)
{
    (void)argument;
    return true;
}

/* lose: the sync failed, and what it should have written is gone. */
static void settle(struct fault_io *fault, int file, bool lose)
{
    ino_t inode = inode_of(file);
    pthread_mutex_lock(&fault->lock);
    for (struct written **at = &fault->unsynced; *at != NULL;) {
        struct written *written = *at;
        if (written->inode != inode) {
            at = &written->next;
            continue;
        }
        *at = written->next;
        if (lose)
            undo(written, always, NULL);
        forget(written);
    }
    pthread_mutex_unlock(&fault->lock);
}

static int fault_open_directory(void *context, const char *path)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->open_directory(NULL, path);
}

static int fault_open(void *context, int directory, const char *name, int flags)
{
    struct fault_io *fault = context;
    int reason = decide(fault, (flags & O_CREAT) != 0);
    return reason ? failed(reason) : fault->real->open(NULL, directory, name, flags);
}

static int fault_close(void *context, int file)
{
    struct fault_io *fault = context;
    return fault->real->close(NULL, file); /* never leaks a descriptor of the test */
}

static ssize_t fault_preadv(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->preadv(NULL, file, parts, count, offset);
}

static void remember(struct fault_io *fault, int file, uint64_t offset, size_t length)
{
    struct written *written = calloc(1, sizeof *written);
    assert(written != NULL);
    written->before = calloc(1, length + 1);
    assert(written->before != NULL);
    written->inode = inode_of(file);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    written->file = open(path, O_RDWR | O_CLOEXEC);
    assert(written->file >= 0);
    written->offset = offset;
    written->length = length;
    ssize_t got = pread(written->file, written->before, length, (off_t)offset);
    assert(got >= 0);
    pthread_mutex_lock(&fault->lock);
    written->next = fault->unsynced;
    fault->unsynced = written;
    pthread_mutex_unlock(&fault->lock);
}

static ssize_t fault_pwritev(void *context, int file, const struct iovec *parts, int count, uint64_t offset)
{
    struct fault_io *fault = context;
    int reason = decide(fault, true);
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    remember(fault, file, offset, total);
    pthread_mutex_lock(&fault->lock);
    bool shorten = fault->kind == FAULT_SHORT && fault->target != 0 && fault->calls >= fault->target;
    pthread_mutex_unlock(&fault->lock);
    if (reason != 0 || (shorten && total > 1)) {
        /* Half of it gets there, also when the call reports an error. */
        size_t half = total / 2;
        struct iovec first = parts[0];
        if (first.iov_len > half)
            first.iov_len = half > 0 ? half : 1;
        ssize_t done = fault->real->pwritev(NULL, file, &first, 1, offset);
        return reason ? failed(reason) : done;
    }
    return fault->real->pwritev(NULL, file, parts, count, offset);
}

static bool is_kind(struct fault_io *fault, enum fault_kind kind)
{
    pthread_mutex_lock(&fault->lock);
    bool is = fault->target != 0 && fault->kind == kind;
    pthread_mutex_unlock(&fault->lock);
    return is;
}

static int fault_sync(void *context, int file)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    if (reason == 0 || !is_kind(fault, FAULT_POWER))
        settle(fault, file, reason != 0);
    return reason ? failed(reason) : 0;
}

static int fault_fdatasync(void *context, int file)
{
    struct fault_io *fault = context;
    pthread_mutex_lock(&fault->lock);
    bool fail = fault->kind == FAULT_SYNC_ONCE && fault->target != 0 && fault->calls + 1 >= fault->target;
    if (fail)
        fault->target = 0;
    if (fault->kind == FAULT_POWER_AT_SYNC && fault->target != 0 && ++fault->syncs >= fault->target) {
        fault->kind = FAULT_POWER;
        fault->target = fault->calls + 1;
    }
    pthread_mutex_unlock(&fault->lock);
    if (fail) {
        settle(fault, file, true);
        return failed(EIO);
    }
    return fault_sync(context, file);
}

static int fault_fallocate(void *context, int file, int mode, uint64_t offset, uint64_t length)
{
    struct fault_io *fault = context;
    int reason = decide(fault, mode == 0);
    if (is_kind(fault, FAULT_PRIMITIVE))
        return failed(EOPNOTSUPP);
    return reason ? failed(reason) : fault->real->fallocate(NULL, file, mode, offset, length);
}

static int fault_ftruncate(void *context, int file, uint64_t length)
{
    struct fault_io *fault = context;
    int reason = decide(fault, true);
    return reason ? failed(reason) : fault->real->ftruncate(NULL, file, length);
}

static int fault_rename(void *context, int directory, const char *from, const char *to)
{
    struct fault_io *fault = context;
    int reason = decide(fault, true);
    return reason ? failed(reason) : fault->real->rename(NULL, directory, from, to);
}

static int fault_unlink(void *context, int directory, const char *name)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->unlink(NULL, directory, name);
}

static int fault_lock(void *context, int file)
{
    struct fault_io *fault = context;
    return fault->real->lock(NULL, file);
}

static int fault_size(void *context, int file, uint64_t *size)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->size(NULL, file, size);
}

static int fault_allocated(void *context, int file, uint64_t *bytes)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->allocated(NULL, file, bytes);
}

static int fault_space(void *context, int file, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->space(NULL, file, free_bytes, total_bytes);
}

static int fault_list(void *context, int directory, io_list_visitor visit, void *argument)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    return reason ? failed(reason) : fault->real->list(NULL, directory, visit, argument);
}

static int fault_drop_cache(void *context, int file, uint64_t offset, uint64_t length)
{
    struct fault_io *fault = context;
    return fault->real->drop_cache(NULL, file, offset, length);
}

static int fault_seek_data(void *context, int file, uint64_t offset, uint64_t *data)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    if (is_kind(fault, FAULT_PRIMITIVE)) {
        *data = offset;
        return 0;
    }
    return reason ? failed(reason) : fault->real->seek_data(NULL, file, offset, data);
}

static int fault_seek_hole(void *context, int file, uint64_t offset, uint64_t *hole)
{
    struct fault_io *fault = context;
    int reason = decide(fault, false);
    if (is_kind(fault, FAULT_PRIMITIVE))
        return fault->real->size(NULL, file, hole);
    return reason ? failed(reason) : fault->real->seek_hole(NULL, file, offset, hole);
}

struct fault_io *fault_io_new(void)
{
    struct fault_io *fault = calloc(1, sizeof *fault);
    assert(fault != NULL);
    fault->real = io_system();
    pthread_mutex_init(&fault->lock, NULL);
    fault->table = (struct engine_io){
        .context = fault,
        .open_directory = fault_open_directory,
        .open = fault_open,
        .close = fault_close,
        .preadv = fault_preadv,
        .pwritev = fault_pwritev,
        .fdatasync = fault_fdatasync,
        .fsync = fault_sync,
        .fallocate = fault_fallocate,
        .ftruncate = fault_ftruncate,
        .rename = fault_rename,
        .unlink = fault_unlink,
        .lock = fault_lock,
        .size = fault_size,
        .allocated = fault_allocated,
        .space = fault_space,
        .list = fault_list,
        .drop_cache = fault_drop_cache,
        .seek_data = fault_seek_data,
        .seek_hole = fault_seek_hole,
    };
    return fault;
}

void fault_io_free(struct fault_io *fault)
{
    while (fault->unsynced != NULL) {
        struct written *next = fault->unsynced->next;
        forget(fault->unsynced);
        fault->unsynced = next;
    }
    pthread_mutex_destroy(&fault->lock);
    free(fault);
}

const struct engine_io *fault_io_table(struct fault_io *fault)
{
    return &fault->table;
}

void fault_io_arm(struct fault_io *fault, enum fault_kind kind, uint64_t call)
{
    pthread_mutex_lock(&fault->lock);
    fault->kind = kind;
    fault->calls = 0;
    fault->syncs = 0;
    fault->target = call;
    fault->fired = false;
    pthread_mutex_unlock(&fault->lock);
}

void fault_io_disarm(struct fault_io *fault)
{
    pthread_mutex_lock(&fault->lock);
    fault->target = 0;
    pthread_mutex_unlock(&fault->lock);
}

bool fault_io_fired(struct fault_io *fault)
{
    pthread_mutex_lock(&fault->lock);
    bool fired = fault->fired;
    pthread_mutex_unlock(&fault->lock);
    return fired;
}

uint64_t fault_io_calls(struct fault_io *fault)
{
    pthread_mutex_lock(&fault->lock);
    uint64_t calls = fault->calls;
    pthread_mutex_unlock(&fault->lock);
    return calls;
}

struct chance {
    uint64_t state;
    bool drop;
};

/* Sectors are lost in runs of 8 on average, so that some needles of a batch survive whole between torn ones. */
static bool by_chance(void *argument)
{
    struct chance *chance = argument;
    chance->state ^= chance->state << 13;
    chance->state ^= chance->state >> 7;
    chance->state ^= chance->state << 17;
    if ((chance->state >> 33) % 8 == 0)
        chance->drop = !chance->drop;
    return chance->drop;
}

void fault_io_crash(struct fault_io *fault, uint64_t seed)
{
    struct chance chance = {.state = seed * 0x9e3779b97f4a7c15u + 1};
    /* Newest first, so that of two writes to one place the older is undone last and its "before" stays. */
    while (fault->unsynced != NULL) {
        struct written *written = fault->unsynced;
        fault->unsynced = written->next;
        /* One write in five is whole, one lost, the others are torn. */
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t luck = (seed >> 33) % 5;
        if (luck == 1)
            undo(written, always, NULL);
        else if (luck > 1)
            undo(written, by_chance, &chance);
        forget(written);
    }
}
