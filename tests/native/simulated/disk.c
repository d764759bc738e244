/* State and record of the simulated disk. */
#include "disk_state.h"

#include <string.h>

#include "engine_test.h"

uint32_t names_find(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0)
            return names->entries[i].file;
    return NO_FILE;
}

void names_set(struct names *names, const char *name, uint32_t file)
{
    CHECK(strlen(name) < NAME_BYTES);
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0) {
            names->entries[i].file = file;
            return;
        }
    if (names->count == names->capacity) {
        names->capacity = names->capacity == 0 ? 32 : 2 * names->capacity;
        names->entries = realloc(names->entries, names->capacity * sizeof names->entries[0]);
        CHECK(names->entries != NULL);
    }
    memset(&names->entries[names->count], 0, sizeof names->entries[0]);
    strcpy(names->entries[names->count].name, name);
    names->entries[names->count++].file = file;
}

void names_remove(struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0) {
            memmove(&names->entries[i], &names->entries[i + 1], (names->count - i - 1) * sizeof names->entries[0]);
            names->count--;
            return;
        }
}

static struct names names_copy(const struct names *names)
{
    struct names copy = {.count = names->count, .capacity = names->count};
    copy.entries = malloc((names->count + 1) * sizeof copy.entries[0]);
    CHECK(copy.entries != NULL);
    if (names->count > 0)
        memcpy(copy.entries, names->entries, names->count * sizeof copy.entries[0]);
    return copy;
}

static void pending_add(struct pending *pending, const struct change *change)
{
    if (pending->count == pending->capacity) {
        pending->capacity = pending->capacity == 0 ? 8 : 2 * pending->capacity;
        pending->changes = realloc(pending->changes, pending->capacity * sizeof pending->changes[0]);
        CHECK(pending->changes != NULL);
    }
    pending->changes[pending->count++] = change;
}

static struct pending pending_copy(const struct pending *pending)
{
    struct pending copy = {.count = pending->count, .capacity = pending->count};
    copy.changes = malloc((pending->count + 1) * sizeof copy.changes[0]);
    CHECK(copy.changes != NULL);
    if (pending->count > 0)
        memcpy(copy.changes, pending->changes, pending->count * sizeof copy.changes[0]);
    return copy;
}

void pending_free(struct pending *pending)
{
    free(pending->changes);
    memset(pending, 0, sizeof *pending);
}

static struct sim_file *new_file(struct sim_disk *disk, uint32_t number)
{
    CHECK(number == disk->file_count);
    disk->files = realloc(disk->files, (disk->file_count + 1) * sizeof disk->files[0]);
    CHECK(disk->files != NULL);
    memset(&disk->files[disk->file_count], 0, sizeof disk->files[0]);
    return &disk->files[disk->file_count++];
}

static void change_image(struct image *image, const struct change *change)
{
    switch (change->kind) {
    case CHANGE_WRITE:
        image_write(image, change->offset, change->bytes, (size_t)change->length);
        break;
    case CHANGE_RESIZE:
        image_resize(image, change->length);
        break;
    case CHANGE_ALLOCATE:
        image_allocate(image, change->offset, change->length);
        break;
    case CHANGE_PUNCH:
        image_punch(image, change->offset, change->length);
        break;
    default:
        CHECK(false && "a change of a file");
    }
}

static void change_names(struct names *names, const struct change *change)
{
    if (change->kind == CHANGE_CREATE) {
        names_set(names, change->name, change->file);
    } else if (change->kind == CHANGE_RENAME) {
        names_remove(names, change->name);
        names_set(names, change->other, change->file);
    } else {
        names_remove(names, change->name);
    }
}

static void sync_file(struct sim_file *file)
{
    for (size_t i = 0; i < file->pending.count; i++)
        change_image(&file->disk, file->pending.changes[i]);
    file->pending.count = 0;
}

static void sync_names(struct sim_disk *disk)
{
    for (size_t i = 0; i < disk->pending.count; i++)
        change_names(&disk->disk, disk->pending.changes[i]);
    disk->pending.count = 0;
}

