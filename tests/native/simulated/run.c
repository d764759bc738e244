#include "run.h"

#include <pthread.h>
#include <time.h>

#include "engine_test.h"
#include "store.h"

#define PAUSE_NS 20000
#define PAUSES_MAX 1500000 /* 30 s */

uint64_t run_choose(struct run *run, uint64_t sides)
{
    uint64_t mixed = run->chance += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (mixed ^ (mixed >> 31)) % sides;
}

void run_pause(int *pauses)
{
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
    CHECK((*pauses)++ < PAUSES_MAX);
    (void)nanosleep(&pause, NULL);
}

void run_settle(struct run *run)
{
    for (int pauses = 0; run->store != NULL;) {
        struct keeper *keeper = &run->store->keeper;
        pthread_mutex_lock(&keeper->lock);
        bool rests = keeper->resting && !keeper->wanted;
        pthread_mutex_unlock(&keeper->lock);
        if (rests)
            return;
        run_pause(&pauses);
    }
}

bool run_put(struct run *run, uint64_t fid)
{
    size_t entry = ledger_begin(run->ledger, false, fid, sim_disk_position(run->disk));
    int status = contents_put(run->contents, run->store, fid);
    ledger_end(run->ledger, entry, sim_disk_position(run->disk), status == ENGINE_OK);
    return status == ENGINE_OK;
}

/* A volume could not be opened: what is in it is missed, and comes back with it. */
static bool hides_something(struct run *run)
{
    engine_stats stats;
    engine_error error;
    return engine_stat(run->store, &stats, &error) != ENGINE_OK || stats.volumes_quarantined > 0;
}

bool run_delete(struct run *run, uint64_t fid)
{
    engine_error error;
    int removed;
    size_t entry = ledger_begin(run->ledger, true, fid, sim_disk_position(run->disk));
    int status = engine_delete(run->store, fid, &removed, &error);
    uint64_t position = sim_disk_position(run->disk);
    CHECK(status != ENGINE_OK || removed || hides_something(run));
    CHECK(status == ENGINE_OK || sim_disk_fired(run->disk)); /* a full disk is no reason */
    ledger_end(run->ledger, entry, position, status == ENGINE_OK);
    return status == ENGINE_OK;
}

void run_check_reads(struct run *run)
{
    uint8_t allowed[FIDS_ALL + 1];
    if (run->store == NULL)
        return;
    bool hidden = hides_something(run);
    ledger_allowed(run->ledger, UINT64_MAX - 1, allowed);
    for (uint64_t tries = 0; tries < 3; tries++) {
        uint64_t fid = 1 + run_choose(run, run->next_fid < FIDS ? run->next_fid : FIDS);
        int status = contents_get(run->contents, run->store, fid);
        CHECK(status == ENGINE_OK || status == ENGINE_NOT_FOUND || status == ENGINE_CORRUPT);
        CHECK(status != ENGINE_OK || (allowed[fid] & MAY_BE_PRESENT) != 0);
        CHECK(status != ENGINE_NOT_FOUND || hidden || (allowed[fid] & MAY_BE_ABSENT) != 0);
    }
}

uint64_t run_new_fid(struct run *run)
{
    CHECK(run->next_fid <= FIDS);
    return run->next_fid++;
}

uint64_t run_choose_fid(struct run *run, uint8_t wanted)
{
    uint8_t allowed[FIDS_ALL + 1];
    uint64_t count = 0;
    ledger_allowed(run->ledger, UINT64_MAX - 1, allowed);
    for (uint64_t fid = 1; fid < run->next_fid; fid++)
        count += allowed[fid] == wanted;
    uint64_t at = count > 0 ? run_choose(run, count) : 0;
    for (uint64_t fid = 1; fid < run->next_fid && count > 0; fid++)
        if (allowed[fid] == wanted && at-- == 0)
            return fid;
    return 0;
}
