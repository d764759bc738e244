/*
 * The steps are single-threaded on purpose, batches included: their puts wait in threads of their own, but enter the
 * queue one by one while the batch before is held in its sync, and after each step the keeper comes to rest. So the same
 * seed gives the same record, and a failure can be had again. The threaded workloads give up that for real overlap; their
 * record is saved, and repeating it needs no luck either.
 */
#include "workloads.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "engine_test.h"
#include "run.h"
#include "store.h"

#define MIB ((uint64_t)1 << 20)
#define BATCH_MAX 16
#define THREADS 4
#define BALLAST "ballast" /* a file of others */

/* The steps. */

static void step_put(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        (void)run_put(run, run_new_fid(run));
        run_settle(run);
    }
}

struct waiting_put {
    struct run *run;
    uint64_t fid;
    atomic_bool ended;
};

static void *put_in_thread(void *argument)
{
    struct waiting_put *put = argument;
    (void)run_put(put->run, put->fid);
    atomic_store(&put->ended, true);
    return NULL;
}

/* One chunk whose sync is held, and behind it `count` that become one batch. */
static void step_batch(struct run *run, uint64_t count)
{
    struct waiting_put puts[BATCH_MAX + 1];
    pthread_t threads[BATCH_MAX + 1];
    CHECK(count <= BATCH_MAX);
    sim_disk_hold(run->disk, true);
    for (uint64_t i = 0; i <= count; i++) {
        int pauses = 0;
        puts[i].run = run;
        puts[i].fid = run_new_fid(run);
        atomic_init(&puts[i].ended, false);
        CHECK(pthread_create(&threads[i], NULL, put_in_thread, &puts[i]) == 0);
        while (!atomic_load(&puts[i].ended) && !(i == 0 ? sim_disk_is_held(run->disk) : queued(run->store) == i))
            run_pause(&pauses);
        if (atomic_load(&puts[0].ended)) /* it failed before its sync: nothing holds the others */
            sim_disk_hold(run->disk, false);
    }
    sim_disk_hold(run->disk, false);
    for (uint64_t i = 0; i <= count; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    run_settle(run);
}

static void step_delete(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t fid = run_choose_fid(run, MAY_BE_PRESENT);
        if (fid != 0)
            (void)run_delete(run, fid);
        run_settle(run);
    }
}

/* Deletes all but every count-th chunk. */
static void step_thin_out(struct run *run, uint64_t count)
{
    uint8_t allowed[FIDS_ALL + 1];
    ledger_allowed(run->ledger, UINT64_MAX - 1, allowed);
    for (uint64_t fid = 1; fid < run->next_fid; fid++)
        if (allowed[fid] == MAY_BE_PRESENT && fid % count != 0) {
            (void)run_delete(run, fid);
            run_settle(run);
        }
}

/* A deleted fid comes back. */
static void step_put_deleted(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t fid = run_choose_fid(run, MAY_BE_ABSENT);
        if (fid != 0)
            (void)run_put(run, fid);
        run_settle(run);
    }
}

/* The same put once more. */
static void step_repeat(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t fid = run_choose_fid(run, MAY_BE_PRESENT);
        if (fid != 0)
            (void)run_put(run, fid);
        run_settle(run);
    }
}

/* A chunk that looked damaged is stored again. The damage is not part of the record, so that a power cut in between leaves
 * two copies that are good. */
static void step_repair(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        engine_chunk chunk;
        engine_error error;
        char name[VOLUME_NAME_BYTES];
        uint64_t size;
        uint64_t fid = run_choose_fid(run, MAY_BE_PRESENT);
        if (fid == 0 || engine_info(run->store, fid, &chunk, &error) != ENGINE_OK)
            continue;
        volume_name(name, chunk.volume, ".dat");
        if (!sim_disk_read(run->disk, name, 0, NULL, 0, &size))
            continue; /* a compaction made it and could not give it its name */
        sim_disk_flip(run->disk, name, 8 * chunk.offset);
        (void)run_put(run, fid);
        sim_disk_flip(run->disk, name, 8 * chunk.offset);
        run_settle(run);
    }
}

