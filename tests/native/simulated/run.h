/* One run of a workload: what its steps are made of. Every put and delete goes into the ledger. */
#ifndef SPEEDY_SIMULATED_RUN_H
#define SPEEDY_SIMULATED_RUN_H

#include "workloads.h"

/* A number below `sides`, from the run's seed. */
uint64_t run_choose(struct run *run, uint64_t sides);
/* A moment; ends the process after 30 s of them. */
void run_pause(int *pauses);
/* Until the keeper has done what it was woken for. */
void run_settle(struct run *run);
/* True when it was acknowledged. */
bool run_put(struct run *run, uint64_t fid);
bool run_delete(struct run *run, uint64_t fid);
/* Also in the middle of trouble: never what was not stored, never "not found" for what is, unless its whole volume could
 * not be opened; a disk may refuse to read. */
void run_check_reads(struct run *run);
/* A fid that no step of this run has used. */
uint64_t run_new_fid(struct run *run);
/* A fid of which exactly this may be found, or 0. */
uint64_t run_choose_fid(struct run *run, uint8_t wanted);

#endif
