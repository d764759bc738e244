/*
 * Speedy's storage engine: an append-only store of chunks in one directory of one disk.
 *
 * WHAT IS GUARANTEED
 *   - engine_put returns ENGINE_OK only after header and payload were written and fdatasync'ed (options.sync), in a
 *     volume whose file, directory entry and MANIFEST record were durable before. Until then the chunk is invisible.
 *   - engine_read never hands out a byte that was not compared with a CRC32C that was written with the chunk.
 *   - After any failed write or fsync the volume takes no write and no fsync again: after a failed fsync the page cache
 *     shows bytes that the disk does not have, and a second fsync would report success. Later chunks go elsewhere.
 *   - engine_delete is durable when it returns; the space goes back to the file system when the last reader has left. It
 *     works on a disk without a free block: room for its record is set aside before a chunk is stored.
 *   - Opening is bounded by the bytes written since the last checkpoint, and one bad volume never prevents it.
 * CAVEATS
 *   - The handle must be opened after fork() and closed by the process that opened it. Descriptors are O_CLOEXEC.
 *   - With options.sync = 0, chunks are durable only after engine_checkpoint or engine_close returned.
 *   - With options.read_only the store looks as recovery would leave it, but nothing is written; whatever would change
 *     it answers INVALID. LOCK is held all the same (if there is one): what another process changes cannot be read.
 *   - A fid that was deleted may be put again; that fids are never reused is the caller's promise.
 *
 * FILES (integers little-endian, CRC = CRC32C; file names use eight decimal digits for the volume id)
 *   DISK           identity, written once: two copies of a 4 KiB record, at 0 and 4096 (src/identity.c)
 *   LOCK           flock'ed while the store is open; empty
 *   MANIFEST       append log: create / seal / fail / quarantine / replace / compact volumes (src/manifest.c)
 *   v<id>.dat      volume: two superblocks, then needles (src/volume.c, src/needle.h)
 *   v<id>.ckp      sorted index of the volume up to a tail; .ckp.old is the one before (src/checkpoint.c)
 *   v<id>.del      delete log (src/delete_log.c)
 *   SCRUB          how far the scrub has come; disposable (src/scrub_cursor.c)
 *   *.tmp          unfinished; removed at open, but for a v<id>.dat.tmp that the MANIFEST says is a volume
 * Every log and every batch of needles starts its appends on a 4 KiB boundary, so that a torn write cannot hit a sector
 * that holds something acknowledged. Validity of a needle and the reader's algorithm: src/needle.h and src/recovery.c.
 *
 * READING THEM without this program: a volume is there if v<id>.dat is and MANIFEST does not call it replaced. Of its two
 * superblocks the first valid one counts. Its chunks are the valid needles that are neither PAD nor named (fid and offset,
 * or fid and offset 0) in its delete log; checkpoints only save the scan. Of two copies of a fid the one in the volume with the higher id, and
 * within a volume at the higher offset, counts: it was written over a damaged one. Nothing needs LOCK to be read.
 * tests/native/oracle.py is such a reader.
 *
 * THREADS. Every function may be called from any thread at any time, except engine_free, which must be the last call.
 * To a store belong its appenders (the only writers of volumes that take chunks: options.appenders threads, in whose place
 * a caller works when nothing else is being written), the keeper (checkpoints, punching, sealing, preparing the next
 * volume) and the compactor (moving live chunks out of volumes that are mostly dead).
 *
 * STATUS. Functions return an engine_status and describe failures in *error (never NULL, owned by the caller).
 */
#ifndef SPEEDY_ENGINE_H
#define SPEEDY_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* build_engine.py gives the text between the two marks to cffi: declarations only, no preprocessor beyond constants. */
/* cdef: begin */

#define ENGINE_FORMAT 1
#define ENGINE_CHUNK_BYTES_MAX 67108864
#define ENGINE_ITERATE_MAX 65536
#define ENGINE_RANGES_MAX 65536
#define ENGINE_PUT_MANY_MAX 4096
#define ENGINE_DAMAGE_WHAT_BYTES 96

