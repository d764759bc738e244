#include "promises.h"

#include <string.h>

#include "bytes.h"
#include "engine_test.h"
#include "needle.h"
#include "store.h"

struct found {
    uint64_t chunks;
    uint64_t live_bytes;
    uint64_t hash; /* over fid, volume and offset of all */
};

static engine_store *open_store(const struct promises *promises, struct sim_disk *disk)
{
    engine_options options = workload_options(promises->workload);
    engine_store *store;
    engine_error error;
    int status = store_open_on(sim_disk_table(disk), "", &options, &store, &error);
    if (status != ENGINE_OK)
        fprintf(stderr, "open: %d %s\n", status, error.detail);
    CHECK(status == ENGINE_OK);
    return store;
}

/* False when the disk was too full for a checkpoint: nothing is lost, but the next opening has it to do. */
static bool close_store(engine_store *store)
{
    engine_error error;
    int status = engine_close(store, &error);
    CHECK(status == ENGINE_OK || status == ENGINE_DISK_FULL);
    engine_free(store);
    return status == ENGINE_OK;
}

static struct found list(engine_store *store)
{
    engine_chunk chunks[FIDS_ALL];
    struct found found = {0, 0, 0};
    engine_error error;
    size_t count;
    CHECK(engine_iterate(store, 0, chunks, FIDS_ALL, &count, &error) == ENGINE_OK);
    found.chunks = count;
    for (size_t i = 0; i < count; i++) {
        CHECK(i == 0 || chunks[i - 1].fid < chunks[i].fid);
        found.live_bytes += needle_footprint(chunks[i].length, needle_header_length(chunks[i].length, 0));
        found.hash = found.hash * 31 + chunks[i].fid;
        found.hash = found.hash * 31 + chunks[i].volume;
        found.hash = found.hash * 31 + chunks[i].offset;
    }
    return found;
}

/* Every fid, the sums, and the listing. */
static struct found compare(const struct promises *promises, engine_store *store, uint64_t later_position)
{
    uint8_t allowed_before[FIDS_ALL + 1];
    uint8_t allowed_later[FIDS_ALL + 1];
    engine_stats stats;
    engine_error error;
    uint64_t present = 0;
    ledger_allowed(promises->ledger, promises->position, allowed_before);
    ledger_allowed(promises->later, later_position, allowed_later);
    for (uint64_t fid = 1; fid <= FIDS_ALL; fid++) {
        uint8_t may_be = fid <= FIDS ? allowed_before[fid] : allowed_later[fid];
        int status = contents_get(promises->contents, store, fid);
        bool allowed = (status == ENGINE_OK && (may_be & MAY_BE_PRESENT) != 0) ||
                       (status == ENGINE_NOT_FOUND && (may_be & MAY_BE_ABSENT) != 0);
        if (!allowed)
            fprintf(stderr, "fid %u answers %d, allowed is %d\n", (unsigned)fid, status, may_be);
        CHECK(allowed);
        present += status == ENGINE_OK;
    }
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(stats.live_bytes + stats.dead_bytes + stats.pad_bytes + stats.volume_free_bytes == stats.volume_bytes);
    CHECK(stats.volumes_quarantined == 0);
    CHECK(promises->faulty || stats.volumes_failed == 0);
    CHECK(stats.chunks == present);
    struct found found = list(store);
    CHECK(found.chunks == present && found.live_bytes == stats.live_bytes);
    return found;
}

/* The names that end like this. */
struct names_wanted {
    const char *suffix;
    char names[64][32];
    size_t count;
};

static void want(void *argument, const char *name)
{
    struct names_wanted *wanted = argument;
    size_t length = strlen(name);
    size_t suffix = strlen(wanted->suffix);
    if (length < suffix || strcmp(name + length - suffix, wanted->suffix) != 0)
        return;
    CHECK(wanted->count < 64 && length < 32);
    strcpy(wanted->names[wanted->count++], name);
}

static void remove_all(struct sim_disk *disk, const char *suffix)
{
    struct names_wanted wanted = {.suffix = suffix, .count = 0};
    sim_disk_list(disk, want, &wanted);
    for (size_t i = 0; i < wanted.count; i++)
        sim_disk_remove(disk, wanted.names[i]);
}

static void damage_all(struct sim_disk *disk, const char *suffix, uint64_t chance)
{
    struct names_wanted wanted = {.suffix = suffix, .count = 0};
    sim_disk_list(disk, want, &wanted);
    for (size_t i = 0; i < wanted.count; i++) {
        uint64_t size = 0;
        CHECK(sim_disk_read(disk, wanted.names[i], 0, NULL, 0, &size));
        if (size > 0)
            sim_disk_flip(disk, wanted.names[i], (chance + i) * 0x9e3779b97f4a7c15u % (8 * size));
    }
}

