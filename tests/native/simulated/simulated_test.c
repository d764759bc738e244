/*
 * Power cuts and failing disks by the thousand, on a simulated disk.
 *
 *   simulated_test crashes POINTS SEED DIRECTORY [STRIDE]   at least so many different crashes over all workloads, every
 *                                                  position of every record among them, or every STRIDE-th; records go to
 *                                                  DIRECTORY while they are used
 *   simulated_test faults STRIDE SEED DIRECTORY    each kind of fault at every STRIDE-th call of each workload
 *   simulated_test flips STRIDE SEED DIRECTORY     each single bit of a small store flipped (flips.h)
 *   simulated_test crash WORKLOAD SEED POSITION CUT [POSITION CUT]   one of the crashes again, the second pair being a cut
 *                                                  during the recovery from the first; WORKLOAD may be a saved record
 *   simulated_test kill WORKLOAD SEED POSITION CUT   one of the power cuts after a second process was there, which
 *                                                  `crashes` also tries
 *   simulated_test fault WORKLOAD SEED KIND CALL   one of the faults again
 *
 * Exit status 0 and "ok" at the end, or an abort after the broken promise and the command that shows it again.
 */
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "engine_test.h"
#include "flips.h"
#include "promises.h"

#define POINT_TIMEOUT_S 120 /* I3: nothing here takes a second, but the machine may be busy */
#define ROUNDS_MAX 100000
#define DEEP_EVERY 5
#define KILL_EVERY 3
#define PATH_BYTES 512

static char again[PATH_BYTES + 200]; /* how to repeat what runs now; for the signal handler */

static void report(int number)
{
    static const char head[] = "\nto see it again: simulated_test ";
    ssize_t ignored = write(2, head, sizeof head - 1);
    ignored += write(2, again, strlen(again));
    ignored += write(2, number == SIGALRM ? " (took too long)\n" : "\n", number == SIGALRM ? 17 : 1);
    (void)ignored;
    signal(number, SIG_DFL);
    raise(number);
}

/* A set of numbers: which crashes were different. */
struct set {
    uint64_t *slots; /* owned; 0 is free */
    uint64_t capacity;
    uint64_t count;
};

static bool set_add(struct set *set, uint64_t value)
{
    if (set->count * 2 >= set->capacity) {
        struct set larger = {.capacity = set->capacity == 0 ? 1024 : 2 * set->capacity};
        larger.slots = calloc(larger.capacity, sizeof larger.slots[0]);
        CHECK(larger.slots != NULL);
        for (uint64_t i = 0; i < set->capacity; i++)
            if (set->slots[i] != 0)
                (void)set_add(&larger, set->slots[i]);
        free(set->slots);
        *set = larger;
    }
    value = value == 0 ? 1 : value;
    uint64_t at = value * 0x9e3779b97f4a7c15u % set->capacity;
    while (set->slots[at] != 0 && set->slots[at] != value)
        at = (at + 1) % set->capacity;
    if (set->slots[at] == value)
        return false;
    set->slots[at] = value;
    set->count++;
    return true;
}

static uint64_t mix(uint64_t seed, uint64_t value)
{
    uint64_t mixed = (seed ^ value * 0xd6e8feb86659fd93u) + 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (mixed ^ (mixed >> 31)) >> 1;
}

/* A recorded run. */
struct recording {
    const char *name; /* of the workload, or of the file that holds the record */
    const struct workload *workload;
    const struct contents *contents;
    uint64_t seed;
    struct sim_disk *disk;
    struct ledger *ledger;
};

static void record(struct recording *recording, const struct contents *contents, const struct workload *workload,
                   uint64_t seed, enum sim_fault fault, uint64_t call)
{
    *recording = (struct recording){workload->name, workload, contents, seed, sim_disk_new(workload->capacity_bytes),
                                    ledger_new()};
    struct run run = {.disk = recording->disk, .ledger = recording->ledger, .contents = contents, .workload = workload};
    sim_disk_arm(recording->disk, fault, call, seed);
    alarm(POINT_TIMEOUT_S);
    workload_run(&run, seed);
}

