/*
 * libFuzzer target: opens a store of which one file was changed. SPEEDY_FUZZ_TARGET chooses the file: volume, checkpoint,
 * manifest or deletes.
 *
 * The input is laid over the bytes that mean something, by XOR: zeros leave the good file, whose uuids differ in each
 * process. Without more, every change would stop at a checksum; so the first byte says whether the checksums are made to fit
 * afterwards, and the two behind it how much shorter the file becomes. Whatever it is, the store opens or says why not, reads
 * what it lists or says why not, takes a chunk and opens again; the sanitizers and libFuzzer's time-out watch.
 */
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "disk.h"
#include "engine_test.h"
#include "ledger.h"
#include "needle.h"
#include "store.h"

#define CAPACITY ((uint64_t)64 << 20)
#define CHUNKS_PUT 10
#define FIT_CHECKSUMS 1u
#define DROP_CHECKPOINTS 2u
#define HEAD_BYTES 3
#define WINDOWS_MAX 64

/* A piece of the file that the input is laid over. */
struct window {
    uint64_t start;
    uint64_t length;
};

struct target {
    const char *name;
    const char *file;
    void (*fit)(struct sim_disk *disk, const char *file, const struct window *window);
};

struct fuzz {
    const struct target *target;
    struct contents contents;
    struct sim_disk *good;
    struct window windows[WINDOWS_MAX];
    size_t window_count;
    uint64_t size;
};

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fuzz fuzz; /* libFuzzer hands no context through */

static void read_window(struct sim_disk *disk, const char *file, const struct window *window, uint8_t *bytes)
{
    uint64_t size;
    CHECK(window->length <= 2 * BLOCK_BYTES);
    CHECK(sim_disk_read(disk, file, window->start, bytes, (size_t)window->length, &size));
}

static void write_u32(struct sim_disk *disk, const char *file, uint64_t offset, uint32_t value)
{
    uint8_t bytes[4];
    store_u32(bytes, value);
    sim_disk_overwrite(disk, file, offset, bytes, sizeof bytes);
}

/* A superblock, or a needle with its payload: the header checksum only. */
static void fit_volume(struct sim_disk *disk, const char *file, const struct window *window)
{
    uint8_t bytes[2 * BLOCK_BYTES] = {0};
    if (window->start < VOLUME_DATA_START) {
        struct window block = {window->start, BLOCK_BYTES};
        read_window(disk, file, &block, bytes);
        write_u32(disk, file, window->start + BLOCK_BYTES - 4, engine_crc32c(0, bytes, BLOCK_BYTES - 4));
        return;
    }
    read_window(disk, file, window, bytes);
    uint32_t length = load_u32(bytes + 8);
    if (length < 16 || length > window->length)
        return;
    store_u32(bytes + 12, 0);
    write_u32(disk, file, window->start + 12, engine_crc32c(0, bytes, length));
}

static void fit_checkpoint(struct sim_disk *disk, const char *file, const struct window *window)
{
    uint8_t bytes[2 * BLOCK_BYTES];
    read_window(disk, file, window, bytes);
    store_u32(bytes + 96, engine_crc32c(0, bytes + 128, (size_t)window->length - 128));
    sim_disk_overwrite(disk, file, window->start + 96, bytes + 96, 4);
    write_u32(disk, file, window->start + 124, engine_crc32c(0, bytes, 124));
}

static void fit_manifest(struct sim_disk *disk, const char *file, const struct window *window)
{
    uint8_t bytes[2 * BLOCK_BYTES];
    read_window(disk, file, window, bytes);
    write_u32(disk, file, window->start + 252, engine_crc32c(0, bytes, 252));
}

static void fit_deletes(struct sim_disk *disk, const char *file, const struct window *window)
{
    uint8_t bytes[2 * BLOCK_BYTES];
    read_window(disk, file, window, bytes);
    write_u32(disk, file, window->start + 4, engine_crc32c(0, bytes + 8, 56));
}

static void add_window(uint64_t start, uint64_t length)
{
    CHECK(fuzz.window_count < WINDOWS_MAX);
    fuzz.windows[fuzz.window_count++] = (struct window){start, length};
}

/* Records of this length at the start of blocks. */
static void add_records(uint64_t length)
{
    for (uint64_t at = 0; at < fuzz.size && fuzz.window_count < 6; at += BLOCK_BYTES)
        add_window(at, length);
}

