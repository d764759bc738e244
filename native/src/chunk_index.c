#include "chunk_index.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "needle.h"

#define SHARDS CHUNK_INDEX_SHARDS
#define CAPACITY_MIN 8u
#define PAGE_BYTES 4096u /* the smallest page of any machine: a larger one is only written more than once */
#define LOAD_PERCENT_MAX 88u
#define HEADER_UNIT_BITS 12 /* header length in 64-byte units; the slot has the other 20 bits */

/* fid 0 marks a free entry. Two halves keep the entry at 28 bytes without packing. */
struct entry {
    uint32_t fid_low;
    uint32_t fid_high;
    uint32_t offset_units;
    uint32_t slot_and_header;
    uint32_t length;
    uint32_t crc32c;
    uint32_t created_s;
};

struct shard {
    pthread_mutex_t lock;
    struct entry *entries;
    uint32_t capacity;
    uint32_t count;
    uint32_t reserved;
};

struct chunk_index {
    struct shard shards[SHARDS];
};

/* The finaliser of splitmix64: fids come in rows, their places must not. */
static uint64_t mix(uint64_t fid)
{
    fid ^= fid >> 30;
    fid *= 0xbf58476d1ce4e5b9u;
    fid ^= fid >> 27;
    fid *= 0x94d049bb133111ebu;
    return fid ^ (fid >> 31);
}

uint32_t chunk_index_shard(uint64_t fid)
{
    return (uint32_t)(mix(fid) >> (64 - CHUNK_INDEX_SHARD_LOG2));
}

static struct shard *shard_of(struct chunk_index *index, uint64_t fid)
{
    return &index->shards[chunk_index_shard(fid)];
}

/* Maps the low hash bits onto 0 .. capacity-1 by multiplication, so capacity need not be a power of two. */
static uint32_t home_of(const struct shard *shard, uint64_t fid)
{
    return (uint32_t)(((mix(fid) & 0xffffffffu) * shard->capacity) >> 32);
}

static uint64_t fid_of(const struct entry *entry)
{
    return (uint64_t)entry->fid_low | ((uint64_t)entry->fid_high << 32);
}

static void pack(struct entry *entry, const struct chunk_place *place)
{
    entry->fid_low = (uint32_t)place->fid;
    entry->fid_high = (uint32_t)(place->fid >> 32);
    entry->offset_units = (uint32_t)(place->offset / NEEDLE_ALIGNMENT);
    entry->slot_and_header = (place->slot << HEADER_UNIT_BITS) | (place->header_length / NEEDLE_ALIGNMENT);
    entry->length = place->length;
    entry->crc32c = place->crc32c;
    entry->created_s = place->created_s;
}

static void unpack(const struct entry *entry, struct chunk_place *place)
{
    place->fid = fid_of(entry);
    place->offset = (uint64_t)entry->offset_units * NEEDLE_ALIGNMENT;
    place->slot = entry->slot_and_header >> HEADER_UNIT_BITS;
    place->header_length = (entry->slot_and_header & ((1u << HEADER_UNIT_BITS) - 1)) * NEEDLE_ALIGNMENT;
    place->length = entry->length;
    place->crc32c = entry->crc32c;
    place->created_s = entry->created_s;
}

struct chunk_index *chunk_index_new(void)
{
    struct chunk_index *index = calloc(1, sizeof *index);
    if (index == NULL)
        return NULL;
    for (uint32_t i = 0; i < SHARDS; i++) {
        if (pthread_mutex_init(&index->shards[i].lock, NULL) != 0) {
            while (i-- > 0)
                pthread_mutex_destroy(&index->shards[i].lock);
            free(index);
            return NULL;
        }
    }
    return index;
}

void chunk_index_free(struct chunk_index *index)
{
    if (index == NULL)
        return;
    for (uint32_t i = 0; i < SHARDS; i++) {
        free(index->shards[i].entries);
        pthread_mutex_destroy(&index->shards[i].lock);
    }
    free(index);
}

