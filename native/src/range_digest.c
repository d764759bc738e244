/*
 * Digests over ranges of fids, so that two replicas find out cheaply where they differ: ask for few wide ranges, then
 * for narrow ones inside those that differ, then list.
 *
 * A range's digest is the sum (twice modulo 2^64, over two independent hashes) of the digests of its live chunks. A sum
 * does not depend on the order of its parts, so one pass over the unordered index gives all ranges at once; and a fid
 * appears at most once, so nothing cancels out. It guards against loss and decay, not against an adversary. With
 *      mix(x)   the finaliser of splitmix64
 *      facts    length * 2^32 + crc32c
 * a chunk's two halves are  mix(mix(fid + 0x9e3779b97f4a7c15) ^ facts)  and  mix(mix(fid + 0xc2b2ae3d27d4eb4f) + facts).
 * Replicas compare these between versions of this program: the definition may not change.
 */
#include <inttypes.h>
#include <string.h>

#include "failure.h"
#include "store.h"

struct summing {
    uint64_t first_fid;
    uint32_t span_log2;
    engine_range_digest *digests;
    size_t count;
};

static uint64_t mix(uint64_t value)
{
    value ^= value >> 30;
    value *= 0xbf58476d1ce4e5b9u;
    value ^= value >> 27;
    value *= 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static void add(void *argument, const struct chunk_place *place)
{
    const struct summing *summing = argument;
    if (place->fid < summing->first_fid)
        return;
    uint64_t number = (place->fid - summing->first_fid) >> summing->span_log2;
    if (number >= summing->count)
        return;
    engine_range_digest *digest = &summing->digests[number];
    uint64_t facts = ((uint64_t)place->length << 32) | place->crc32c;
    digest->chunks++;
    digest->payload_bytes += place->length;
    digest->halves[0] += mix(mix(place->fid + 0x9e3779b97f4a7c15u) ^ facts);
    digest->halves[1] += mix(mix(place->fid + 0xc2b2ae3d27d4eb4fu) + facts);
}

int engine_range_digests(engine_store *store, uint64_t first_fid, uint32_t span_log2, engine_range_digest *digests,
                         size_t count, engine_error *error)
{
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    if (span_log2 > 63 || count == 0 || count > ENGINE_RANGES_MAX)
        status = failure(error, ENGINE_INVALID, 0, "1 to %d ranges of at most 2^63 fids", ENGINE_RANGES_MAX);
    else if ((first_fid & (((uint64_t)1 << span_log2) - 1)) != 0 || count - 1 > (UINT64_MAX - first_fid) >> span_log2)
        status = failure(error, ENGINE_INVALID, 0,
                         "ranges of 2^%u fids from %" PRIu64 " on: not at a multiple, or beyond the last fid",
                         (unsigned)span_log2, first_fid);
    if (status != ENGINE_OK)
        return store_leave(store, status);
    struct summing summing = {first_fid, span_log2, digests, count};
    memset(digests, 0, count * sizeof digests[0]);
    for (size_t i = 0; i < count; i++)
        digests[i].first_fid = first_fid + ((uint64_t)i << span_log2);
    chunk_index_visit(store->index, add, &summing);
    return store_leave(store, ENGINE_OK);
}
