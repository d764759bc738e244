/* The engine's I/O table over a simulated disk, its faults and its gate. */
#include "disk_state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "engine_test.h"

#define FIRST_DESCRIPTOR 3

static int failed(int reason)
{
    errno = reason;
    return -1;
}

static uint32_t file_of(struct sim_disk *disk, int descriptor)
{
    CHECK(descriptor >= FIRST_DESCRIPTOR && descriptor < DESCRIPTORS_MAX && disk->descriptors[descriptor].open);
    return disk->descriptors[descriptor].file;
}

static int new_descriptor(struct sim_disk *disk, uint32_t file)
{
    for (int i = FIRST_DESCRIPTOR; i < DESCRIPTORS_MAX; i++)
        if (!disk->descriptors[i].open) {
            disk->descriptors[i] = (struct descriptor){.open = true, .file = file};
            return i;
        }
    return failed(EMFILE);
}

enum call { CALL_OTHER, CALL_SPACE, CALL_WRITE, CALL_SYNC };

/* Counts a call and decides, with disk.lock held, what goes wrong: 0, an errno, or -1 for a write that ends early. */
static int decide(struct sim_disk *disk, enum call call)
{
    disk->calls++;
    if (disk->fault == SIM_NO_FAULT || disk->calls < disk->fault_call)
        return 0;
    disk->fired = true;
    bool needs_space = call == CALL_SPACE || call == CALL_WRITE;
    int result = 0;
    switch (disk->fault) {
    case SIM_EIO_ONCE:
        disk->fault = SIM_NO_FAULT;
        return EIO;
    case SIM_EIO_FOREVER:
        return EIO;
    case SIM_ENOSPC_ONCE:
    case SIM_ENOSPC_FOREVER:
        result = needs_space ? ENOSPC : 0;
        break;
    case SIM_SHORT_ONCE:
    case SIM_SHORT_FOREVER:
        result = call == CALL_WRITE ? -1 : 0;
        break;
    default:
        result = call == CALL_SYNC ? EIO : 0;
    }
    bool once = disk->fault == SIM_ENOSPC_ONCE || disk->fault == SIM_SHORT_ONCE || disk->fault == SIM_SYNC_ONCE;
    if (result != 0 && once)
        disk->fault = SIM_NO_FAULT;
    return result;
}

static uint64_t free_bytes_of(const struct sim_disk *disk)
{
    uint64_t taken = 0;
    for (size_t i = 0; i < disk->cache.count; i++)
        taken += image_taken_bytes(&disk->files[disk->cache.entries[i].file].cache);
    return taken < disk->capacity ? disk->capacity - taken : 0;
}

static int sim_open_directory(void *context, const char *path)
{
    struct sim_disk *disk = context;
    (void)path;
    pthread_mutex_lock(&disk->lock);
    int reason = decide(disk, CALL_OTHER);
    int result = reason ? failed(reason) : new_descriptor(disk, DIRECTORY);
    pthread_mutex_unlock(&disk->lock);
    return result;
}

static int open_locked(struct sim_disk *disk, const char *name, int flags)
{
    uint32_t file = names_find(&disk->cache, name);
    if (file == NO_FILE && (flags & O_CREAT) == 0)
        return failed(ENOENT);
    if (file != NO_FILE && (flags & O_EXCL) != 0)
        return failed(EEXIST);
    struct change change = {.kind = CHANGE_CREATE, .file = disk->file_count};
    CHECK(strlen(name) < sizeof change.name);
    if (file == NO_FILE) {
        strcpy(change.name, name);
        file = disk->file_count;
        disk_record(disk, &change);
    } else if ((flags & O_TRUNC) != 0 && disk->files[file].cache.size > 0) {
        change = (struct change){.kind = CHANGE_RESIZE, .file = file};
        disk_record(disk, &change);
    }
    return new_descriptor(disk, file);
}

static int sim_open(void *context, int directory, const char *name, int flags)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    CHECK(file_of(disk, directory) == DIRECTORY);
    int reason = decide(disk, (flags & O_CREAT) != 0 ? CALL_SPACE : CALL_OTHER);
    int result = reason ? failed(reason) : open_locked(disk, name, flags);
    pthread_mutex_unlock(&disk->lock);
    return result;
}

static int sim_close(void *context, int descriptor)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    (void)file_of(disk, descriptor);
    disk->descriptors[descriptor].open = false;
    pthread_mutex_unlock(&disk->lock);
    return 0;
}

static ssize_t sim_preadv(void *context, int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    const struct image *image = &disk->files[file_of(disk, descriptor)].cache;
    int reason = decide(disk, CALL_OTHER);
    ssize_t done = 0;
    for (int i = 0; reason == 0 && i < count && offset < image->size; i++) {
        uint64_t rest = image->size - offset;
        size_t piece = parts[i].iov_len < rest ? parts[i].iov_len : (size_t)rest;
        image_read(image, offset, parts[i].iov_base, piece);
        offset += piece;
        done += (ssize_t)piece;
    }
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : done;
}