/* The entry of fid, or the free entry where it would go; NULL in a shard without a table. Ends because a table always
 * has free entries (load <= 0.88). */
static struct entry *find(const struct shard *shard, uint64_t fid)
{
    if (shard->capacity == 0)
        return NULL;
    uint32_t at = home_of(shard, fid);
    for (;;) {
        struct entry *entry = &shard->entries[at];
        uint64_t there = fid_of(entry);
        if (there == fid || there == 0)
            return entry;
        at = at + 1 == shard->capacity ? 0 : at + 1;
    }
}

/* Writes to each page of a new table. find() reads before it writes, and a page that was read first is the shared page of
 * zeros: replacing it later would stop the other processors for a moment, page by page (half of the time that opening
 * takes). */
static void own_pages(void *table, size_t size)
{
    volatile uint8_t *bytes = table;
    for (size_t at = 0; at < size; at += PAGE_BYTES)
        bytes[at] = 0;
}

static bool resize(struct shard *shard, uint64_t capacity)
{
    uint32_t before = shard->capacity;
    struct entry *old = shard->entries;
    if (capacity > UINT32_MAX)
        return false;
    struct entry *entries = calloc((size_t)capacity, sizeof *entries);
    if (entries == NULL)
        return false;
    own_pages(entries, (size_t)capacity * sizeof *entries);
    shard->entries = entries;
    shard->capacity = (uint32_t)capacity;
    for (uint32_t i = 0; i < before; i++)
        if (fid_of(&old[i]) != 0)
            *find(shard, fid_of(&old[i])) = old[i];
    free(old);
    return true;
}

/* Room for one more. */
static bool make_room(struct shard *shard)
{
    while (((uint64_t)shard->count + shard->reserved + 1) * 100 > (uint64_t)shard->capacity * LOAD_PERCENT_MAX) {
        uint32_t before = shard->capacity;
        if (!resize(shard, before < CAPACITY_MIN ? CAPACITY_MIN : (uint64_t)before + before / 5 + 2))
            return false;
    }
    return true;
}

bool chunk_index_get(struct chunk_index *index, uint64_t fid, struct chunk_place *place, chunk_visitor while_locked,
                     void *argument)
{
    struct shard *shard = shard_of(index, fid);
    pthread_mutex_lock(&shard->lock);
    const struct entry *entry = find(shard, fid);
    bool found = fid != 0 && entry != NULL && fid_of(entry) == fid;
    if (found) {
        unpack(entry, place);
        if (while_locked != NULL)
            while_locked(argument, place);
    }
    pthread_mutex_unlock(&shard->lock);
    return found;
}

bool chunk_index_reserve(struct chunk_index *index, uint64_t fid)
{
    struct shard *shard = shard_of(index, fid);
    pthread_mutex_lock(&shard->lock);
    bool ready = make_room(shard);
    if (ready)
        shard->reserved++;
    pthread_mutex_unlock(&shard->lock);
    return ready;
}

void chunk_index_unreserve(struct chunk_index *index, uint64_t fid)
{
    struct shard *shard = shard_of(index, fid);
    pthread_mutex_lock(&shard->lock);
    if (shard->reserved > 0)
        shard->reserved--;
    pthread_mutex_unlock(&shard->lock);
}

bool chunk_index_put(struct chunk_index *index, const struct chunk_place *place, struct chunk_place *before)
{
    struct shard *shard = shard_of(index, place->fid);
    pthread_mutex_lock(&shard->lock);
    struct entry *entry = find(shard, place->fid);
    bool replaced = fid_of(entry) == place->fid;
    if (replaced)
        unpack(entry, before);
    else
        shard->count++;
    pack(entry, place);
    if (shard->reserved > 0)
        shard->reserved--;
    pthread_mutex_unlock(&shard->lock);
    return replaced;
}

