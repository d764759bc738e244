#include "ledger.h"

#include <pthread.h>
#include <string.h>

#include "engine_test.h"

struct event {
    uint64_t fid;
    uint64_t begun;
    uint64_t acknowledged; /* UINT64_MAX: never */
    bool is_delete;
};

struct ledger {
    pthread_mutex_t lock;
    struct event *events; /* owned; of one fid in the order in which they happened */
    size_t count;
    size_t capacity;
};

/* Empty, one byte, just under and over an alignment, whole and broken blocks, more than one checksum block. */
static size_t length_of(uint64_t fid)
{
    static const size_t lengths[] = {0, 1, 63, 4096, 5000, 70000, 3000, 262145, 17, 20000, 128, 100, 8192, 40000};
    return lengths[fid % (sizeof lengths / sizeof lengths[0])];
}

void contents_make(struct contents *contents)
{
    memset(contents, 0, sizeof *contents);
    for (uint64_t fid = 1; fid <= FIDS_ALL; fid++) {
        size_t length = length_of(fid);
        uint8_t *bytes = malloc(length + 1);
        CHECK(bytes != NULL);
        uint64_t state = fid * 0x9e3779b97f4a7c15u + 0x1234567;
        for (size_t i = 0; i < length; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            bytes[i] = (uint8_t)(state >> 56);
        }
        contents->bytes[fid] = bytes;
        contents->length[fid] = length;
        contents->crc32c[fid] = engine_crc32c(0, bytes, length);
    }
}

void contents_free(struct contents *contents)
{
    for (uint64_t fid = 1; fid <= FIDS_ALL; fid++)
        free(contents->bytes[fid]);
}

int contents_put(const struct contents *contents, engine_store *store, uint64_t fid)
{
    engine_error error;
    return engine_put(store, fid, contents->bytes[fid], contents->length[fid], contents->crc32c[fid], &error);
}

int contents_get(const struct contents *contents, engine_store *store, uint64_t fid)
{
    engine_error error;
    size_t length = contents->length[fid];
    uint8_t *bytes = malloc(length + 1);
    CHECK(bytes != NULL);
    int status = engine_read(store, fid, 0, bytes, length, NULL, &error);
    if (status == ENGINE_OK)
        CHECK(memcmp(bytes, contents->bytes[fid], length) == 0);
    free(bytes);
    return status;
}

struct ledger *ledger_new(void)
{
    struct ledger *ledger = calloc(1, sizeof *ledger);
    CHECK(ledger != NULL);
    pthread_mutex_init(&ledger->lock, NULL);
    return ledger;
}

void ledger_free(struct ledger *ledger)
{
    pthread_mutex_destroy(&ledger->lock);
    free(ledger->events);
    free(ledger);
}

static size_t add(struct ledger *ledger, const struct event *event)
{
    if (ledger->count == ledger->capacity) {
        ledger->capacity = ledger->capacity == 0 ? 64 : 2 * ledger->capacity;
        ledger->events = realloc(ledger->events, ledger->capacity * sizeof ledger->events[0]);
        CHECK(ledger->events != NULL);
    }
    ledger->events[ledger->count] = *event;
    return ledger->count++;
}

struct ledger *ledger_copy(const struct ledger *ledger)
{
    struct ledger *copy = ledger_new();
    for (size_t i = 0; i < ledger->count; i++)
        (void)add(copy, &ledger->events[i]);
    return copy;
}

size_t ledger_begin(struct ledger *ledger, bool is_delete, uint64_t fid, uint64_t position)
{
    struct event event = {.fid = fid, .begun = position, .acknowledged = UINT64_MAX, .is_delete = is_delete};
    CHECK(fid >= 1 && fid <= FIDS_ALL);
    pthread_mutex_lock(&ledger->lock);
    size_t entry = add(ledger, &event);
    pthread_mutex_unlock(&ledger->lock);
    return entry;
}

void ledger_end(struct ledger *ledger, size_t entry, uint64_t position, bool acknowledged)
{
    pthread_mutex_lock(&ledger->lock);
    if (acknowledged)
        ledger->events[entry].acknowledged = position;
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_allowed(struct ledger *ledger, uint64_t position, uint8_t allowed[FIDS_ALL + 1])
{
    memset(allowed, MAY_BE_ABSENT, FIDS_ALL + 1);
    pthread_mutex_lock(&ledger->lock);
    for (size_t i = 0; i < ledger->count; i++) {
        const struct event *event = &ledger->events[i];
        uint8_t outcome = event->is_delete ? MAY_BE_ABSENT : MAY_BE_PRESENT;
        if (event->acknowledged <= position)
            allowed[event->fid] = outcome;
        else if (event->begun < position)
            allowed[event->fid] |= outcome;
    }
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_save(const struct ledger *ledger, FILE *file)
{
    CHECK(fwrite(&ledger->count, sizeof ledger->count, 1, file) == 1);
    CHECK(ledger->count == 0 || fwrite(ledger->events, sizeof ledger->events[0], ledger->count, file) == ledger->count);
}

struct ledger *ledger_load(FILE *file)
{
    struct ledger *ledger = ledger_new();
    size_t count;
    CHECK(fread(&count, sizeof count, 1, file) == 1);
    for (size_t i = 0; i < count; i++) {
        struct event event;
        CHECK(fread(&event, sizeof event, 1, file) == 1);
        (void)add(ledger, &event);
    }
    return ledger;
}