static uint8_t *gather(const struct iovec *parts, int count, size_t length)
{
    uint8_t *bytes = malloc(length + 1);
    CHECK(bytes != NULL);
    size_t done = 0;
    for (int i = 0; i < count && done < length; i++) {
        size_t piece = parts[i].iov_len < length - done ? parts[i].iov_len : length - done;
        memcpy(bytes + done, parts[i].iov_base, piece);
        done += piece;
    }
    return bytes;
}

static ssize_t sim_pwritev(void *context, int descriptor, const struct iovec *parts, int count, uint64_t offset)
{
    struct sim_disk *disk = context;
    size_t length = 0;
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    pthread_mutex_lock(&disk->lock);
    uint32_t file = file_of(disk, descriptor);
    int reason = decide(disk, CALL_WRITE);
    if (reason != 0)
        length = length > 1 ? length / 2 : length; /* half of it gets there, also when the call reports an error */
    uint64_t missing = image_missing_bytes(&disk->files[file].cache, offset, length);
    if (missing > 0 && missing > free_bytes_of(disk)) {
        pthread_mutex_unlock(&disk->lock);
        return failed(ENOSPC);
    }
    struct change change = {.kind = CHANGE_WRITE, .file = file, .offset = offset, .length = length};
    change.bytes = gather(parts, count, length);
    disk_record(disk, &change);
    free(change.bytes);
    pthread_mutex_unlock(&disk->lock);
    return reason > 0 ? failed(reason) : (ssize_t)length;
}

static int sync_locked(struct sim_disk *disk, int descriptor)
{
    struct change change = {.kind = CHANGE_SYNC, .file = file_of(disk, descriptor)};
    int reason = decide(disk, CALL_SYNC);
    if (reason != 0) {
        change.kind = CHANGE_SYNC_LOST;
        change.offset = disk->fault_seed + disk->calls;
    }
    disk_record(disk, &change);
    return reason ? failed(reason) : 0;
}

static int sim_fsync(void *context, int descriptor)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    int result = sync_locked(disk, descriptor);
    pthread_mutex_unlock(&disk->lock);
    return result;
}

static int sim_fdatasync(void *context, int descriptor)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    disk->held++;
    while (disk->hold)
        pthread_cond_wait(&disk->released, &disk->lock);
    disk->held--;
    int result = sync_locked(disk, descriptor);
    pthread_mutex_unlock(&disk->lock);
    return result;
}