void disk_apply(struct sim_disk *disk, const struct change *change)
{
    uint64_t ignored = 0;
    switch (change->kind) {
    case CHANGE_CREATE:
        (void)new_file(disk, change->file);
        /* fall through */
    case CHANGE_RENAME:
    case CHANGE_UNLINK:
        change_names(&disk->cache, change);
        pending_add(&disk->pending, change);
        break;
    case CHANGE_SYNC:
        if (change->file == DIRECTORY)
            sync_names(disk);
        else
            sync_file(&disk->files[change->file]);
        return;
    case CHANGE_SYNC_LOST:
        if (change->file != DIRECTORY)
            crash_settle_file(&disk->files[change->file], change->offset, &ignored);
        return;
    default:
        change_image(&disk->files[change->file].cache, change);
        pending_add(&disk->files[change->file].pending, change);
    }
    disk->changes++;
}

void disk_record(struct sim_disk *disk, const struct change *change)
{
    if (disk->position == disk->record_capacity) {
        disk->record_capacity = disk->record_capacity == 0 ? 256 : 2 * disk->record_capacity;
        disk->record = realloc(disk->record, disk->record_capacity * sizeof disk->record[0]);
        CHECK(disk->record != NULL);
    }
    struct change *own = malloc(sizeof *own);
    CHECK(own != NULL);
    *own = *change;
    if (change->bytes != NULL) {
        own->bytes = malloc((size_t)change->length + 1);
        CHECK(own->bytes != NULL);
        memcpy(own->bytes, change->bytes, (size_t)change->length);
    }
    disk->record[disk->position++] = own;
    disk_apply(disk, own);
}

void sim_disk_free(struct sim_disk *disk)
{
    for (uint64_t i = 0; i < disk->position && disk->record != NULL; i++) {
        free(disk->record[i]->bytes);
        free(disk->record[i]);
    }
    free(disk->record);
    for (uint32_t i = 0; i < disk->file_count; i++) {
        image_free(&disk->files[i].cache);
        image_free(&disk->files[i].disk);
        pending_free(&disk->files[i].pending);
    }
    free(disk->files);
    free(disk->cache.entries);
    free(disk->disk.entries);
    pending_free(&disk->pending);
    pthread_mutex_destroy(&disk->lock);
    pthread_cond_destroy(&disk->released);
    free(disk);
}

struct sim_disk *sim_disk_copy(const struct sim_disk *disk)
{
    struct sim_disk *copy = sim_disk_new(disk->capacity);
    copy->files = calloc(disk->file_count + 1, sizeof copy->files[0]);
    CHECK(copy->files != NULL);
    copy->file_count = disk->file_count;
    for (uint32_t i = 0; i < disk->file_count; i++) {
        copy->files[i].cache = image_copy(&disk->files[i].cache);
        copy->files[i].disk = image_copy(&disk->files[i].disk);
        copy->files[i].pending = pending_copy(&disk->files[i].pending);
    }
    copy->cache = names_copy(&disk->cache);
    copy->disk = names_copy(&disk->disk);
    copy->pending = pending_copy(&disk->pending);
    return copy;
}

uint64_t sim_disk_position(struct sim_disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    uint64_t position = disk->position;
    pthread_mutex_unlock(&disk->lock);
    return position;
}

uint64_t sim_disk_changes(struct sim_disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    uint64_t changes = disk->changes;
    pthread_mutex_unlock(&disk->lock);
    return changes;
}

void sim_disk_follow(struct sim_disk *disk, const struct sim_disk *leader, uint64_t position)
{
    CHECK(position < leader->position);
    disk_apply(disk, leader->record[position]);
}

bool sim_disk_read(struct sim_disk *disk, const char *name, uint64_t offset, void *bytes, size_t length, uint64_t *size)
{
    uint32_t file = names_find(&disk->cache, name);
    if (file == NO_FILE)
        return false;
    image_read(&disk->files[file].cache, offset, bytes, length);
    *size = disk->files[file].cache.size;
    return true;
}