enum engine_status {
    ENGINE_OK = 0,
    ENGINE_NOT_FOUND = 1,   /* no such fid */
    ENGINE_EXISTS = 2,      /* the fid is taken by other bytes */
    ENGINE_CORRUPT = 3,     /* the stored copy cannot be read or fails its checksum; other copies may be good */
    ENGINE_CHECKSUM = 4,    /* the payload given to put does not match its crc32c: error->expected, error->actual */
    ENGINE_DISK_FULL = 5,   /* no space above the reserve; deletes still work */
    ENGINE_FAILED = 6,      /* fail-stop after an I/O error; this call is not acknowledged */
    ENGINE_BUSY = 7,        /* too many bytes wait to be written, or no descriptor is left; try again later */
    ENGINE_LOCKED = 8,      /* another process has the directory open */
    ENGINE_MISMATCH = 9,    /* other cluster, newer format, or not a store */
    ENGINE_RANGE = 10,      /* a range beyond the end of the chunk, or a chunk above ENGINE_CHUNK_BYTES_MAX */
    ENGINE_INVALID = 11,    /* an argument that is never valid: fid 0, sizes that contradict */
    ENGINE_NO_MEMORY = 12,
    ENGINE_CLOSED = 13
};

enum engine_state {
    ENGINE_STATE_RW = 0,
    ENGINE_STATE_RO_FULL = 1,
    ENGINE_STATE_FAILED = 2
};

enum engine_volume_state {
    ENGINE_VOLUME_STANDBY = 0,      /* empty, prepared ahead */
    ENGINE_VOLUME_ACTIVE = 1,       /* takes chunks */
    ENGINE_VOLUME_CLOSING = 2,      /* full, about to be sealed */
    ENGINE_VOLUME_SEALED = 3,       /* final */
    ENGINE_VOLUME_FAILED = 4,       /* a write or sync failed: reads only */
    ENGINE_VOLUME_QUARANTINED = 5   /* lost acknowledged bytes, or damaged: what can be read is served */
};

enum engine_crc_kind {
    ENGINE_CRC_BEST = 0,
    ENGINE_CRC_TABLE = 1,
    ENGINE_CRC_SSE42 = 2,
    ENGINE_CRC_ISAL = 3
};

enum engine_digest_kind {
    ENGINE_SHA256 = 1,
    ENGINE_SHA512 = 2
};

typedef struct engine_error {
    int32_t code;           /* engine_status */
    int32_t os_error;       /* errno, or 0 */
    uint32_t expected;      /* ENGINE_CHECKSUM: the caller's CRC */
    uint32_t actual;        /* ENGINE_CHECKSUM: the payload's CRC */
    char detail[240];       /* one line, zero-terminated */
} engine_error;

typedef struct engine_options {
    uint64_t volume_size_first;     /* bytes; volumes double from here ... */
    uint64_t volume_size_max;       /* ... to here, or to 1/16 of the file system */
    uint64_t reserve_bytes;         /* file-system bytes never used for volumes; UINT64_MAX: two volumes of the size that
                                     * the next one has, but at most 1/16 and at least 1 % of the file system */
    uint64_t queue_bytes_max;       /* bytes waiting in engine_put before it answers ENGINE_BUSY */
    uint64_t checkpoint_bytes;      /* appended bytes between two checkpoints of a volume */
    double checkpoint_s;            /* seconds between two checkpoints of a changed volume */
    double queue_timeout_s;         /* how long a put may wait for its turn before ENGINE_BUSY */
    double lock_timeout_s;          /* how long open waits for the process before us to leave */
    double compact_below;           /* sealed volumes with a smaller live share are compacted by themselves; 0: never */
    double compact_every_s;         /* seconds between two looks for them */
    uint64_t compact_bytes_s;       /* that compacting by itself may write a second; 0: no bound */
    uint32_t appenders;             /* threads that write at once, each to another volume; 1 to 8 */
    int32_t sync;                   /* 0: do not fdatasync before acknowledging */
    int32_t create;                 /* 0: refuse a directory without a store (an unmounted mount point) */
    int32_t read_only;              /* 1: change nothing, not a byte: no recovery, no checkpoint; implies create = 0 */
    uint8_t cluster_id[16];
} engine_options;

