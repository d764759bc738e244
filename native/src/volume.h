/*
 * Volume: one preallocated file of needles, its superblock, its state and its accounting.
 * Byte layout of the superblock in volume.c, of a needle in needle.h.
 */
#ifndef SPEEDY_VOLUME_H
#define SPEEDY_VOLUME_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "engine.h"
#include "identity.h"
#include "io.h"

#define VOLUME_DATA_START (2u * BLOCK_BYTES)
#define VOLUME_NAME_BYTES 32
#define DELETE_NO_BLOCK UINT64_MAX
#define VOLUME_ID_MAX (UINT32_MAX - 1)
#define VOLUME_ALLOCATION_STEP_MAX ((uint64_t)32 << 20) /* space is taken in such pieces, ahead of the tail */
#define VOLUME_ALLOCATION_UNIT ((uint64_t)1 << 20)      /* ... or smaller ones when that is all there is */

enum volume_state {
    VOLUME_STANDBY,     /* empty, prepared ahead */
    VOLUME_ACTIVE,      /* takes chunks */
    VOLUME_CLOSING,     /* full; the keeper has still to seal it */
    VOLUME_SEALED,      /* final */
    VOLUME_FAILED,      /* a write or fsync failed: reads only, past the page cache */
    VOLUME_QUARANTINED, /* lost acknowledged bytes, or damaged: reads only, what can be read */
    VOLUME_GONE,        /* replaced, or not yet there; at most readers that came before still have its file */
};

/* A dead needle whose payload blocks have not been returned yet. */
struct punch {
    uint64_t offset;
    uint64_t delete_seq;
    uint32_t header_length;
    uint32_t payload_length;
};

struct punch_list {
    struct punch *items; /* owned */
    size_t count;
    size_t capacity;
};

struct volume {
    const struct engine_io *io;
    int directory; /* borrowed */
    int file;      /* -1 when it could not be opened */
    uint32_t slot;
    uint32_t id;
    uint8_t uuid[16];
    uint64_t size;
    bool claimed; /* some appender writes here; guarded by store.volumes_lock */

    pthread_mutex_t space_lock; /* held while the file takes space or gives it back */
    pthread_mutex_t sync_lock; /* held while published needles are synced: of two at once only one is told of a loss */
    pthread_mutex_t lock; /* guards everything below, up to the delete log */
    _Atomic(enum volume_state) state; /* readers look at it without the lock */
    uint64_t tail;       /* everything before is published (written only by who has claimed it) */
    uint64_t next_seq;
    uint64_t synced_seq; /* durable up to here */
    uint64_t fid_max;
    uint64_t chunks;
    uint64_t payload_bytes;
    uint64_t live_bytes;
    uint64_t pad_bytes; /* between VOLUME_DATA_START and tail */
    uint64_t punched_bytes;
    uint64_t allocated;  /* the disk has space for everything before */
    uint64_t checkpoint_tail;
    uint64_t checkpoint_ns; /* monotonic */
    bool changed;           /* since the last checkpoint */
    bool failure_recorded;  /* FAIL stands in the MANIFEST */
    uint64_t damaged_fid;    /* of a damaged needle that keeps the volume from being compacted, or 0 */
    uint64_t damaged_offset; /* where it is */
    uint64_t delete_room;    /* so many more records the delete log takes without asking for space */

    /* Readers count themselves in readers[epoch]. A punch waits until those of its epoch have left; nobody can find a
     * dead needle after the epoch has moved on. */
    unsigned epoch;
    uint64_t readers[2];
    struct punch_list waiting; /* for the next epoch */
    struct punch_list leaving; /* for readers[!epoch] == 0 */
    uint64_t punched_seq;      /* deletes up to here have been punched */

