/* I9: every single flipped bit of a small store. */
#ifndef SPEEDY_SIMULATED_FLIPS_H
#define SPEEDY_SIMULATED_FLIPS_H

#include "ledger.h"

/* Flips one bit of one file, opens the store, and expects that at most the chunk that lies there is harmed and none reads
 * as anything else; then the next bit. stride: of the zeros that fill superblocks and DISK only every stride-th bit; of all
 * else every bit. label: what runs, for whoever reports a failure. Returns the number of flips. */
uint64_t flips_check(const struct contents *contents, uint64_t stride, char *label, size_t label_bytes);

#endif
