/*
 * Index of live chunks in memory: fid -> place, at most 40 bytes per chunk.
 *
 * 256 shards with a lock each; a shard is an open-addressing table with linear probing, entries of 28 bytes, grown by a
 * fifth at a load of 0.88 (so 32-39 bytes per chunk once the shards have left their first few entries), and deletion by
 * shifting back, so that a table never fills with marks of what was deleted.
 */
#ifndef SPEEDY_CHUNK_INDEX_H
#define SPEEDY_CHUNK_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK_INDEX_SHARD_LOG2 8
#define CHUNK_INDEX_SHARDS (1u << CHUNK_INDEX_SHARD_LOG2)
#define CHUNK_SLOT_MAX ((1u << 20) - 1) /* highest volume slot that an entry can name */

struct chunk_place {
    uint64_t fid;
    uint64_t offset; /* of the needle; multiple of 64, below 2^38 */
    uint32_t slot;   /* of the volume in the store's table */
    uint32_t header_length;
    uint32_t length;
    uint32_t crc32c;
    uint32_t created_s;
};

struct chunk_index;

/* Called with the shard locked: must be short and must not call the index. */
typedef void (*chunk_visitor)(void *argument, const struct chunk_place *place);

struct chunk_index *chunk_index_new(void);
void chunk_index_free(struct chunk_index *index);

/* while_locked (may be NULL) runs before anyone can remove the entry: the moment to pin its volume. */
bool chunk_index_get(struct chunk_index *index, uint64_t fid, struct chunk_place *place, chunk_visitor while_locked,
                     void *argument);

/* Makes sure that one chunk_index_put of this fid cannot fail; false when out of memory. */
bool chunk_index_reserve(struct chunk_index *index, uint64_t fid);
void chunk_index_unreserve(struct chunk_index *index, uint64_t fid);
/* Uses up a reservation. True when the fid was there already: *before is then its place until now. */
bool chunk_index_put(struct chunk_index *index, const struct chunk_place *place, struct chunk_place *before);

/* The number of the fid's shard, below CHUNK_INDEX_SHARDS. */
uint32_t chunk_index_shard(uint64_t fid);

/* For a store that is being opened; no lock is taken. Several threads may fill at once, each its own shards. expect makes
 * room for so many more chunks at once, prefetch tells that a fid will be filled in soon, and fill is chunk_index_put
 * without a reservation. expect and fill are false when out of memory. */
bool chunk_index_expect(struct chunk_index *index, uint64_t count);
void chunk_index_prefetch(struct chunk_index *index, uint64_t fid);
bool chunk_index_fill(struct chunk_index *index, const struct chunk_place *place, bool *replaced,
                      struct chunk_place *before);

/* Moves the fid to another place if it is still at this one; needs no reservation. */
bool chunk_index_move(struct chunk_index *index, const struct chunk_place *from, const struct chunk_place *to);

/* Removes the fid if it is still at this slot and offset. */
bool chunk_index_remove(struct chunk_index *index, uint64_t fid, uint32_t slot, uint64_t offset,
                        struct chunk_place *place);

/* Every entry, shard by shard, in no order. */
void chunk_index_visit(struct chunk_index *index, chunk_visitor visit, void *argument);
uint64_t chunk_index_count(struct chunk_index *index);
uint64_t chunk_index_bytes(struct chunk_index *index);

#endif