void names_visit(const struct names *names, io_list_visitor visit, void *argument)
{
    for (size_t i = 0; i < names->count; i++)
        visit(argument, names->entries[i].name);
}

void sim_disk_list(struct sim_disk *disk, io_list_visitor visit, void *argument)
{
    pthread_mutex_lock(&disk->lock);
    names_visit(&disk->cache, visit, argument);
    pthread_mutex_unlock(&disk->lock);
}

void sim_disk_remove(struct sim_disk *disk, const char *name)
{
    names_remove(&disk->cache, name);
    names_remove(&disk->disk, name);
}

static struct sim_file *file_named(struct sim_disk *disk, const char *name)
{
    uint32_t number = names_find(&disk->cache, name);
    CHECK(number != NO_FILE);
    return &disk->files[number];
}

void sim_disk_overwrite(struct sim_disk *disk, const char *name, uint64_t offset, const uint8_t *bytes, size_t length)
{
    struct sim_file *file = file_named(disk, name);
    CHECK(offset <= file->cache.size && length <= file->cache.size - offset);
    image_write(&file->cache, offset, bytes, length);
    image_write(&file->disk, offset, bytes, length);
}

void sim_disk_resize(struct sim_disk *disk, const char *name, uint64_t size)
{
    struct sim_file *file = file_named(disk, name);
    image_resize(&file->cache, size);
    image_resize(&file->disk, size);
}

void sim_disk_flip(struct sim_disk *disk, const char *name, uint64_t bit)
{
    uint8_t byte;
    pthread_mutex_lock(&disk->lock);
    struct sim_file *file = file_named(disk, name);
    image_read(&file->cache, bit / 8, &byte, 1);
    byte ^= (uint8_t)(1u << bit % 8);
    sim_disk_overwrite(disk, name, bit / 8, &byte, 1);
    pthread_mutex_unlock(&disk->lock);
}

void sim_disk_print(const struct sim_disk *disk, uint64_t from)
{
    static const char *const kinds[] = {"create", "rename", "unlink", "write", "resize", "allocate", "punch", "sync",
                                        "sync lost"};
    for (uint64_t i = from; i < disk->position; i++) {
        const struct change *change = disk->record[i];
        fprintf(stderr, "%4u %-9s file %d %s %s offset %u length %u\n", (unsigned)i, kinds[change->kind], (int)change->file,
                change->name, change->other, (unsigned)change->offset, (unsigned)change->length);
    }
}

/* Only for the process that reads it next: the machine's own byte order. */
void sim_disk_save(const struct sim_disk *disk, FILE *file)
{
    CHECK(fwrite(&disk->capacity, sizeof disk->capacity, 1, file) == 1);
    CHECK(fwrite(&disk->position, sizeof disk->position, 1, file) == 1);
    for (uint64_t i = 0; i < disk->position; i++) {
        const struct change *change = disk->record[i];
        CHECK(fwrite(change, sizeof *change, 1, file) == 1);
        if (change->bytes != NULL && change->length > 0)
            CHECK(fwrite(change->bytes, (size_t)change->length, 1, file) == 1);
    }
}

struct sim_disk *sim_disk_load(FILE *file)
{
    uint64_t capacity;
    uint64_t count;
    CHECK(fread(&capacity, sizeof capacity, 1, file) == 1 && fread(&count, sizeof count, 1, file) == 1);
    struct sim_disk *disk = sim_disk_new(capacity);
    for (uint64_t i = 0; i < count; i++) {
        struct change change;
        uint8_t *bytes = NULL;
        CHECK(fread(&change, sizeof change, 1, file) == 1);
        if (change.bytes != NULL) {
            bytes = malloc((size_t)change.length + 1);
            CHECK(bytes != NULL && (change.length == 0 || fread(bytes, (size_t)change.length, 1, file) == 1));
        }
        change.bytes = bytes;
        disk_record(disk, &change);
        free(bytes);
    }
    return disk;
}
