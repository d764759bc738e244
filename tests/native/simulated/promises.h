/* The invariants of a store on a simulated disk, checked by opening it again. A broken one ends the process. */
#ifndef SPEEDY_SIMULATED_PROMISES_H
#define SPEEDY_SIMULATED_PROMISES_H

#include "disk.h"
#include "ledger.h"
#include "workloads.h"

struct promises {
    const struct contents *contents;
    const struct workload *workload;
    struct ledger *ledger;  /* what is known of the disk before */
    uint64_t position;      /* in the record that ledger belongs to */
    struct ledger *later;   /* what was done since, by those who check; positions are the disk's own */
    bool faulty;            /* the disk returned errors before: volumes may have failed */
};

/* I1, I2, I3, I6, I7: opens the store, compares every fid with what is allowed, puts and deletes a little more, closes it.
 * later_position: how much of `later` has happened. False when the disk was too full for a checkpoint. */
bool promises_check(const struct promises *promises, struct sim_disk *disk, uint64_t later_position);
/* After promises_check, on the same disk; complete is its answer. I13: opening again changes nothing. I5: needles lie behind each other and none
 * is missing. I4: without checkpoints, or with stale or damaged ones, the index is the same; `variant` chooses. Then the
 * store goes on: what recovery covered and cleared does not come up again. I6: when at last everything is deleted (for
 * every other variant), nothing returns. I7: the padding that the engine has counted is that of the bytes. */
void promises_check_deeply(const struct promises *promises, struct sim_disk *disk, bool complete, uint64_t variant);
/* On the disk that a killed process leaves, with what it has not synced: opens the store and closes it. What was told then,
 * that a chunk is there or that it is gone, is durable (I1, I6): a power cut after that, chosen by `cut`, changes none of it. */
void promises_check_kill(const struct promises *promises, struct sim_disk *disk, uint64_t cut);

#endif
