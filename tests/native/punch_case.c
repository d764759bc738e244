/* Blocks of dead needles while somebody reads. */
#include "engine_test.h"
#include "store.h"

#define FIRST 1000 /* large enough to have whole blocks */
#define SECOND 1010
#define LARGE(fid) ((fid) + 5) /* shared.c: 70000 bytes */

/* What was deleted after a reader came waits behind what was deleted before; when the reader has left, one checkpoint
 * returns both. */
void test_punch(const struct test *test)
{
    engine_options options = options_of();
    engine_store *store;
    engine_error error;
    engine_stats before;
    engine_stats after;
    unsigned epoch;
    int removed;
    empty_directory(test->directory);
    CHECK(engine_open(test->directory, &options, &store, &error) == ENGINE_OK);
    CHECK(put(store, LARGE(FIRST), &error) == ENGINE_OK && put(store, LARGE(SECOND), &error) == ENGINE_OK);
    struct volume *volume = volumes_get(store, 0);
    volume_pin(volume, &epoch);
    CHECK(engine_delete(store, LARGE(FIRST), &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    CHECK(engine_delete(store, LARGE(SECOND), &removed, &error) == ENGINE_OK && removed == 1);
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    CHECK(engine_stat(store, &before, &error) == ENGINE_OK && before.punched_bytes == 0);
    (void)volume_unpin(volume, epoch); /* and the keeper is not woken */
    CHECK(engine_checkpoint(store, &error) == ENGINE_OK);
    CHECK(engine_stat(store, &after, &error) == ENGINE_OK && after.punched_bytes >= 2 * 60000);
    CHECK(engine_close(store, &error) == ENGINE_OK);
    engine_free(store);
}