static engine_options fuzz_options(void)
{
    engine_options options = options_of();
    options.volume_size_max = options.volume_size_first;
    return options;
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    static const struct target targets[] = {
        {"volume", "v00000001.dat", fit_volume},
        {"checkpoint", "v00000001.ckp", fit_checkpoint},
        {"manifest", "MANIFEST", fit_manifest},
        {"deletes", "v00000001.del", fit_deletes},
    };
    const char *name = getenv("SPEEDY_FUZZ_TARGET");
    engine_options options = fuzz_options();
    engine_store *store;
    engine_error error;
    engine_chunk chunk;
    int removed;
    (void)count;
    (void)arguments;
    for (size_t i = 0; name != NULL && i < sizeof targets / sizeof targets[0]; i++)
        if (strcmp(targets[i].name, name) == 0)
            fuzz.target = &targets[i];
    CHECK(fuzz.target != NULL);
    contents_make(&fuzz.contents);
    fuzz.good = sim_disk_new(CAPACITY);
    CHECK(store_open_on(sim_disk_table(fuzz.good), "", &options, &store, &error) == ENGINE_OK);
    bool volume = strcmp(name, "volume") == 0;
    if (volume) {
        add_window(0, 104);
        add_window(BLOCK_BYTES, 104);
    }
    for (uint64_t fid = 1; fid <= CHUNKS_PUT; fid++) {
        CHECK(contents_put(&fuzz.contents, store, fid) == ENGINE_OK);
        CHECK(engine_info(store, fid, &chunk, &error) == ENGINE_OK);
        if (volume)
            add_window(chunk.offset, 192);
    }
    for (uint64_t fid = 2; fid <= CHUNKS_PUT; fid += 4)
        CHECK(engine_delete(store, fid, &removed, &error) == ENGINE_OK && removed == 1);
    engine_free(store);
    uint8_t none;
    CHECK(sim_disk_read(fuzz.good, fuzz.target->file, 0, &none, 0, &fuzz.size));
    if (strcmp(name, "checkpoint") == 0)
        add_window(0, fuzz.size);
    else if (!volume)
        add_records(strcmp(name, "manifest") == 0 ? 256 : 64);
    return 0;
}

/* Every call may fail; none may do worse. */
static void use(struct sim_disk *disk)
{
    engine_options options = fuzz_options();
    engine_store *store;
    engine_error error;
    engine_chunk chunks[4 * CHUNKS_PUT];
    engine_stats stats;
    size_t count = 0;
    int removed;
    if (store_open_on(sim_disk_table(disk), "", &options, &store, &error) != ENGINE_OK)
        return;
    CHECK(engine_stat(store, &stats, &error) == ENGINE_OK);
    CHECK(engine_iterate(store, 0, chunks, sizeof chunks / sizeof chunks[0], &count, &error) == ENGINE_OK);
    for (size_t i = 0; i < count; i++) {
        uint8_t *bytes = malloc((size_t)chunks[i].length + 1);
        CHECK(bytes != NULL);
        int status = engine_read(store, chunks[i].fid, 0, bytes, chunks[i].length, NULL, &error);
        CHECK(status == ENGINE_OK || status == ENGINE_CORRUPT);
        free(bytes);
    }
    int status = contents_put(&fuzz.contents, store, FIDS);
    if (status == ENGINE_OK)
        CHECK(contents_get(&fuzz.contents, store, FIDS) == ENGINE_OK);
    for (uint64_t fid = 1; fid <= 3; fid++) {
        (void)contents_put(&fuzz.contents, store, fid);
        (void)engine_delete(store, fid, &removed, &error);
    }
    (void)engine_checkpoint(store, &error);
    engine_free(store);
    if (status != ENGINE_OK)
        return;
    CHECK(store_open_on(sim_disk_table(disk), "", &options, &store, &error) == ENGINE_OK);
    CHECK(contents_get(&fuzz.contents, store, FIDS) == ENGINE_OK);
    engine_free(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t flags = size > 0 ? data[0] : 0;
    uint64_t shorter = size >= HEAD_BYTES ? (uint64_t)data[1] * 16 + data[2] : 0;
    size_t at = HEAD_BYTES;
    struct sim_disk *disk = sim_disk_copy(fuzz.good);
    if ((flags & DROP_CHECKPOINTS) != 0 && strcmp(fuzz.target->name, "checkpoint") != 0) {
        sim_disk_remove(disk, "v00000001.ckp");
        sim_disk_remove(disk, "v00000001.ckp.old");
    }
    for (size_t i = 0; i < fuzz.window_count && at < size; i++) {
        const struct window *window = &fuzz.windows[i];
        uint8_t bytes[2 * BLOCK_BYTES];
        read_window(disk, fuzz.target->file, window, bytes);
        for (uint64_t byte = 0; byte < window->length && at < size; byte++)
            bytes[byte] ^= data[at++];
        sim_disk_overwrite(disk, fuzz.target->file, window->start, bytes, (size_t)window->length);
        if ((flags & FIT_CHECKSUMS) != 0)
            fuzz.target->fit(disk, fuzz.target->file, window);
    }
    if (shorter > 0)
        sim_disk_resize(disk, fuzz.target->file, fuzz.size > shorter ? fuzz.size - shorter : 0);
    use(disk);
    sim_disk_free(disk);
    return 0;
}