typedef struct engine_chunk {
    uint64_t fid;
    uint64_t offset;        /* of the needle in its volume */
    uint32_t volume;        /* id */
    uint32_t length;        /* payload bytes */
    uint32_t crc32c;        /* of the payload */
    uint32_t created_s;     /* Unix time */
} engine_chunk;

/* One volume; live + dead + pad + free == size. */
typedef struct engine_volume {
    uint32_t id;
    uint32_t state;             /* engine_volume_state */
    uint8_t uuid[16];
    uint64_t size_bytes;
    uint64_t tail;              /* needles lie before it */
    uint64_t chunks;            /* live */
    uint64_t payload_bytes;     /* of live chunks */
    uint64_t live_bytes;
    uint64_t dead_bytes;
    uint64_t pad_bytes;
    uint64_t free_bytes;
    uint64_t allocated_bytes;   /* as in engine_stats */
    uint64_t punched_bytes;
    uint64_t fid_max;
} engine_volume;

/* The live chunks with 2^span_log2 fids from first_fid on. */
typedef struct engine_range_digest {
    uint64_t first_fid;
    uint64_t chunks;
    uint64_t payload_bytes;
    uint64_t halves[2];         /* over fid, length and CRC of each; definition in src/range_digest.c */
} engine_range_digest;

/* A chunk to store, of engine_put_many. */
typedef struct engine_item {
    uint64_t fid;
    const void *payload;
    size_t length;
    uint32_t crc32c;
    int32_t status;         /* engine_status, set by the call */
} engine_item;

/* For every volume: live + dead + pad + free == its size; the four sums are below. */
typedef struct engine_stats {
    uint64_t chunks;
    uint64_t payload_bytes;         /* of live chunks */
    uint64_t live_bytes;            /* live needles with headers and rounding */
    uint64_t dead_bytes;            /* deleted needles; their payload blocks may have been returned already */
    uint64_t pad_bytes;             /* superblocks, alignment, holes, unused ends of closed volumes */
    uint64_t volume_free_bytes;     /* not yet written in volumes that still take chunks */
    uint64_t volume_bytes;          /* sizes of all volumes */
    uint64_t allocated_bytes;       /* of volume_bytes, taken from the file system; volumes take space as they fill */
    uint64_t punched_bytes;         /* of dead_bytes, returned to the file system */
    uint64_t free_bytes;            /* usable for new chunks: allocated and not written + file system above the reserve */
    uint64_t total_bytes;           /* allocated_bytes - punched_bytes + file system above the reserve */
    uint64_t reserve_bytes;
    uint64_t fid_max;               /* highest fid ever stored here, deleted ones included */
    uint64_t appends;
    uint64_t batches;
    uint64_t syncs;
    uint64_t deletes;
    uint64_t reads;
    uint64_t corrupt_reads;
    uint64_t checkpoints;
    uint64_t checkpoint_failures;
    uint64_t compactions;           /* volumes made by compacting, and empty ones removed */
    uint64_t compaction_failures;
    uint64_t compacted_bytes;       /* that compacting has written */
    uint64_t given_back_bytes;      /* to the file system, by compacting */
    uint64_t queued_bytes;
    uint64_t index_bytes;           /* memory of the index */
    uint64_t scrubbed_bytes;        /* read by the scrub */
    uint64_t scrub_damaged;         /* found by the scrub and not yet deleted, put again or found good */
    uint64_t scrub_rounds;          /* that have ended, ever */
    uint64_t scrub_offset;          /* the scrub's cursor in ... */
    uint32_t scrub_volume;          /* ... this volume */
    uint32_t volumes;
    uint32_t volumes_failed;
    uint32_t volumes_quarantined;
    uint32_t unknown_files;         /* in the directory, left alone */
    uint32_t damaged_records;       /* in MANIFEST and delete logs, skipped at open */
    uint32_t state;                 /* engine_state */
} engine_stats;

