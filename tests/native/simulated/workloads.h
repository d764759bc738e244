/* What a store is put through on a simulated disk: tables of steps. */
#ifndef SPEEDY_SIMULATED_WORKLOADS_H
#define SPEEDY_SIMULATED_WORKLOADS_H

#include "disk.h"
#include "ledger.h"

/* One run of a workload. */
struct run {
    struct sim_disk *disk;
    struct ledger *ledger;
    const struct contents *contents;
    const struct workload *workload;
    engine_store *store; /* NULL after a failed open: the steps that follow do nothing */
    uint64_t chance;     /* state of the generator that chooses victims */
    uint64_t next_fid;
};

struct step {
    void (*run)(struct run *run, uint64_t argument);
    uint64_t argument;
};

struct workload {
    const char *name;
    uint64_t capacity_bytes; /* of the disk */
    uint64_t volume_size_first;
    uint64_t volume_size_max;
    uint32_t appenders;
    bool threaded; /* its record differs from run to run, so a failure needs the saved record and not only the seed */
    const struct step *steps; /* up to one without a function */
};

/* NULL behind the last. */
const struct workload *workload_at(size_t number);
const struct workload *workload_named(const char *name);
engine_options workload_options(const struct workload *workload);
/* Runs all steps on run->disk, opening the store at the beginning and closing it at the end. */
void workload_run(struct run *run, uint64_t seed);

#endif