/* Twice, because the first one may find readers in the epoch of what it should punch. */
static void step_checkpoint(struct run *run, uint64_t count)
{
    engine_error error;
    for (uint64_t i = 0; i < count; i++) {
        (void)engine_checkpoint(run->store, &error);
        run_settle(run);
    }
}

static void open_store(struct run *run)
{
    engine_options options = workload_options(run->workload);
    engine_error error;
    if (store_open_on(sim_disk_table(run->disk), "", &options, &run->store, &error) != ENGINE_OK) {
        CHECK(sim_disk_fired(run->disk));
        run->store = NULL;
    }
    run_settle(run);
}

static void close_store(struct run *run)
{
    engine_error error;
    if (run->store == NULL)
        return;
    (void)engine_close(run->store, &error);
    engine_free(run->store);
    run->store = NULL;
}

static void step_reopen(struct run *run, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        close_store(run);
        open_store(run);
    }
}

static const engine_compaction_terms EVERYTHING = {.below = 1};

/* All volumes into new ones. */
static void step_compact(struct run *run, uint64_t count)
{
    engine_compaction report;
    engine_error error;
    for (uint64_t i = 0; i < count; i++) {
        /* Closed and sealed before, or the keeper would do it beside the compaction, in any order. */
        for (uint32_t slot = 0; slot < volumes_count(run->store); slot++)
            (void)active_close(run->store, volumes_get(run->store, slot));
        run_settle(run);
        (void)engine_compact(run->store, &EVERYTHING, &report, &error);
        run_settle(run);
    }
}

/* Others take the disk to its last block ... */
static void step_fill(struct run *run, uint64_t ignored)
{
    const struct engine_io *io = sim_disk_table(run->disk);
    uint64_t size = 0;
    uint64_t free_bytes = 0;
    uint64_t total_bytes = 0;
    (void)ignored;
    int directory = io->open_directory(io->context, "");
    int file = directory < 0 ? -1 : io->open(io->context, directory, BALLAST, O_RDWR | O_CREAT);
    if (file >= 0 && io->size(io->context, file, &size) == 0 &&
        io->space(io->context, file, &free_bytes, &total_bytes) == 0 && free_bytes > 0 &&
        io->fallocate(io->context, file, 0, size, free_bytes) == 0 && io->fsync(io->context, file) == 0)
        (void)io->fsync(io->context, directory);
    io_close(io, file);
    io_close(io, directory);
}

/* ... and give it back. */
static void step_drain(struct run *run, uint64_t ignored)
{
    const struct engine_io *io = sim_disk_table(run->disk);
    (void)ignored;
    int directory = io->open_directory(io->context, "");
    if (directory >= 0 && io->unlink(io->context, directory, BALLAST) == 0)
        (void)io->fsync(io->context, directory);
    io_close(io, directory);
}

struct member {
    struct run *run;
    uint64_t first_fid;
    uint64_t count;
};

static void *put_and_delete(void *argument)
{
    struct member *member = argument;
    for (uint64_t i = 0; i < member->count; i++) {
        (void)run_put(member->run, member->first_fid + i);
        if (i % 3 == 2)
            (void)run_delete(member->run, member->first_fid + i - 1);
    }
    return NULL;
}

/* THREADS callers at once, count chunks each. */
static void step_crowd(struct run *run, uint64_t count)
{
    struct member members[THREADS];
    pthread_t threads[THREADS];
    CHECK(run->next_fid + THREADS * count <= FIDS);
    for (size_t i = 0; i < THREADS; i++) {
        members[i] = (struct member){run, run->next_fid, count};
        run->next_fid += count;
    }
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, put_and_delete, &members[i]) == 0);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    run_settle(run);
}

struct compacting {
    engine_store *store;
    atomic_bool ended;
};

static void *compact_always(void *argument)
{
    struct compacting *compacting = argument;
    engine_compaction report;
    engine_error error;
    while (!atomic_load(&compacting->ended))
        (void)engine_compact(compacting->store, &EVERYTHING, &report, &error);
    return NULL;
}

static void step_crowd_and_compact(struct run *run, uint64_t count)
{
    struct compacting compacting = {.store = run->store};
    pthread_t thread;
    atomic_init(&compacting.ended, false);
    CHECK(pthread_create(&thread, NULL, compact_always, &compacting) == 0);
    step_crowd(run, count);
    atomic_store(&compacting.ended, true);
    CHECK(pthread_join(thread, NULL) == 0);
    run_settle(run);
}