/* How far the scrub is: in the round under way, or in the last one. */
typedef struct engine_scrub {
    uint64_t round;             /* counts from 1; 0: there was none yet */
    uint64_t started_us;        /* Unix time; 0: never */
    uint64_t ended_us;          /* when the last whole round ended */
    uint64_t total_bytes;       /* live needles when the round began */
    uint64_t checked_bytes;     /* of them; fewer in the end when chunks were deleted meanwhile */
    uint64_t checked_chunks;
    uint64_t damaged;           /* found in this round */
    uint64_t offset;            /* the next needle to check is here or behind ... */
    uint32_t volume;            /* ... in this volume */
    int32_t active;             /* 1: a round is under way */
    double wait_s;              /* of engine_scrub_step: until the rate allows the next step */
} engine_scrub;

typedef struct engine_damage {
    uint64_t fid;               /* 0: the volume's superblock */
    uint64_t offset;
    uint64_t found_s;           /* Unix time */
    uint32_t volume;
    uint32_t length;            /* payload bytes */
    char what[96];              /* one line, zero-terminated */
} engine_damage;

/* How far engine_verify has come in a volume. */
typedef struct engine_verification {
    uint64_t offset;            /* in and out: 0 to begin; the needles before it have been verified */
    uint64_t read_bytes;        /* this and what follows: by this call */
    uint64_t checked_bytes;     /* live needles */
    uint64_t checked_chunks;
    uint32_t damaged;           /* places that were written to the caller's list */
    int32_t ended;              /* 1: the volume has no needle behind */
} engine_verification;

typedef struct engine_compaction_terms {
    double below;               /* live share of the space that a volume takes; 0 < below <= 1 */
    uint64_t bytes_s;           /* that may be written a second; 0: no bound */
    const uint32_t *volumes;    /* ids, the caller's: only these, and these whatever their live share is; NULL: all */
    size_t volume_count;
} engine_compaction_terms;

typedef struct engine_compaction {
    uint64_t chunks_copied;
    uint64_t bytes_copied;          /* written, headers and rounding included */
    uint64_t bytes_given_back;      /* to the file system, less what the new volumes take */
    uint32_t volumes_removed;
    uint32_t volumes_made;
    uint32_t volumes_damaged;       /* left as they are: they hold a damaged chunk, until it is replaced or deleted */
    uint32_t stopped;               /* 1: ended before everything was done */
} engine_compaction;

typedef struct engine_store engine_store;
typedef struct engine_digest engine_digest;

/* Opens the store in an existing directory, creating it there when the directory holds none. The handle is owned by
 * the caller, who ends it with engine_free. LOCKED, MISMATCH, DISK_FULL, FAILED, INVALID. */
int engine_open(const char *directory, const engine_options *options, engine_store **store, engine_error *error);

/* Stores a chunk and returns when it is durable. payload is read until the call returns, never after, never copied.
 * Safe to repeat: a fid that already holds these bytes answers OK after they were read back and verified; if the stored
 * copy is damaged this one replaces it. EXISTS, CHECKSUM, BUSY, DISK_FULL, FAILED (also when a delete of this fid failed
 * and may yet hold), RANGE (too long), INVALID. */
int engine_put(engine_store *store, uint64_t fid, const void *payload, size_t length, uint32_t crc32c,
               engine_error *error);

