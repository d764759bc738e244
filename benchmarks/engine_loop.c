/*
 * Small chunks through the engine without an interpreter between: its callers' own cost would hide the engine's.
 *
 *     engine_loop put THREADS COUNT DIRECTORY     COUNT chunks of 4 KiB by blocking threads
 *     engine_loop read COUNT DIRECTORY            COUNT reads of 4 KiB chunks from the page cache, and the same bytes
 *                                                 by pread with and without the checksum, in turn; medians of 9
 * Prints one line of numbers. Compiled and started by benchmarks/engine.py.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#define CHUNK_BYTES 4096u
#define CHUNKS 15000u /* fit into the first volume */
#define TURNS 9
#define THREADS_MAX 256

static uint8_t payload[CHUNK_BYTES];
static uint32_t payload_crc;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "engine_loop: %s\n", what);
    exit(1);
}

static engine_store *open_store(const char *directory, uint32_t appenders)
{
    engine_error error;
    engine_store *store = NULL;
    engine_options options = {
        .volume_size_first = 64u << 20,
        .volume_size_max = 1u << 30,
        .reserve_bytes = 0,
        .queue_bytes_max = 256u << 20,
        .checkpoint_bytes = 256u << 20,
        .checkpoint_s = 60,
        .queue_timeout_s = 30,
        .appenders = appenders,
        .sync = 1,
        .create = 1,
    };
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)rand();
    payload_crc = engine_crc32c(0, payload, sizeof payload);
    if (engine_open(directory, &options, &store, &error) != ENGINE_OK)
        die(error.detail);
    return store;
}

struct writer {
    engine_store *store;
    uint64_t first_fid;
    unsigned count;
    pthread_t thread;
};

static void *write_chunks(void *argument)
{
    const struct writer *writer = argument;
    engine_error error;
    for (unsigned i = 0; i < writer->count; i++)
        if (engine_put(writer->store, writer->first_fid + i, payload, sizeof payload, payload_crc, &error) != ENGINE_OK)
            die(error.detail);
    return NULL;
}

static void put(unsigned threads, unsigned count, const char *directory)
{
    static struct writer writers[THREADS_MAX];
    engine_store *store = open_store(directory, 4);
    engine_stats stats;
    engine_error error;
    if (threads == 0 || threads > THREADS_MAX)
        die("1 to 256 threads");
    double begin_s = now_s();
    for (unsigned i = 0; i < threads; i++) {
        writers[i] = (struct writer){.store = store, .first_fid = 1 + (uint64_t)i * count, .count = count / threads};
        if (pthread_create(&writers[i].thread, NULL, write_chunks, &writers[i]) != 0)
            die("cannot start a thread");
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(writers[i].thread, NULL);
    double seconds = now_s() - begin_s;
    if (engine_stat(store, &stats, &error) != ENGINE_OK)
        die(error.detail);
    printf("%.1f %.2f %.1f\n", (double)stats.appends / seconds, (double)stats.appends / (double)stats.batches,
           (double)stats.live_bytes / (double)stats.batches);
    engine_free(store);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, TURNS, sizeof *values, by_value);
    return values[TURNS / 2];
}

static void read_chunks(unsigned count, const char *directory)
{
    static engine_item items[ENGINE_PUT_MANY_MAX];
    static engine_error errors[ENGINE_PUT_MANY_MAX];
    static uint64_t offsets[CHUNKS];
    static uint8_t buffer[2 * CHUNK_BYTES];
    double ours[TURNS], checked[TURNS], plain[TURNS];
    char path[4096];
    volatile uint32_t sum = 0; /* so that no checksum is left out */
    engine_error error;
    engine_chunk chunk;
    engine_store *store = open_store(directory, 1);
    for (unsigned fid = 1; fid <= CHUNKS;) {
        unsigned n = 0;
        for (; n < 1000 && fid <= CHUNKS; n++, fid++)
            items[n] = (engine_item){.fid = fid, .payload = payload, .length = sizeof payload, .crc32c = payload_crc};
        if (engine_put_many(store, items, n, errors) != ENGINE_OK)
            die(errors[0].detail);
    }
    for (unsigned i = 0; i < CHUNKS; i++) {
        if (engine_info(store, i + 1, &chunk, &error) != ENGINE_OK || chunk.volume != 1)
            die("a chunk is not where it should be");
        offsets[i] = chunk.offset;
    }
    snprintf(path, sizeof path, "%s/v00000001.dat", directory);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        die("cannot open the volume");
    for (int turn = 0; turn < TURNS; turn++) {
        unsigned seed = (unsigned)turn;
        double begin_s = now_s();
        for (unsigned i = 0; i < count; i++) {
            seed = seed * 1103515245u + 12345u;
            if (engine_read(store, (seed >> 8) % CHUNKS + 1, 0, buffer, CHUNK_BYTES, NULL, &error) != ENGINE_OK)
                die(error.detail);
        }
        ours[turn] = count / (now_s() - begin_s);
        for (int check = 0; check < 2; check++) {
            seed = (unsigned)turn;
            begin_s = now_s();
            for (unsigned i = 0; i < count; i++) {
                seed = seed * 1103515245u + 12345u;
                /* header and payload: the bytes that a verified read cannot do without */
                if (pread(file, buffer, CHUNK_BYTES + 128, (off_t)offsets[(seed >> 8) % CHUNKS]) != CHUNK_BYTES + 128)
                    die("short read");
                if (check)
                    sum ^= engine_crc32c(0, buffer + 128, CHUNK_BYTES);
            }
            *(check ? &checked[turn] : &plain[turn]) = count / (now_s() - begin_s);
        }
    }
    printf("%.1f %.1f %.1f\n", median(ours), median(plain), median(checked));
    (void)sum;
    close(file);
    engine_free(store);
}

int main(int count, char **arguments)
{
    if (count == 5 && strcmp(arguments[1], "put") == 0)
        put((unsigned)strtoul(arguments[2], NULL, 10), (unsigned)strtoul(arguments[3], NULL, 10), arguments[4]);
    else if (count == 4 && strcmp(arguments[1], "read") == 0)
        read_chunks((unsigned)strtoul(arguments[2], NULL, 10), arguments[3]);
    else
        die("usage: engine_loop put THREADS COUNT DIRECTORY | engine_loop read COUNT DIRECTORY");
    return 0;
}