    pthread_mutex_t delete_lock; /* guards the delete log, held during its I/O; blocks count from 0 */
    uint64_t delete_allocated;   /* bytes that the disk has set aside for it */
    uint64_t delete_end;         /* first block behind all that hold anything */
    uint64_t delete_open;        /* block that is not full, or DELETE_NO_BLOCK */
    uint64_t delete_spare;       /* block whose records all stand in others too, or DELETE_NO_BLOCK */
    uint64_t delete_open_records;
    uint64_t delete_next_seq;
    bool delete_named;   /* the file's name is durable */
    bool delete_lacking; /* less is set aside than was asked for */
    bool delete_failed;
    bool delete_in_doubt; /* the last append failed, but its records may be on the disk */
};

void volume_name(char name[VOLUME_NAME_BYTES], uint32_t id, const char *suffix);
/* The id when name is v<id><suffix>, else 0. */
uint32_t volume_id_of(const char *name, const char *suffix);

/* An object without a file; NULL when out of memory. Ended by volume_free. */
struct volume *volume_new(const struct engine_io *io, int directory, uint32_t id);
void volume_free(struct volume *volume);

/* Removes the volume's file and everything that belongs to it. 0 when none of it is left, durable after a sync of the
 * directory. */
int volume_remove(const struct engine_io *io, int directory, uint32_t id);

/* Makes the file under a temporary name, which the next open removes, with space up to allocated, and syncs it; beside
 * it the delete log, with space for so many chunks. On failure nothing remains. */
int volume_prepare(struct volume *volume, const struct identity *owner, uint64_t size, uint64_t allocated,
                   uint64_t chunks, engine_error *error);
/* Gives a prepared file its name, durably. */
int volume_publish(struct volume *volume, engine_error *error);
/* Closes and removes a prepared file. 0, or -1 when it may come back. */
int volume_withdraw(struct volume *volume);
/* Both in one. On failure nothing remains. */
int volume_create(struct volume *volume, const struct identity *owner, uint64_t size, uint64_t allocated,
                  uint64_t chunks, engine_error *error);
/* A further descriptor of the volume's file, or -1 and errno. A volume that a compaction has made counts before its file
 * has its own name, and keeps the temporary one if it could not get it or the store may not be changed. */
int volume_open_file(const struct volume *volume, int flags);
/* Opens the file and reads its superblock. CORRUPT when neither copy is valid or it is of another disk; MISMATCH when it
 * is of a newer format. *short_file: the file ends before the volume does. */
int volume_open(struct volume *volume, const struct identity *owner, bool *short_file, engine_error *error);

/* Whether these BLOCK_BYTES are a copy of this volume's superblock. */
bool volume_superblock_is_valid(const struct volume *volume, const uint8_t *block);

/* Takes space from the disk up to end (a multiple of VOLUME_ALLOCATION_UNIT, or the size). 0, or -1 and errno: EROFS
 * when the volume takes no chunks any more. */
int volume_allocate(struct volume *volume, uint64_t end);
/* Gives back what lies behind the tail of a volume that nobody writes meanwhile. */
void volume_give_back(struct volume *volume);

/* Reads bytes for a verified read; past the page cache when the volume has failed. 0 or -1 and errno. */
int volume_readv(struct volume *volume, const struct iovec *parts, int count, uint64_t offset);

/* Between these two the blocks of a needle that was in the index stay. */
void volume_pin(struct volume *volume, unsigned *epoch);
/* True when this was the last reader that a punch waits for. */
bool volume_unpin(struct volume *volume, unsigned epoch);

/* Books a dead needle and queues its blocks for volume_punch. delete_seq 0: only book. */
void volume_bury(struct volume *volume, const struct punch *punch);
/* Returns the blocks of dead needles that nobody reads any more; true when some still wait. */
bool volume_punch(struct volume *volume);

/* Closes the file of a volume that is gone once nobody reads it any more; true when it is closed. */
bool volume_release(struct volume *volume);

bool volume_is_writable(const struct volume *volume);
/* Takes volume.lock. False once compaction has replaced it. */
bool volume_is_there(struct volume *volume);

#endif
