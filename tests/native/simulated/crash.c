/*
 * What a power cut leaves. Of a file: what is durable, and of each change since the last sync a part. Each crash keeps to
 * one habit, because each finds something else: nothing got there; all did; whole changes or none; the oldest, with the
 * last one torn; sectors at random; runs of sectors, so that whole needles survive between torn ones; or garbage in any
 * page that was being written, as devices with large sectors leave it: what was synced before must lie in other pages.
 *
 * The directory keeps either the oldest changes (a journal) or any of them (all that POSIX promises).
 */
#include "disk_state.h"

#include <string.h>

#include "engine_test.h"

enum habit { HABIT_NOTHING, HABIT_ALL, HABIT_WHOLE, HABIT_OLDEST, HABIT_SECTORS, HABIT_RUNS, HABIT_GARBAGE, HABITS };

struct chance {
    uint64_t state;
    uint64_t fingerprint;
    bool in_run;
};

static uint64_t roll(struct chance *chance, uint64_t sides)
{
    /* splitmix64 */
    uint64_t mixed = chance->state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (mixed ^ (mixed >> 31)) % sides;
}

/* What decides differently leaves another disk. */
static bool decide(struct chance *chance, bool kept)
{
    chance->fingerprint = (chance->fingerprint ^ (kept ? 2 : 1)) * 0x100000001b3u;
    return kept;
}

static bool keep_piece(struct chance *chance, enum habit habit)
{
    if (habit == HABIT_RUNS && roll(chance, 8) == 0)
        chance->in_run = !chance->in_run;
    return decide(chance, habit == HABIT_RUNS ? chance->in_run : roll(chance, 2) == 0);
}

/* The sectors of a write that got there; the file's new size may or may not have. */
static void tear_write(struct image *disk, const struct change *change, struct chance *chance, enum habit habit)
{
    uint64_t size_before = disk->size;
    uint64_t end_kept = 0;
    for (uint64_t at = 0; at < change->length;) {
        uint64_t piece = SECTOR_BYTES - (change->offset + at) % SECTOR_BYTES;
        if (piece > change->length - at)
            piece = change->length - at;
        if (keep_piece(chance, habit)) {
            image_write(disk, change->offset + at, change->bytes + at, (size_t)piece);
            end_kept = change->offset + at + piece;
        }
        at += piece;
    }
    uint64_t end = change->offset + change->length;
    if (end > size_before && decide(chance, roll(chance, 2) == 0))
        image_resize(disk, end); /* the size got there before the bytes */
    else
        disk->size = end_kept > size_before ? end_kept : size_before;
}

/* Each page that the write touches: as before, as after, or neither. */
static void spoil_write(struct image *disk, const struct change *change, struct chance *chance)
{
    uint8_t garbage[PAGE_BYTES];
    uint64_t end = change->offset + change->length;
    for (uint64_t at = change->offset; at < end;) {
        uint64_t page = at - at % PAGE_BYTES;
        uint64_t piece = page + PAGE_BYTES < end ? page + PAGE_BYTES - at : end - at;
        uint64_t luck = roll(chance, 3);
        (void)decide(chance, luck == 1);
        (void)decide(chance, luck == 2);
        if (luck == 1)
            image_write(disk, at, change->bytes + (at - change->offset), (size_t)piece);
        if (luck == 2) {
            for (size_t i = 0; i < PAGE_BYTES; i++)
                garbage[i] = (uint8_t)roll(chance, 256);
            uint64_t rest = disk->size > page ? disk->size - page : 0;
            if (rest < at + piece - page)
                rest = at + piece - page;
            image_write(disk, page, garbage, rest < PAGE_BYTES ? (size_t)rest : PAGE_BYTES);
        }
        at += piece;
    }
}

static void tear_punch(struct image *disk, const struct change *change, struct chance *chance, enum habit habit)
{
    for (uint64_t at = change->offset; at < change->offset + change->length; at += PAGE_BYTES)
        if (keep_piece(chance, habit))
            image_punch(disk, at, PAGE_BYTES);
}