#define VOLUMES_MAX 64

/* What the engine tells of its volumes. */
struct books {
    engine_volume volumes[VOLUMES_MAX];
    size_t count;
};

static void read_books(engine_store *store, struct books *books)
{
    engine_error error;
    CHECK(engine_volumes(store, books->volumes, VOLUMES_MAX, &books->count, &error) == ENGINE_OK);
    CHECK(books->count <= VOLUMES_MAX);
}

/* I7. Dead bytes are what live ones and padding leave over, so that they always add up: the padding has to be that which the
 * bytes show. */
static void compare_books(const struct books *books, uint32_t id, uint64_t tail, uint64_t pad_bytes)
{
    for (size_t i = 0; i < books->count; i++) {
        const engine_volume *volume = &books->volumes[i];
        if (volume->id != id)
            continue;
        uint64_t unused = volume->size_bytes - volume->tail;
        bool right = volume->tail == tail && volume->pad_bytes + volume->free_bytes == pad_bytes + unused;
        if (!right)
            fprintf(stderr, "volume %u: tail %u, padding %u expected\n", (unsigned)id, (unsigned)tail, (unsigned)pad_bytes);
        CHECK(right);
    }
}

/* From the bytes alone: needles begin at the end of the one before or on the next block, without a gap in seq; behind the
 * last one everything is zero. */
static void walk_volume(const struct promises *promises, struct sim_disk *disk, const char *name,
                        const struct books *books)
{
    uint8_t superblock[BLOCK_BYTES];
    uint64_t file_size;
    CHECK(sim_disk_read(disk, name, 0, superblock, sizeof superblock, &file_size));
    uint64_t size = load_u64(superblock + 80);
    CHECK(file_size >= size && size <= ((uint64_t)8 << 20));
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL && sim_disk_read(disk, name, 0, bytes, size, &file_size));
    uint64_t at = VOLUME_DATA_START;
    uint64_t seq = 1;
    uint64_t tail = at;
    uint64_t pad_bytes = VOLUME_DATA_START;
    while (at < size) {
        struct needle needle;
        size_t more;
        if (!needle_decode(bytes + at, size - at, superblock + 32, at, size, &needle, &more)) {
            uint64_t next = round_up(at, BLOCK_BYTES);
            if (next >= size || !needle_decode(bytes + next, size - next, superblock + 32, next, size, &needle, &more))
                break;
            at = next;
        }
        if (needle.seq != seq && promises->faulty)
            break; /* what a failed volume has behind its last acknowledged needle */
        CHECK(needle.seq == seq);
        CHECK(needle.synced_seq < needle.seq);
        uint64_t footprint = needle_footprint(needle.payload_length, needle.header_length);
        pad_bytes += at - tail + (needle.flags & NEEDLE_PAD ? footprint : 0);
        seq += needle.seq_span;
        at += footprint;
        tail = at;
    }
    if (!promises->faulty)
        compare_books(books, load_u32(superblock + 20), tail, pad_bytes);
    CHECK(promises->faulty || at >= size || all_zero(bytes + at, size - at));
    free(bytes);
}

static void walk_all(const struct promises *promises, struct sim_disk *disk, const struct books *books)
{
    struct names_wanted wanted = {.suffix = ".dat", .count = 0};
    sim_disk_list(disk, want, &wanted);
    for (size_t i = 0; i < wanted.count; i++)
        walk_volume(promises, disk, wanted.names[i], books);
}

/* Fids that the workloads do not use. What recovery covered and cleared, and did not sync in time, would spoil them. */
static void go_on(const struct promises *promises, engine_store *store, struct sim_disk *disk)
{
    engine_error error;
    int removed;
    for (uint64_t fid = FIDS + 1; fid <= FIDS_ALL; fid++) {
        size_t entry = ledger_begin(promises->later, false, fid, sim_disk_position(disk));
        int status = contents_put(promises->contents, store, fid);
        ledger_end(promises->later, entry, sim_disk_position(disk), status == ENGINE_OK);
        CHECK(status == ENGINE_OK || status == ENGINE_DISK_FULL);
        if (status != ENGINE_OK || fid % 4 != 0)
            continue;
        entry = ledger_begin(promises->later, true, fid, sim_disk_position(disk));
        status = engine_delete(store, fid, &removed, &error);
        ledger_end(promises->later, entry, sim_disk_position(disk), status == ENGINE_OK);
        CHECK(status == ENGINE_OK && removed == 1); /* however full the disk is */
    }
}