static void recording_free(struct recording *recording)
{
    ledger_free(recording->ledger);
    sim_disk_free(recording->disk);
}

static void save(const struct recording *recording, const char *path)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    char name[32] = {0};
    strcpy(name, recording->workload->name);
    CHECK(fwrite(name, sizeof name, 1, file) == 1);
    ledger_save(recording->ledger, file);
    sim_disk_save(recording->disk, file);
    CHECK(fclose(file) == 0);
}

static void load(struct recording *recording, const struct contents *contents, const char *path)
{
    FILE *file = fopen(path, "rb");
    char name[32];
    CHECK(file != NULL && fread(name, sizeof name, 1, file) == 1);
    *recording = (struct recording){.name = path, .workload = workload_named(name), .contents = contents};
    CHECK(recording->workload != NULL);
    recording->ledger = ledger_load(file);
    recording->disk = sim_disk_load(file);
    CHECK(fclose(file) == 0);
}

/* Cuts the power during the recovery of `begin` that `recovered` has recorded. */
static void crash_in_recovery(const struct promises *promises, const struct sim_disk *begin, struct sim_disk *recovered,
                              uint64_t recovery_changes, uint64_t position, uint64_t cut, uint64_t *fingerprint)
{
    struct sim_disk *follower = sim_disk_copy(begin);
    CHECK(position <= recovery_changes);
    for (uint64_t i = 0; i < position; i++)
        sim_disk_follow(follower, recovered, i);
    struct sim_disk *crashed = sim_disk_crash(follower, cut, fingerprint);
    struct promises branch = *promises;
    branch.later = ledger_copy(promises->later);
    (void)promises_check(&branch, crashed, position);
    ledger_free(branch.later);
    sim_disk_free(crashed);
    sim_disk_free(follower);
}

/* One power cut, all checks, and if there is something to interrupt one more during the recovery. */
static uint64_t crash(const struct recording *recording, struct sim_disk *follower, uint64_t position, uint64_t cut,
                      uint64_t again_position, uint64_t again_cut, struct set *seen)
{
    struct promises promises = {recording->contents, recording->workload, recording->ledger, position, ledger_new(), false};
    uint64_t fingerprint = 0;
    uint64_t points = 0;
    struct sim_disk *crashed = sim_disk_crash(follower, cut, &fingerprint);
    uint64_t key = mix(mix(recording->seed, position), fingerprint ^ (uint64_t)(uintptr_t)recording->workload);
    bool fresh = seen == NULL || set_add(seen, key);
    struct sim_disk *begin = sim_disk_copy(crashed);
    int length = snprintf(again, sizeof again, "crash %s %" PRIu64 " %" PRIu64 " %" PRIu64, recording->name,
                          recording->seed, position, cut);
    CHECK(length > 0);
    alarm(POINT_TIMEOUT_S);
    bool complete = false;
    if (fresh) {
        complete = promises_check(&promises, crashed, 0);
        points++;
    }
    uint64_t changes = sim_disk_position(crashed);
    if (fresh && changes > 0) {
        again_position = again_position == UINT64_MAX ? mix(cut, 1) % (changes + 1) : again_position;
        (void)snprintf(again + length, sizeof again - (size_t)length, " %" PRIu64 " %" PRIu64, again_position, again_cut);
        crash_in_recovery(&promises, begin, crashed, changes, again_position, again_cut, &fingerprint);
        if (seen == NULL || set_add(seen, mix(key, mix(again_position, fingerprint))))
            points++;
        again[length] = 0;
    }
    if (fresh && (seen == NULL || cut % DEEP_EVERY == 0))
        promises_check_deeply(&promises, crashed, complete, cut / DEEP_EVERY);
    ledger_free(promises.later);
    sim_disk_free(begin);
    sim_disk_free(crashed);
    return points;
}