bool chunk_index_expect(struct chunk_index *index, uint64_t count)
{
    /* Shards differ by chance; the few that get more than 2 % above their share grow by themselves. */
    uint64_t share = count / SHARDS + count / SHARDS / 50 + 2;
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &index->shards[i];
        uint64_t capacity = (shard->count + share) * 100 / LOAD_PERCENT_MAX + 1;
        if (capacity > shard->capacity && capacity > CAPACITY_MIN && !resize(shard, capacity))
            return false;
    }
    return true;
}

void chunk_index_prefetch(struct chunk_index *index, uint64_t fid)
{
    const struct shard *shard = shard_of(index, fid);
    if (shard->capacity > 0)
        __builtin_prefetch(&shard->entries[home_of(shard, fid)], 1);
}

bool chunk_index_fill(struct chunk_index *index, const struct chunk_place *place, bool *replaced,
                      struct chunk_place *before)
{
    struct shard *shard = shard_of(index, place->fid);
    if (!make_room(shard))
        return false;
    struct entry *entry = find(shard, place->fid);
    *replaced = fid_of(entry) == place->fid;
    if (*replaced)
        unpack(entry, before);
    else
        shard->count++;
    pack(entry, place);
    return true;
}

bool chunk_index_move(struct chunk_index *index, const struct chunk_place *from, const struct chunk_place *to)
{
    struct shard *shard = shard_of(index, from->fid);
    bool moved = false;
    pthread_mutex_lock(&shard->lock);
    struct entry *entry = find(shard, from->fid);
    if (from->fid != 0 && entry != NULL && fid_of(entry) == from->fid) {
        struct chunk_place now;
        unpack(entry, &now);
        moved = now.slot == from->slot && now.offset == from->offset;
        if (moved)
            pack(entry, to);
    }
    pthread_mutex_unlock(&shard->lock);
    return moved;
}

/* Closes the gap at entry: whatever was pushed past its home by it moves back. */
static void close_gap(struct shard *shard, uint32_t gap)
{
    uint32_t at = gap;
    for (;;) {
        at = at + 1 == shard->capacity ? 0 : at + 1;
        struct entry *entry = &shard->entries[at];
        if (fid_of(entry) == 0)
            break;
        uint32_t home = home_of(shard, fid_of(entry));
        /* It may stay if its home lies cyclically in (gap, at]. */
        bool stays = gap < at ? (home > gap && home <= at) : (home > gap || home <= at);
        if (!stays) {
            shard->entries[gap] = *entry;
            gap = at;
        }
    }
    memset(&shard->entries[gap], 0, sizeof shard->entries[gap]);
}

bool chunk_index_remove(struct chunk_index *index, uint64_t fid, uint32_t slot, uint64_t offset,
                        struct chunk_place *place)
{
    struct shard *shard = shard_of(index, fid);
    bool removed = false;
    pthread_mutex_lock(&shard->lock);
    struct entry *entry = find(shard, fid);
    if (fid != 0 && entry != NULL && fid_of(entry) == fid) {
        unpack(entry, place);
        if (place->slot == slot && place->offset == offset) {
            close_gap(shard, (uint32_t)(entry - shard->entries));
            shard->count--;
            removed = true;
        }
    }
    pthread_mutex_unlock(&shard->lock);
    return removed;
}

void chunk_index_visit(struct chunk_index *index, chunk_visitor visit, void *argument)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &index->shards[i];
        pthread_mutex_lock(&shard->lock);
        for (uint32_t at = 0; at < shard->capacity; at++) {
            if (fid_of(&shard->entries[at]) != 0) {
                struct chunk_place place;
                unpack(&shard->entries[at], &place);
                visit(argument, &place);
            }
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

uint64_t chunk_index_count(struct chunk_index *index)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&index->shards[i].lock);
        count += index->shards[i].count;
        pthread_mutex_unlock(&index->shards[i].lock);
    }
    return count;
}

uint64_t chunk_index_bytes(struct chunk_index *index)
{
    uint64_t bytes = sizeof *index;
    for (uint32_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&index->shards[i].lock);
        bytes += (uint64_t)index->shards[i].capacity * sizeof(struct entry);
        pthread_mutex_unlock(&index->shards[i].lock);
    }
    return bytes;
}
