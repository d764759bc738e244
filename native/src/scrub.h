/* Scrubbing: reading what is stored again and again, so that decay is found while other copies are good. */
#ifndef SPEEDY_SCRUB_H
#define SPEEDY_SCRUB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "chunk_index.h"
#include "engine.h"
#include "io.h"
#include "volume.h"

#define SCRUB_BATCH_MAX 16384u /* needles taken from the index at a time */
#define SUPERBLOCKS 2u
#define SCRUB_DAMAGE_MAX 1024u /* kept by place; more are only counted */

/* What SCRUB keeps over a restart. Byte layout in scrub_cursor.c. */
struct scrub_cursor {
    uint64_t round; /* the one under way, or the last; 0: none ever */
    bool active;
    uint32_t volume; /* volumes before this id are done in this round, */
    uint64_t offset; /* and of this one the needles that begin before */
    uint32_t last_volume; /* what is made later belongs to the next round, so that a round ends */
    uint64_t started_us;
    uint64_t ended_us;
    uint64_t total_bytes; /* live needles when the round began */
    uint64_t checked_bytes;
    uint64_t checked_chunks;
    uint64_t damaged;
};

struct scrub {
    /* One step at a time; guards the batch, the tokens and what was saved when. Held during I/O, and nobody but other
     * scrub calls waits for it. */
    pthread_mutex_t work;
    struct chunk_place *places; /* owned; live when they were gathered */
    size_t count;
    size_t next;
    struct volume *volume; /* theirs; NULL without a batch */
    bool more;             /* the volume has needles behind the batch */
    double tokens;
    uint64_t filled_ns;
    uint64_t saved_ns;
    bool unsaved;

    pthread_mutex_t lock; /* guards what follows */
    struct scrub_cursor cursor;
    engine_damage *damage; /* owned; SCRUB_DAMAGE_MAX, NULL before the first */
    size_t damage_count;
    uint64_t damage_unlisted; /* of this round */

    atomic_uint_fast64_t read_bytes;
};

/* What engine_verify keeps between two calls. */
struct verifying {
    pthread_mutex_t work; /* one call at a time; guards the rest. Held during I/O */
    struct chunk_place *places; /* owned; NULL between two volumes */
    size_t count;
    size_t next;
    struct volume *volume; /* theirs */
    uint64_t offset;       /* behind the one that was verified last */
};

/* One volume being read past the page cache. Begins as {.direct = -1, .file = -1}. */
struct scrub_reading {
    struct volume *volume; /* NULL before the first */
    int direct;            /* -1 where O_DIRECT does not work */
    int file;              /* -1 when the volume cannot be opened */
    uint8_t *bytes;        /* owned, aligned: the window, [base, base + length) of the volume */
    uint64_t base;
    size_t length;
    uint64_t stop;       /* the window is not filled beyond */
    uint64_t read_bytes; /* from all volumes */
};

/* Turns to this volume; false when out of memory or descriptors. */
bool scrub_reading_open(struct scrub_reading *reading, struct volume *volume);
void scrub_reading_end(struct scrub_reading *reading);
/* Whether places[0] is good; otherwise what says why not. The others come next and may be read with it. The caller
 * keeps the blocks of places[0] from being given back meanwhile. */
bool scrub_reading_verify(struct scrub_reading *reading, const struct chunk_place *places, size_t count,
                          char what[ENGINE_DAMAGE_WHAT_BYTES]);
/* Whether this copy (0 or 1) of the volume's superblock is good. */
bool scrub_reading_superblock(struct scrub_reading *reading, unsigned copy, char what[ENGINE_DAMAGE_WHAT_BYTES]);

/* Leaves the cursor alone when there is no SCRUB of this disk that is whole. */
void scrub_cursor_load(const struct engine_io *io, int directory, const uint8_t disk_id[16],
                       struct scrub_cursor *cursor);
/* 0, or -1 and errno. */
int scrub_cursor_save(const struct engine_io *io, int directory, const uint8_t disk_id[16],
                      const struct scrub_cursor *cursor);

/* scrub_check.c. What is found damaged is remembered, what is good now forgotten; in_round: for the round under way. */
enum scrub_verdict {
    SCRUB_GOOD,
    SCRUB_DAMAGED, /* *found says how */
    SCRUB_GONE     /* deleted, or moved elsewhere: nobody will ask for it here */
};
/* places[0] of the volume that is being read; the others come next. */
enum scrub_verdict scrub_check_needle(engine_store *store, struct scrub_reading *reading,
                                      const struct chunk_place *places, size_t count, bool in_round,
                                      engine_damage *found);
/* Both copies are to be checked: with one of them gone nothing is lost yet. */
enum scrub_verdict scrub_check_superblock(engine_store *store, struct scrub_reading *reading, unsigned copy,
                                          bool in_round, engine_damage *found);

/* scrub_damage.c. in_round: counts as found by the round under way. */
void scrub_remember(struct scrub *scrub, const engine_damage *found, bool in_round);
/* A place that was damaged once and is good now: a read error that passed. */
void scrub_forget(struct scrub *scrub, uint32_t volume, uint64_t offset);
uint64_t scrub_damage_count(engine_store *store);

void scrub_init(struct scrub *scrub);
void scrub_destroy(struct scrub *scrub);
/* Goes on where the process before stopped; best effort. */
void scrub_open(engine_store *store);
/* When no call is in progress any more. */
void scrub_close(engine_store *store);
void scrub_fill_stats(engine_store *store, engine_stats *stats);

#endif