/* The process is killed there, a second one opens the store, and then the power is cut. */
static void kill_process(const struct recording *recording, const struct sim_disk *follower, uint64_t position, uint64_t cut)
{
    struct promises promises = {recording->contents, recording->workload, recording->ledger, position, ledger_new(), false};
    struct sim_disk *killed = sim_disk_copy(follower);
    CHECK(snprintf(again, sizeof again, "kill %s %" PRIu64 " %" PRIu64 " %" PRIu64, recording->name, recording->seed,
                   position, cut) > 0);
    alarm(POINT_TIMEOUT_S);
    promises_check_kill(&promises, killed, cut);
    ledger_free(promises.later);
    sim_disk_free(killed);
}

static uint64_t crash_everywhere(const struct recording *recording, uint64_t cuts, uint64_t seed, uint64_t stride,
                                 struct set *seen)
{
    uint64_t points = 0;
    uint64_t end = sim_disk_position(recording->disk);
    struct sim_disk *follower = sim_disk_new(recording->workload->capacity_bytes);
    for (uint64_t position = 0; position <= end; position++) {
        bool chosen = (position + seed) % stride == 0;
        if (chosen && (position + seed) / stride % KILL_EVERY == 0)
            kill_process(recording, follower, position, mix(seed, position));
        for (uint64_t i = 0; chosen && i < cuts; i++) {
            uint64_t cut = mix(mix(seed, position), i);
            points += crash(recording, follower, position, cut, UINT64_MAX, mix(cut, 2), seen);
        }
        if (position < end)
            sim_disk_follow(follower, recording->disk, position);
    }
    sim_disk_free(follower);
    return points;
}

static void run_crashes(const struct contents *contents, uint64_t wanted, uint64_t seed, const char *directory,
                        uint64_t stride)
{
    struct set seen = {NULL, 0, 0};
    uint64_t points = 0;
    size_t workloads = 0;
    while (workload_at(workloads) != NULL)
        workloads++;
    for (uint64_t round = 0; points < wanted || round < workloads; round++) {
        struct recording recording;
        char path[PATH_BYTES];
        CHECK(round < ROUNDS_MAX);
        const struct workload *workload = workload_at(round % workloads);
        uint64_t run_seed = seed + round / workloads;
        (void)snprintf(again, sizeof again, "crash %s %" PRIu64 " 0 0", workload->name, run_seed);
        record(&recording, contents, workload, run_seed, SIM_NO_FAULT, 0);
        if (workload->threaded) {
            CHECK(snprintf(path, sizeof path, "%s/record-%s-%" PRIu64, directory, workload->name, run_seed) < PATH_BYTES);
            save(&recording, path);
            recording.name = path;
        }
        uint64_t end = sim_disk_position(recording.disk);
        /* The first workloads leave room for the later ones; then whatever is missing. */
        uint64_t share = wanted / workloads / (2 * end / stride + 1) + 1;
        uint64_t cuts = round < workloads || share < 4 ? share : 4;
        uint64_t made = crash_everywhere(&recording, cuts, run_seed, stride, &seen);
        printf("%s, seed %" PRIu64 ": %" PRIu64 " changes and syncs, %" PRIu64 " crashes\n", workload->name, run_seed, end,
               made);
        (void)fflush(stdout);
        points += made;
        if (workload->threaded)
            (void)unlink(path);
        recording_free(&recording);
    }
    printf("%" PRIu64 " different crashes\n", points);
    free(seen.slots);
}

/* One run on a failing disk, then the power is cut or not, and all must hold on a good disk. False: the call was never
 * reached. */