/* Whatever comes, count times. */
static void step_anything(struct run *run, uint64_t count)
{
    static const struct step steps[] = {
        {step_put, 1},        {step_put, 1},    {step_put, 2},        {step_batch, 3}, {step_batch, 7}, {step_delete, 1},
        {step_delete, 1},     {step_delete, 3}, {step_put_deleted, 1}, {step_repeat, 1}, {step_checkpoint, 1},
        {step_checkpoint, 2}, {step_reopen, 1},
    };
    for (uint64_t i = 0; i < count && run->store != NULL; i++) {
        const struct step *step = &steps[run_choose(run, sizeof steps / sizeof steps[0])];
        if (run->next_fid + BATCH_MAX < FIDS)
            step->run(run, step->argument);
        run_check_reads(run);
    }
}

static const struct step usual_steps[] = {
    {step_put, 5},    {step_batch, 6},      {step_delete, 2}, {step_batch, 4},  {step_checkpoint, 1}, {step_put, 2},
    {step_delete, 3}, {step_put_deleted, 2}, {step_repeat, 1}, {step_batch, 7}, {step_delete, 1},     {step_put, 1},
    {NULL, 0},
};
static const struct step punch_steps[] = {
    {step_put, 14}, {step_thin_out, 3}, {step_checkpoint, 2}, {step_batch, 5}, {step_delete, 2}, {step_checkpoint, 2},
    {step_put_deleted, 4}, {step_thin_out, 2}, {step_reopen, 1}, {step_checkpoint, 2}, {step_put, 1}, {NULL, 0},
};
static const struct step roll_over_steps[] = {
    {step_put, 20},   {step_batch, 16}, {step_delete, 4}, {step_batch, 16}, {step_checkpoint, 1}, {step_put, 10},
    {step_delete, 6}, {step_batch, 8},  {step_reopen, 1}, {step_batch, 16}, {step_delete, 4},     {NULL, 0},
};
static const struct step reopen_steps[] = {
    {step_put, 3},    {step_reopen, 1}, {step_batch, 3},       {step_delete, 1}, {step_reopen, 2}, {step_put, 1},
    {step_delete, 2}, {step_reopen, 1}, {step_put_deleted, 1}, {step_reopen, 1}, {step_put, 1},    {NULL, 0},
};
/* The disk is full half way: refusals, deletes, and going on with what they give back. */
static const struct step full_steps[] = {
    {step_put, 24},   {step_batch, 16}, {step_delete, 2}, {step_checkpoint, 2}, {step_put, 8}, {step_thin_out, 3},
    {step_checkpoint, 2}, {step_put, 8}, {step_reopen, 1}, {step_put, 4}, {NULL, 0},
};
/* No block is free any more: every chunk can be deleted all the same, also after another opening. */
static const struct step filled_steps[] = {
    {step_put, 20},   {step_batch, 16}, {step_put, 50}, {step_fill, 1}, {step_delete, 6}, {step_checkpoint, 2},
    {step_fill, 1},   {step_reopen, 1}, {step_fill, 1}, {step_thin_out, 3}, {step_reopen, 1}, {step_fill, 1},
    {step_thin_out, FIDS + 1}, {step_compact, 1}, {step_drain, 1}, {step_put, 4}, {NULL, 0},
};
/* More deletes than a block of the log holds. */
static const struct step many_deletes_steps[] = {
    {step_put, 90}, {step_delete, 70}, {step_checkpoint, 1}, {step_delete, 3}, {step_batch, 4}, {step_delete, 2},
    {step_checkpoint, 1}, {NULL, 0},
};
/* Of small chunks and large ones, in the volume that is written and in closed ones. */
static const struct step repair_steps[] = {
    {step_put, 8},     {step_repair, 2}, {step_checkpoint, 1}, {step_repair, 3}, {step_delete, 2}, {step_batch, 6},
    {step_repair, 2},  {step_reopen, 1}, {step_repair, 2},     {step_put, 10},   {step_repair, 3}, {step_compact, 1},
    {step_repair, 2},  {step_delete, 2}, {step_checkpoint, 2}, {step_repair, 1}, {NULL, 0},
};
static const struct step anything_steps[] = {{step_anything, 40}, {NULL, 0}};
static const struct step crowd_steps[] = {
    {step_crowd, 10}, {step_checkpoint, 1}, {step_crowd, 10}, {step_thin_out, 4}, {step_crowd, 6}, {step_reopen, 1},
    {step_crowd, 4},  {NULL, 0},
};