static void keep_whole(struct image *disk, const struct change *change)
{
    switch (change->kind) {
    case CHANGE_WRITE:
        image_write(disk, change->offset, change->bytes, (size_t)change->length);
        break;
    case CHANGE_RESIZE:
        image_resize(disk, change->length);
        break;
    case CHANGE_ALLOCATE:
        image_allocate(disk, change->offset, change->length);
        break;
    default:
        image_punch(disk, change->offset, change->length);
    }
}

static void settle(struct image *disk, const struct pending *pending, struct chance *chance)
{
    enum habit habit = (enum habit)roll(chance, HABITS);
    size_t oldest = habit == HABIT_OLDEST ? (size_t)roll(chance, pending->count + 1) : 0;
    for (size_t i = 0; i < pending->count; i++) {
        const struct change *change = pending->changes[i];
        bool torn = habit == HABIT_SECTORS || habit == HABIT_RUNS || (habit == HABIT_OLDEST && i == oldest);
        if (habit == HABIT_OLDEST && i > oldest)
            break;
        if (habit == HABIT_GARBAGE && change->kind == CHANGE_WRITE)
            spoil_write(disk, change, chance);
        else if (torn && change->kind == CHANGE_WRITE)
            tear_write(disk, change, chance, habit);
        else if (torn && change->kind == CHANGE_PUNCH && change->offset % PAGE_BYTES == 0)
            tear_punch(disk, change, chance, habit);
        else if (habit == HABIT_ALL || (habit == HABIT_OLDEST && i < oldest))
            keep_whole(disk, change);
        else if (habit != HABIT_NOTHING && decide(chance, roll(chance, 2) == 0))
            keep_whole(disk, change);
    }
    chance->fingerprint = (chance->fingerprint ^ habit ^ (oldest << 8)) * 0x100000001b3u;
}

void crash_settle_file(struct sim_file *file, uint64_t seed, uint64_t *fingerprint)
{
    struct chance chance = {.state = seed};
    if (file->pending.count > 0) {
        settle(&file->disk, &file->pending, &chance);
        *fingerprint = (*fingerprint ^ chance.fingerprint) * 0x100000001b3u;
    }
    file->pending.count = 0;
}

/* A name in a pending change refers to a file that exists, so any subset can be applied. */
static void settle_names(struct sim_disk *crashed, const struct sim_disk *disk, struct chance *chance)
{
    bool journal = roll(chance, 2) == 0;
    size_t kept = (size_t)roll(chance, disk->pending.count + 1);
    for (size_t i = 0; i < disk->pending.count; i++) {
        const struct change *change = disk->pending.changes[i];
        if (!decide(chance, journal ? i < kept : roll(chance, 2) == 0))
            continue;
        names_remove(&crashed->disk, change->name);
        if (change->kind == CHANGE_CREATE)
            names_set(&crashed->disk, change->name, change->file);
        else if (change->kind == CHANGE_RENAME)
            names_set(&crashed->disk, change->other, change->file);
    }
}

struct sim_disk *sim_disk_crash(const struct sim_disk *disk, uint64_t seed, uint64_t *fingerprint)
{
    struct sim_disk *crashed = sim_disk_copy(disk);
    struct chance chance = {.state = seed};
    settle_names(crashed, disk, &chance);
    uint64_t mark = chance.fingerprint;
    uint64_t taken = 0;
    for (uint32_t i = 0; i < crashed->file_count; i++) {
        struct sim_file *file = &crashed->files[i];
        if (file->pending.count > 0) {
            mark = mark * 31 + i;
            crash_settle_file(file, roll(&chance, UINT64_MAX), &mark);
        }
        taken += image_taken_by_either(&file->disk, &file->cache);
        image_free(&file->cache);
        file->cache = image_copy(&file->disk);
    }
    /* A file system gives space to others only when it is durable that it was given back. */
    if (taken > crashed->capacity)
        crashed->capacity = taken;
    pending_free(&crashed->pending);
    free(crashed->cache.entries);
    crashed->cache = crashed->disk;
    crashed->disk = (struct names){NULL, 0, 0};
    for (size_t i = 0; i < crashed->cache.count; i++)
        names_set(&crashed->disk, crashed->cache.entries[i].name, crashed->cache.entries[i].file);
    *fingerprint = mark;
    return crashed;
}