static int sim_fallocate(void *context, int descriptor, int mode, uint64_t offset, uint64_t length)
{
    struct sim_disk *disk = context;
    struct change change = {.kind = CHANGE_ALLOCATE, .offset = offset, .length = length};
    pthread_mutex_lock(&disk->lock);
    change.file = file_of(disk, descriptor);
    int reason = decide(disk, mode == 0 ? CALL_SPACE : CALL_OTHER);
    if (mode != 0)
        change.kind = CHANGE_PUNCH;
    const struct image *image = &disk->files[change.file].cache;
    if (reason == 0 && mode == 0 && image_missing_bytes(image, offset, length) > free_bytes_of(disk))
        reason = ENOSPC;
    bool grows = mode == 0 && offset + length > image->size;
    if (reason == 0) {
        disk_record(disk, &change);
        if (grows) {
            struct change size = {.kind = CHANGE_RESIZE, .file = change.file, .length = offset + length};
            disk_record(disk, &size);
        }
    }
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_ftruncate(void *context, int descriptor, uint64_t length)
{
    struct sim_disk *disk = context;
    struct change change = {.kind = CHANGE_RESIZE, .length = length};
    pthread_mutex_lock(&disk->lock);
    change.file = file_of(disk, descriptor);
    int reason = decide(disk, CALL_SPACE);
    if (reason == 0)
        disk_record(disk, &change);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_rename(void *context, int directory, const char *from, const char *to)
{
    struct sim_disk *disk = context;
    struct change change = {.kind = CHANGE_RENAME};
    pthread_mutex_lock(&disk->lock);
    CHECK(file_of(disk, directory) == DIRECTORY);
    int reason = decide(disk, CALL_SPACE);
    change.file = names_find(&disk->cache, from);
    if (reason == 0 && change.file == NO_FILE)
        reason = ENOENT;
    CHECK(strlen(from) < sizeof change.name && strlen(to) < sizeof change.other);
    strcpy(change.name, from);
    strcpy(change.other, to);
    if (reason == 0)
        disk_record(disk, &change);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_unlink(void *context, int directory, const char *name)
{
    struct sim_disk *disk = context;
    struct change change = {.kind = CHANGE_UNLINK};
    pthread_mutex_lock(&disk->lock);
    CHECK(file_of(disk, directory) == DIRECTORY);
    int reason = decide(disk, CALL_OTHER);
    change.file = names_find(&disk->cache, name);
    if (reason == 0 && change.file == NO_FILE)
        reason = ENOENT;
    CHECK(strlen(name) < sizeof change.name);
    strcpy(change.name, name);
    if (reason == 0)
        disk_record(disk, &change);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_lock(void *context, int descriptor)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    uint32_t file = file_of(disk, descriptor);
    bool taken = false;
    for (int i = FIRST_DESCRIPTOR; i < DESCRIPTORS_MAX; i++)
        taken = taken || (disk->descriptors[i].open && disk->descriptors[i].locked && disk->descriptors[i].file == file);
    if (!taken)
        disk->descriptors[descriptor].locked = true;
    pthread_mutex_unlock(&disk->lock);
    return taken ? failed(EWOULDBLOCK) : 0;
}

static int sim_size(void *context, int descriptor, uint64_t *size)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    int reason = decide(disk, CALL_OTHER);
    *size = disk->files[file_of(disk, descriptor)].cache.size;
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_allocated(void *context, int descriptor, uint64_t *bytes)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    int reason = decide(disk, CALL_OTHER);
    *bytes = image_taken_bytes(&disk->files[file_of(disk, descriptor)].cache);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_space(void *context, int descriptor, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    (void)file_of(disk, descriptor);
    int reason = decide(disk, CALL_OTHER);
    *free_bytes = free_bytes_of(disk);
    *total_bytes = disk->capacity;
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_list(void *context, int directory, io_list_visitor visit, void *argument)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    CHECK(file_of(disk, directory) == DIRECTORY);
    int reason = decide(disk, CALL_OTHER);
    if (reason == 0)
        names_visit(&disk->cache, visit, argument);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

/* Pages that no write waits for become what the disk has. */
static int sim_drop_cache(void *context, int descriptor, uint64_t offset, uint64_t length)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    struct sim_file *file = &disk->files[file_of(disk, descriptor)];
    if (file->pending.count == 0) {
        size_t end = (size_t)((offset + length) / PAGE_BYTES);
        for (size_t page = (size_t)((offset + PAGE_BYTES - 1) / PAGE_BYTES); page < end && page < file->cache.count; page++)
            image_share_page(&file->cache, &file->disk, page);
    }
    pthread_mutex_unlock(&disk->lock);
    return 0;
}

static int sim_seek_data(void *context, int descriptor, uint64_t offset, uint64_t *data)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    int reason = decide(disk, CALL_OTHER);
    if (reason == 0 && !image_seek_data(&disk->files[file_of(disk, descriptor)].cache, offset, data))
        reason = ENXIO;
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

static int sim_seek_hole(void *context, int descriptor, uint64_t offset, uint64_t *hole)
{
    struct sim_disk *disk = context;
    pthread_mutex_lock(&disk->lock);
    int reason = decide(disk, CALL_OTHER);
    if (reason == 0)
        *hole = image_seek_hole(&disk->files[file_of(disk, descriptor)].cache, offset);
    pthread_mutex_unlock(&disk->lock);
    return reason ? failed(reason) : 0;
}

struct sim_disk *sim_disk_new(uint64_t capacity_bytes)
{
    struct sim_disk *disk = calloc(1, sizeof *disk);
    CHECK(disk != NULL);
    disk->capacity = capacity_bytes;
    disk->fault = SIM_NO_FAULT;
    pthread_mutex_init(&disk->lock, NULL);
    pthread_cond_init(&disk->released, NULL);
    disk->table = (struct engine_io){
        .context = disk,
        .open_directory = sim_open_directory,
        .open = sim_open,
        .close = sim_close,
        .preadv = sim_preadv,
        .pwritev = sim_pwritev,
        .fdatasync = sim_fdatasync,
        .fsync = sim_fsync,
        .fallocate = sim_fallocate,
        .ftruncate = sim_ftruncate,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .lock = sim_lock,
        .size = sim_size,
        .allocated = sim_allocated,
        .space = sim_space,
        .list = sim_list,
        .drop_cache = sim_drop_cache,
        .seek_data = sim_seek_data,
        .seek_hole = sim_seek_hole,
    };
    return disk;
}

const struct engine_io *sim_disk_table(struct sim_disk *disk)
{
    return &disk->table;
}

void sim_disk_arm(struct sim_disk *disk, enum sim_fault fault, uint64_t call, uint64_t seed)
{
    pthread_mutex_lock(&disk->lock);
    disk->fault = fault;
    disk->fault_call = call;
    disk->fault_seed = seed;
    disk->calls = 0;
    disk->fired = false;
    pthread_mutex_unlock(&disk->lock);
}

bool sim_disk_fired(struct sim_disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    bool fired = disk->fired;
    pthread_mutex_unlock(&disk->lock);
    return fired;
}

void sim_disk_hold(struct sim_disk *disk, bool hold)
{
    pthread_mutex_lock(&disk->lock);
    disk->hold = hold;
    pthread_cond_broadcast(&disk->released);
    pthread_mutex_unlock(&disk->lock);
}

bool sim_disk_is_held(struct sim_disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    bool held = disk->hold && disk->held > 0;
    pthread_mutex_unlock(&disk->lock);
    return held;
}
