/* v<id>.del: the durable list of dead needles of one volume. Byte layout in delete_log.c. */
#ifndef SPEEDY_DELETE_LOG_H
#define SPEEDY_DELETE_LOG_H

#include "volume.h"

struct delete_record {
    uint64_t fid;
    uint64_t offset; /* of the needle: a fid may live again elsewhere, a place is used once; 0: of all of this fid */
    uint64_t delete_seq;
    uint32_t header_length;
    uint32_t payload_length;
};

struct delete_set {
    struct delete_record *records; /* owned; ascending by offset, then fid; none twice */
    size_t count;
    uint32_t damaged_records;
};

/* Reads the log of a volume and prepares its appends. A missing log is an empty one. After FAILED the set is what could
 * be read. */
int delete_log_load(struct volume *volume, struct delete_set *set, engine_error *error);
void delete_set_free(struct delete_set *set);
/* The record that the needle of this fid at this offset is dead, or NULL. */
const struct delete_record *delete_set_find(const struct delete_set *set, uint64_t offset, uint64_t fid);
/* Whether the last append failed in a way that leaves open if its records are on the disk. */
bool delete_log_is_in_doubt(struct volume *volume);
/* Whether there is a record for every needle of a fid, wherever it lies (offset 0). */
bool delete_set_has_everywhere(const struct delete_set *set);

/* Sets space aside on the disk, so that so many records can be appended without asking for more. DISK_FULL or FAILED
 * with nothing lost; volume->delete_lacking then reminds of it. */
int delete_log_reserve(struct volume *volume, uint64_t more, engine_error *error);
/* Appends the records, giving each its delete_seq, and makes them durable with one sync. After a failed sync the log
 * takes no more. DISK_FULL leaves it usable. */
int delete_log_append(struct volume *volume, struct delete_record *records, size_t count, engine_error *error);

#endif