/* Like engine_put for up to ENGINE_PUT_MANY_MAX chunks, which wait for their syncs together. items[i].status and errors[i]
 * (as many, the caller's) tell about each; the answer is the first status that is not OK. Not atomic: others are stored. */
int engine_put_many(engine_store *store, engine_item *items, size_t count, engine_error *errors);

/* Fills buffer with payload[offset, offset + length), verified: a whole chunk by the index's CRC, a part by its header and
 * the blocks that it touches. *crc32c, when asked for (not NULL), is the CRC-32C of what is in the buffer now, taken from
 * there while it was still near. On failure both are undefined. NOT_FOUND, RANGE, CORRUPT. */
int engine_read(engine_store *store, uint64_t fid, uint64_t offset, void *buffer, size_t length, uint32_t *crc32c,
                engine_error *error);

/* Describes a chunk, from memory. NOT_FOUND. */
int engine_info(engine_store *store, uint64_t fid, engine_chunk *chunk, engine_error *error);

/* Removes a chunk durably; *removed is 0 when there was none. Safe to repeat. A copy in a volume that could not be read at
 * the opening is deleted, too: it does not come back with it. FAILED, also when that cannot be recorded (the detail names
 * the volume, and nothing is changed); DISK_FULL only where the file system cannot set space aside. */
int engine_delete(engine_store *store, uint64_t fid, int *removed, engine_error *error);

/* Up to limit (at most ENGINE_ITERATE_MAX) chunks with fid > after_fid in ascending order; *count is less than limit
 * only at the end. Chunks put or deleted meanwhile may or may not appear. */
int engine_iterate(engine_store *store, uint64_t after_fid, engine_chunk *chunks, size_t limit, size_t *count,
                   engine_error *error);

/* The volumes that can be read, in no order, up to limit; *count is how many there are, which may be more. */
int engine_volumes(engine_store *store, engine_volume *volumes, size_t limit, size_t *count, engine_error *error);

/* Up to limit (at most ENGINE_ITERATE_MAX) live chunks of a volume with offset > after_offset in ascending order of
 * offset; *count is less than limit only at the end. From memory. NOT_FOUND: no such volume. */
int engine_needles(engine_store *store, uint32_t volume, uint64_t after_offset, engine_chunk *chunks, size_t limit,
                   size_t *count, engine_error *error);

/* Digests of count (1 to ENGINE_RANGES_MAX) ranges of 2^span_log2 (0 to 63) fids each, from first_fid on, which is a
 * multiple of that: equal in two stores if and only if (but for one chance in 2^128) they hold the same chunks there.
 * From memory, one pass over the index; chunks put or deleted meanwhile may or may not count. INVALID. */
int engine_range_digests(engine_store *store, uint64_t first_fid, uint32_t span_log2, engine_range_digest *digests,
                         size_t count, engine_error *error);

/* The scrub reads what is stored past the page cache and verifies header, every block and agreement with the index (and
 * both superblocks of each volume), so that decay is found while other copies are good. It goes in rounds over all live
 * chunks of the volumes that there are when a round begins; where it is outlives a restart. It holds nothing that puts,
 * reads, deletes or compaction wait for. What is found damaged is remembered, stays readable where it can be, and is
 * repaired by putting it again.
 *
 * Begins a new round, whether or not one is under way. */
int engine_scrub_start(engine_store *store, engine_error *error);

/* Goes on with the round under way until bytes_max have been read (a chunk is read whole), or the round is over, or the
 * rate of bytes_s bytes per second (0: as fast as it goes) over all steps is used up; *told says which. Does nothing when
 * no round is under way. Steps come one after the other, whoever asks. NO_MEMORY. */
int engine_scrub_step(engine_store *store, uint64_t bytes_max, uint64_t bytes_s, engine_scrub *told,
                      engine_error *error);

int engine_scrub_status(engine_store *store, engine_scrub *told, engine_error *error);

