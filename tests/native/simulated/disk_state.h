/* What the files of the simulated disk share. */
#ifndef SPEEDY_SIMULATED_DISK_STATE_H
#define SPEEDY_SIMULATED_DISK_STATE_H

#include <pthread.h>

#include "disk.h"
#include "image.h"

#define NAME_BYTES 32u
#define DESCRIPTORS_MAX 256
#define NO_FILE UINT32_MAX
#define DIRECTORY UINT32_MAX

enum change_kind {
    CHANGE_CREATE,    /* name, file */
    CHANGE_RENAME,    /* name to other, which is file */
    CHANGE_UNLINK,    /* name */
    CHANGE_WRITE,     /* file, offset, length, bytes */
    CHANGE_RESIZE,    /* file, length */
    CHANGE_ALLOCATE,  /* file, offset, length */
    CHANGE_PUNCH,     /* file, offset, length */
    CHANGE_SYNC,      /* file, or DIRECTORY */
    CHANGE_SYNC_LOST, /* file; offset is the seed of what got there */
};

struct change {
    enum change_kind kind;
    uint32_t file;
    uint64_t offset;
    uint64_t length;
    char name[NAME_BYTES];
    char other[NAME_BYTES];
    uint8_t *bytes; /* owned */
};

/* Changes that are not durable yet, oldest first; borrowed from the record. */
struct pending {
    const struct change **changes; /* owned */
    size_t count;
    size_t capacity;
};

struct sim_file {
    struct image cache; /* what is read */
    struct image disk;  /* what is durable */
    struct pending pending;
};

struct entry {
    char name[NAME_BYTES];
    uint32_t file;
};

struct names {
    struct entry *entries; /* owned */
    size_t count;
    size_t capacity;
};

struct descriptor {
    bool open;
    bool locked;
    uint32_t file;
};

struct sim_disk {
    uint64_t capacity;
    struct sim_file *files; /* owned; by number, never reused */
    uint32_t file_count;
    struct names cache;
    struct names disk;
    struct pending pending; /* of the directory */

    struct change **record; /* owned */
    uint64_t position;
    uint64_t record_capacity;
    uint64_t changes;

    struct engine_io table;
    pthread_mutex_t lock;
    struct descriptor descriptors[DESCRIPTORS_MAX];
    enum sim_fault fault;
    uint64_t fault_call;
    uint64_t fault_seed;
    uint64_t calls;
    bool fired;
    bool hold;
    unsigned held;
    pthread_cond_t released;
};

uint32_t names_find(const struct names *names, const char *name);
void names_set(struct names *names, const char *name, uint32_t file);
void names_remove(struct names *names, const char *name);
void names_visit(const struct names *names, io_list_visitor visit, void *argument);

/* Changes the disk as the change says and remembers it as pending; the change must outlive the disk. */
void disk_apply(struct sim_disk *disk, const struct change *change);
/* Records the change (bytes are copied) and applies it. disk.lock is held. */
void disk_record(struct sim_disk *disk, const struct change *change);
/* Makes a part of what is pending in this file durable, chosen by the seed, and forgets the rest. */
void crash_settle_file(struct sim_file *file, uint64_t seed, uint64_t *fingerprint);
void pending_free(struct pending *pending);

#endif
