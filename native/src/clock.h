/* Time: monotonic for waiting, Unix time only for people to read. Nothing on disk is ordered by time. */
#ifndef SPEEDY_CLOCK_H
#define SPEEDY_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_monotonic_ns(void)
{
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_unix_us(void)
{
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* seconds may be 0 or absurdly large. */
static inline uint64_t clock_deadline(double seconds)
{
    if (!(seconds > 0))
        seconds = 0;
    if (seconds > 1e8)
        seconds = 1e8;
    return clock_monotonic_ns() + (uint64_t)(seconds * 1e9);
}

static inline struct timespec clock_timespec(uint64_t deadline_ns)
{
    struct timespec when = {.tv_sec = (time_t)(deadline_ns / 1000000000u), .tv_nsec = (long)(deadline_ns % 1000000000u)};
    return when;
}

#endif