static bool fault(const struct contents *contents, const struct workload *workload, uint64_t seed, enum sim_fault kind,
                  uint64_t call)
{
    struct recording recording;
    uint64_t fingerprint;
    CHECK(snprintf(again, sizeof again, "fault %s %" PRIu64 " %d %" PRIu64, workload->name, seed, (int)kind, call) > 0);
    record(&recording, contents, workload, seed, kind, call);
    bool fired = sim_disk_fired(recording.disk);
    sim_disk_arm(recording.disk, SIM_NO_FAULT, 0, 0);
    struct promises promises = {contents, workload, recording.ledger, UINT64_MAX - 1, ledger_new(), true};
    if (call % KILL_EVERY == 0) {
        struct sim_disk *killed = sim_disk_copy(recording.disk);
        promises_check_kill(&promises, killed, mix(seed, call));
        sim_disk_free(killed);
    }
    struct sim_disk *after = sim_disk_crash(recording.disk, mix(seed, call), &fingerprint);
    bool complete = promises_check(&promises, after, 0);
    promises_check_deeply(&promises, after, complete, call);
    sim_disk_free(after);
    ledger_free(promises.later);
    promises.later = ledger_new();
    (void)promises_check(&promises, recording.disk, 0);
    ledger_free(promises.later);
    recording_free(&recording);
    return fired;
}

static void run_faults(const struct contents *contents, uint64_t stride, uint64_t seed)
{
    for (size_t number = 0; workload_at(number) != NULL; number++) {
        const struct workload *workload = workload_at(number);
        uint64_t faults = 0;
        if (workload->threaded)
            continue; /* the number of a call says nothing there */
        for (int kind = 0; kind < SIM_FAULTS; kind++)
            for (uint64_t call = 1 + (seed + (uint64_t)kind * 3) % stride;
                 fault(contents, workload, seed, (enum sim_fault)kind, call); call += stride)
                faults++;
        printf("%s, seed %" PRIu64 ": %" PRIu64 " faults\n", workload->name, seed, faults);
        (void)fflush(stdout);
    }
}

static void repeat_crash(const struct contents *contents, int count, char **arguments)
{
    struct recording recording;
    uint64_t seed = strtoull(arguments[3], NULL, 10);
    uint64_t position = strtoull(arguments[4], NULL, 10);
    uint64_t cut = strtoull(arguments[5], NULL, 10);
    const struct workload *workload = workload_named(arguments[2]);
    if (workload != NULL)
        record(&recording, contents, workload, seed, SIM_NO_FAULT, 0);
    else
        load(&recording, contents, arguments[2]);
    struct sim_disk *follower = sim_disk_new(recording.workload->capacity_bytes);
    for (uint64_t i = 0; i < position; i++)
        sim_disk_follow(follower, recording.disk, i);
    if (strcmp(arguments[1], "kill") == 0)
        kill_process(&recording, follower, position, cut);
    else
        (void)crash(&recording, follower, position, cut, count > 6 ? strtoull(arguments[6], NULL, 10) : UINT64_MAX,
                    count > 7 ? strtoull(arguments[7], NULL, 10) : mix(cut, 2), NULL);
    sim_disk_free(follower);
    recording_free(&recording);
}

int main(int count, char **arguments)
{
    struct contents contents;
    CHECK(count >= 5);
    (void)signal(SIGABRT, report);
    (void)signal(SIGSEGV, report);
    (void)signal(SIGALRM, report);
    contents_make(&contents);
    uint64_t first = strtoull(arguments[2], NULL, 10);
    uint64_t seed = strtoull(arguments[3], NULL, 10);
    if (strcmp(arguments[1], "crashes") == 0)
        run_crashes(&contents, first, seed, arguments[4], count > 5 ? strtoull(arguments[5], NULL, 10) : 1);
    else if (strcmp(arguments[1], "faults") == 0 && first > 0)
        run_faults(&contents, first, seed);
    else if (strcmp(arguments[1], "flips") == 0 && first > 0)
        printf("%" PRIu64 " flips\n", flips_check(&contents, first, again, sizeof again));
    else if ((strcmp(arguments[1], "crash") == 0 || strcmp(arguments[1], "kill") == 0) && count >= 6)
        repeat_crash(&contents, count, arguments);
    else if (strcmp(arguments[1], "fault") == 0 && count >= 6 && workload_named(arguments[2]) != NULL)
        (void)fault(&contents, workload_named(arguments[2]), seed, (enum sim_fault)strtoull(arguments[4], NULL, 10),
                    strtoull(arguments[5], NULL, 10));
    else
        CHECK(false && "a known command");
    contents_free(&contents);
    puts("ok");
    return 0;
}