static const struct step compaction_steps[] = {
    {step_put, 20},   {step_batch, 16},     {step_thin_out, 3}, {step_compact, 1}, {step_delete, 3}, {step_put_deleted, 4},
    {step_batch, 12}, {step_thin_out, 2},   {step_compact, 1},  {step_reopen, 1},  {step_put, 4},    {step_delete, 2},
    {step_compact, 1}, {step_checkpoint, 1}, {step_thin_out, 50}, {step_compact, 1}, {step_put_deleted, 3}, {NULL, 0},
};
/* No space for what is to be compacted, then some, then again chunks. */
static const struct step compaction_full_steps[] = {
    {step_put, 24},   {step_batch, 16}, {step_compact, 1}, {step_thin_out, 3}, {step_compact, 2}, {step_put, 12},
    {step_thin_out, 2}, {step_compact, 1}, {step_reopen, 1}, {step_batch, 8},  {step_delete, 4},  {step_compact, 1},
    {NULL, 0},
};
static const struct step compact_crowd_steps[] = {
    {step_crowd, 10}, {step_crowd_and_compact, 10}, {step_thin_out, 4}, {step_compact, 1}, {step_crowd_and_compact, 6},
    {step_reopen, 1}, {step_crowd_and_compact, 4},  {NULL, 0},
};

static const struct workload workloads[] = {
    {"usual", 64 * MIB, MIB, 2 * MIB, 1, false, usual_steps},
    {"punch", 64 * MIB, MIB, 2 * MIB, 1, false, punch_steps},
    {"roll-over", 64 * MIB, MIB, 1 * MIB, 1, false, roll_over_steps},
    {"reopen", 64 * MIB, MIB, 2 * MIB, 1, false, reopen_steps},
    {"full", 3 * MIB, MIB, 1 * MIB, 1, false, full_steps},
    {"filled", 8 * MIB, MIB, 1 * MIB, 1, false, filled_steps},
    {"many-deletes", 64 * MIB, 4 * MIB, 4 * MIB, 1, false, many_deletes_steps},
    {"repair", 64 * MIB, MIB, 1 * MIB, 1, false, repair_steps},
    {"anything", 64 * MIB, MIB, 2 * MIB, 1, false, anything_steps},
    {"crowd", 64 * MIB, MIB, 1 * MIB, 1, true, crowd_steps},
    {"appenders", 64 * MIB, MIB, 1 * MIB, 3, true, crowd_steps},
    {"compaction", 64 * MIB, MIB, 1 * MIB, 1, false, compaction_steps},
    {"compaction-full", 3 * MIB, MIB, 1 * MIB, 1, false, compaction_full_steps},
    {"compact-crowd", 64 * MIB, MIB, 1 * MIB, 2, true, compact_crowd_steps},
};

const struct workload *workload_at(size_t number)
{
    return number < sizeof workloads / sizeof workloads[0] ? &workloads[number] : NULL;
}

const struct workload *workload_named(const char *name)
{
    for (size_t i = 0; workload_at(i) != NULL; i++)
        if (strcmp(workloads[i].name, name) == 0)
            return &workloads[i];
    return NULL;
}

engine_options workload_options(const struct workload *workload)
{
    engine_options options = options_of();
    options.volume_size_first = workload->volume_size_first;
    options.volume_size_max = workload->volume_size_max;
    options.appenders = workload->appenders;
    return options;
}

void workload_run(struct run *run, uint64_t seed)
{
    run->chance = seed;
    run->next_fid = 1;
    open_store(run);
    for (const struct step *step = run->workload->steps; step->run != NULL && run->store != NULL; step++) {
        step->run(run, step->argument);
        run_check_reads(run);
    }
    close_store(run);
}
