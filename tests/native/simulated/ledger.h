/*
 * What the outside knows: which puts and deletes began and were acknowledged, and when, as positions in the record of a
 * simulated disk. From that follows, for a power cut at any position, what a store may answer afterwards. Thread-safe.
 */
#ifndef SPEEDY_SIMULATED_LEDGER_H
#define SPEEDY_SIMULATED_LEDGER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine.h"

#define FIDS 250
#define FIDS_LATER 4 /* more, for those who go on after a crash */
#define FIDS_ALL (FIDS + FIDS_LATER)

/* Bits of what may be found. */
enum { MAY_BE_ABSENT = 1, MAY_BE_PRESENT = 2 };

struct ledger;

/* The bytes of every fid, always the same. */
struct contents {
    uint8_t *bytes[FIDS_ALL + 1]; /* owned */
    size_t length[FIDS_ALL + 1];
    uint32_t crc32c[FIDS_ALL + 1];
};

void contents_make(struct contents *contents);
void contents_free(struct contents *contents);
int contents_put(const struct contents *contents, engine_store *store, uint64_t fid);
/* The status of reading the whole chunk; OK only with the right bytes. */
int contents_get(const struct contents *contents, engine_store *store, uint64_t fid);

struct ledger *ledger_new(void);
struct ledger *ledger_copy(const struct ledger *ledger);
void ledger_free(struct ledger *ledger);
size_t ledger_begin(struct ledger *ledger, bool is_delete, uint64_t fid, uint64_t position);
/* acknowledged: the call answered OK. */
void ledger_end(struct ledger *ledger, size_t entry, uint64_t position, bool acknowledged);
/* What may be found of each fid after a power cut that lets the first `position` changes happen. */
void ledger_allowed(struct ledger *ledger, uint64_t position, uint8_t allowed[FIDS_ALL + 1]);
void ledger_save(const struct ledger *ledger, FILE *file);
struct ledger *ledger_load(FILE *file);

#endif
