/*
 * The smallest of many items that come in no order, in memory for those that are kept: a binary heap with the largest of
 * them on top, once it is full.
 *
 * An item is of any type with a key of 64 bits in it. In line, so that a pass over millions copies and compares with sizes
 * that the compiler knows.
 */
#ifndef SPEEDY_SMALLEST_H
#define SPEEDY_SMALLEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SMALLEST_ITEM_BYTES_MAX 64

struct smallest {
    void *items; /* the caller's: room for limit */
    size_t limit;
    size_t count;
};

/* How the items of a heap look; a constant. */
struct smallest_item {
    size_t bytes;  /* at most SMALLEST_ITEM_BYTES_MAX */
    size_t key_at; /* the uint64_t that is compared, from the item's begin */
};

static inline uint64_t smallest_key(const void *items, struct smallest_item form, size_t at)
{
    uint64_t key;
    memcpy(&key, (const char *)items + at * form.bytes + form.key_at, sizeof key);
    return key;
}

static inline void smallest_move(void *items, struct smallest_item form, size_t to, const void *item)
{
    memcpy((char *)items + to * form.bytes, item, form.bytes);
}

/* Puts item in the place `at`, or below it where it belongs. Not one of items. */
static inline void smallest_sink(void *items, size_t count, struct smallest_item form, size_t at, const void *item)
{
    uint64_t key = smallest_key(item, form, 0);
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && smallest_key(items, form, child + 1) > smallest_key(items, form, child))
            child++;
        if (key >= smallest_key(items, form, child))
            break;
        smallest_move(items, form, at, (const char *)items + child * form.bytes);
        at = child;
    }
    smallest_move(items, form, at, item);
}

static inline void smallest_order(struct smallest *smallest, struct smallest_item form)
{
    unsigned char item[SMALLEST_ITEM_BYTES_MAX];
    for (size_t at = smallest->count / 2; at-- > 0;) {
        memcpy(item, (char *)smallest->items + at * form.bytes, form.bytes);
        smallest_sink(smallest->items, smallest->count, form, at, item);
    }
}

/* Keeps a copy of the item, in place of the largest when there are limit > 0 already, unless it is not below that one. */
static inline void smallest_offer(struct smallest *smallest, struct smallest_item form, const void *item)
{
    if (smallest->count < smallest->limit) {
        smallest_move(smallest->items, form, smallest->count++, item);
        if (smallest->count == smallest->limit)
            smallest_order(smallest, form);
    } else if (smallest_key(item, form, 0) < smallest_key(smallest->items, form, 0)) {
        smallest_sink(smallest->items, smallest->count, form, 0, item);
    }
}

/* Leaves the items ascending, and the heap for nothing else. */
static inline void smallest_sort(struct smallest *smallest, struct smallest_item form)
{
    unsigned char item[SMALLEST_ITEM_BYTES_MAX];
    if (smallest->count < smallest->limit)
        smallest_order(smallest, form);
    for (size_t last = smallest->count; last-- > 1;) {
        memcpy(item, (char *)smallest->items + last * form.bytes, form.bytes);
        smallest_move(smallest->items, form, last, smallest->items);
        smallest_sink(smallest->items, last, form, 0, item);
    }
}

#endif