/* Verifies like the scrub, past the page cache, the live chunks of one volume that lie at told->offset or behind, until
 * about bytes_max have been read (a chunk is read whole), the volume has ended or limit (at least 2) damaged places were
 * found; from offset 0 on both superblocks too. Apart from the round of the scrub, but what it finds is remembered, or
 * forgotten, the same way. Calls come one after the other, whoever asks. NOT_FOUND: no such volume, or no more: compaction
 * has moved its chunks, after it had verified them. NO_MEMORY, INVALID. */
int engine_verify(engine_store *store, uint32_t volume, uint64_t bytes_max, engine_verification *told,
                  engine_damage *damage, size_t limit, engine_error *error);

/* What is known to be damaged in this process, in no order: up to limit, at most 1024 are kept. */
int engine_scrub_damage(engine_store *store, engine_damage *damage, size_t limit, size_t *count, engine_error *error);

int engine_stat(engine_store *store, engine_stats *stats, engine_error *error);

/* Makes everything acknowledged so far cheap to reopen, and returns the space of deleted chunks that nobody reads. */
int engine_checkpoint(engine_store *store, engine_error *error);

/*
 * Moves the live chunks out of volumes into new, tightly packed ones and removes the old, wherever the share of live bytes
 * in the space that the volume takes on the disk is smaller than terms->below, or from the volumes that terms names. Those
 * that take chunks are sealed for it, unless somebody writes to them. Everything else goes on meanwhile. May write into the
 * reserve. Damaged chunks are neither copied nor dropped: their volumes stay. *report says what was done, also after a
 * failure. BUSY: one is under way. DISK_FULL: no space for the live chunks of any such volume. FAILED.
 */
int engine_compact(engine_store *store, const engine_compaction_terms *terms, engine_compaction *report,
                   engine_error *error);

/* Makes an engine_compact in another thread end soon, with stopped set; what it has moved by then counts. */
int engine_compact_cancel(engine_store *store, engine_error *error);

/* Lets running calls end, writes what is queued, checkpoints and releases the directory. Idempotent. A failure is
 * reported after everything was released. Later calls answer CLOSED. */
int engine_close(engine_store *store, engine_error *error);

/* Closes if needed and frees. NULL is allowed. */
void engine_free(engine_store *store);

/* CRC32C (RFC 3720, Castagnoli) of data, continuing crc (0 at the start). */
uint32_t engine_crc32c(uint32_t crc, const void *data, size_t length);
/* CRC of A followed by B from the CRC of each and the length of B. */
uint32_t engine_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b);
/* 1 if this build and CPU have the implementation (engine_crc_kind). */
int engine_crc32c_has(int kind);
/* engine_crc32c by one implementation; kind must be one that engine_crc32c_has. */
uint32_t engine_crc32c_by(int kind, uint32_t crc, const void *data, size_t length);

#define ENGINE_DIGEST_STATE_BYTES 240
#define ENGINE_DIGEST_HEX_BYTES 129

/* SHA-256 / SHA-512 whose state can be stored and continued elsewhere. A digest belongs to one thread at a time.
 * new, copy and import return NULL when out of memory; import also for a state that is damaged or of another version. */
engine_digest *engine_digest_new(int kind);
engine_digest *engine_digest_copy(const engine_digest *digest);
engine_digest *engine_digest_import(const uint8_t *state, size_t length);
void engine_digest_free(engine_digest *digest);
int engine_digest_kind_of(const engine_digest *digest);
uint64_t engine_digest_length(const engine_digest *digest);
/* 0, or -1 when the message would pass 2^64 - 1 bytes. */
int engine_digest_update(engine_digest *digest, const void *data, size_t length);
/* Writes the hexadecimal digest, zero-terminated, of what was hashed so far; the state goes on. 0 or -1. */
int engine_digest_hex(const engine_digest *digest, char hex[129]);
/* Byte layout in src/digest.c. */
void engine_digest_export(const engine_digest *digest, uint8_t state[240]);

/* cdef: end */

#endif