/* I6: of a chunk that lay there twice, as a repair leaves it that did not end, no copy may come up again. */
static void delete_all(engine_store *store)
{
    engine_chunk chunks[FIDS_ALL];
    engine_error error;
    size_t count;
    int removed;
    CHECK(engine_iterate(store, 0, chunks, FIDS_ALL, &count, &error) == ENGINE_OK);
    for (size_t i = 0; i < count; i++)
        CHECK(engine_delete(store, chunks[i].fid, &removed, &error) == ENGINE_OK && removed == 1);
}

/* False when a full disk refused the record of a volume that has its file: the next opening writes it. */
static bool has_recorded_all(engine_store *store, struct sim_disk *disk)
{
    struct names_wanted wanted = {.suffix = ".dat", .count = 0};
    engine_stats stats;
    engine_error error;
    sim_disk_list(disk, want, &wanted);
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    return stats.volumes_failed == 0 && stats.volumes == wanted.count;
}

bool promises_check(const struct promises *promises, struct sim_disk *disk, uint64_t later_position)
{
    engine_store *store = open_store(promises, disk);
    (void)compare(promises, store, later_position);
    go_on(promises, store, disk);
    bool recorded = has_recorded_all(store, disk);
    return close_store(store) && recorded;
}

void promises_check_deeply(const struct promises *promises, struct sim_disk *disk, bool complete, uint64_t variant)
{
    uint64_t changes = sim_disk_changes(disk);
    uint64_t position = sim_disk_position(disk);
    struct books books;
    engine_store *store = open_store(promises, disk);
    struct found before = compare(promises, store, UINT64_MAX - 1);
    read_books(store, &books);
    complete = close_store(store) && complete;
    if (complete && sim_disk_changes(disk) != changes)
        sim_disk_print(disk, position);
    CHECK(!complete || sim_disk_changes(disk) == changes);
    walk_all(promises, disk, &books);

    if (variant % 3 == 0)
        damage_all(disk, ".ckp", variant / 3);
    else
        remove_all(disk, ".ckp");
    if (variant % 3 == 1)
        remove_all(disk, ".ckp.old");
    store = open_store(promises, disk);
    struct found after = compare(promises, store, UINT64_MAX - 1);
    CHECK(before.chunks == after.chunks && before.hash == after.hash);
    go_on(promises, store, disk);
    struct found later = list(store);
    read_books(store, &books);
    (void)close_store(store);
    walk_all(promises, disk, &books);

    remove_all(disk, ".ckp");
    remove_all(disk, ".ckp.old");
    store = open_store(promises, disk);
    struct found last = compare(promises, store, UINT64_MAX - 1);
    CHECK(later.chunks == last.chunks && later.hash == last.hash);
    if (variant % 2 == 0)
        delete_all(store);
    read_books(store, &books);
    (void)close_store(store);
    walk_all(promises, disk, &books);
    if (variant % 2 != 0)
        return;
    remove_all(disk, ".ckp");
    remove_all(disk, ".ckp.old");
    store = open_store(promises, disk);
    CHECK(list(store).chunks == 0);
    (void)close_store(store);
}

/* Which fids can be read, a bit each. */
static void read_present(const struct promises *promises, engine_store *store, bool present[FIDS_ALL + 1])
{
    for (uint64_t fid = 1; fid <= FIDS_ALL; fid++)
        present[fid] = contents_get(promises->contents, store, fid) == ENGINE_OK;
}

void promises_check_kill(const struct promises *promises, struct sim_disk *disk, uint64_t cut)
{
    bool before[FIDS_ALL + 1];
    bool after[FIDS_ALL + 1];
    uint64_t fingerprint;
    engine_store *store = open_store(promises, disk);
    (void)compare(promises, store, 0);
    read_present(promises, store, before);
    (void)close_store(store);
    struct sim_disk *crashed = sim_disk_crash(disk, cut, &fingerprint);
    store = open_store(promises, crashed);
    read_present(promises, store, after);
    for (uint64_t fid = 1; fid <= FIDS_ALL; fid++) {
        if (before[fid] != after[fid])
            fprintf(stderr, "fid %u was %s\n", (unsigned)fid, before[fid] ? "there and is lost" : "gone and is back");
        CHECK(before[fid] == after[fid]);
    }
    (void)close_store(store);
    sim_disk_free(crashed);
}
