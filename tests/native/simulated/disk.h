/*
 * A simulated disk: one directory whose every byte is either durable or not yet.
 *
 * The engine works on it through its I/O table. What it does is recorded as a list of changes and syncs. A write, a new
 * size, space taken or given back and a name in the directory are seen at once by whoever reads, but are durable only
 * after a sync of that file, or of the directory. sim_disk_follow repeats the record up to any position, sim_disk_crash
 * makes from there the disk that a power cut could have left: of what was not durable any part, writes in sectors of
 * 512 bytes. One run of a workload so gives as many crashes as one likes, and each by a position and a seed again.
 *
 * Faults: sim_disk_arm lets the N-th call fail. A sync that fails writes some of what it should and forgets the rest,
 * and from then on reads show what the disk does not have, until sim_disk's drop_cache: so does Linux.
 *
 * The table may be used from several threads. Everything else is for one thread, while no store is open on the disk.
 */
#ifndef SPEEDY_SIMULATED_DISK_H
#define SPEEDY_SIMULATED_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "io.h"

struct sim_disk;

enum sim_fault {
    SIM_EIO_ONCE,
    SIM_EIO_FOREVER, /* from the N-th call on */
    SIM_ENOSPC_ONCE, /* the first call from the N-th on that can need space */
    SIM_ENOSPC_FOREVER,
    SIM_SHORT_ONCE, /* the first write from the N-th call on ends early; nothing is lost */
    SIM_SHORT_FOREVER,
    SIM_SYNC_ONCE, /* the first sync from the N-th call on */
    SIM_FAULTS,
    SIM_NO_FAULT = SIM_FAULTS,
};

struct sim_disk *sim_disk_new(uint64_t capacity_bytes);
void sim_disk_free(struct sim_disk *disk);
/* What is durable and what is not, without record and descriptors. `disk` must outlive the copy. */
struct sim_disk *sim_disk_copy(const struct sim_disk *disk);
const struct engine_io *sim_disk_table(struct sim_disk *disk);

/* Changes and syncs so far. Also while a store is open. */
uint64_t sim_disk_position(struct sim_disk *disk);
/* Only those that changed anything. */
uint64_t sim_disk_changes(struct sim_disk *disk);
/* Does what `leader` did as its position-th, counted from 0; `disk` is a copy of what the leader began with. */
void sim_disk_follow(struct sim_disk *disk, const struct sim_disk *leader, uint64_t position);
/* A new disk with what a power cut leaves of this one; *fingerprint tells different outcomes apart. */
struct sim_disk *sim_disk_crash(const struct sim_disk *disk, uint64_t seed, uint64_t *fingerprint);

void sim_disk_arm(struct sim_disk *disk, enum sim_fault fault, uint64_t call, uint64_t seed);
/* True when the armed call was reached. */
bool sim_disk_fired(struct sim_disk *disk);

/* While held, fdatasync waits before it does anything. */
void sim_disk_hold(struct sim_disk *disk, bool hold);
/* True when a call waits. */
bool sim_disk_is_held(struct sim_disk *disk);

/* For the one who checks: files by name, without being recorded. read: false when there is no such file. */
bool sim_disk_read(struct sim_disk *disk, const char *name, uint64_t offset, void *bytes, size_t length, uint64_t *size);
/* Also while a store is open; visit does not touch the disk. */
void sim_disk_list(struct sim_disk *disk, io_list_visitor visit, void *argument);
void sim_disk_remove(struct sim_disk *disk, const char *name);
/* Changes the file, on the disk and in what is read. flip: also while a store is open. */
void sim_disk_flip(struct sim_disk *disk, const char *name, uint64_t bit);
void sim_disk_overwrite(struct sim_disk *disk, const char *name, uint64_t offset, const uint8_t *bytes, size_t length);
void sim_disk_resize(struct sim_disk *disk, const char *name, uint64_t size);

/* The record from a position on, a line each, for people. */
void sim_disk_print(const struct sim_disk *disk, uint64_t from);
/* The record, to be repeated in another process. */
void sim_disk_save(const struct sim_disk *disk, FILE *file);
struct sim_disk *sim_disk_load(FILE *file);

#endif
