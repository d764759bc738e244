#include "image.h"

#include <string.h>

#include "engine_test.h"

struct page {
    uint32_t references;
    uint8_t bytes[PAGE_BYTES];
};

static void page_release(struct page *page)
{
    if (page != NULL && --page->references == 0)
        free(page);
}

static void make_room(struct image *image, size_t count)
{
    if (count <= image->count)
        return;
    image->pages = realloc(image->pages, count * sizeof image->pages[0]);
    image->taken = realloc(image->taken, count * sizeof image->taken[0]);
    CHECK(image->pages != NULL && image->taken != NULL);
    memset(image->pages + image->count, 0, (count - image->count) * sizeof image->pages[0]);
    memset(image->taken + image->count, 0, (count - image->count) * sizeof image->taken[0]);
    image->count = count;
}

/* The page, private to this image. */
static uint8_t *own_page(struct image *image, size_t at)
{
    make_room(image, at + 1);
    struct page *page = image->pages[at];
    if (page != NULL && page->references == 1)
        return page->bytes;
    struct page *own = page == NULL ? calloc(1, sizeof *own) : malloc(sizeof *own);
    CHECK(own != NULL);
    if (page != NULL)
        memcpy(own->bytes, page->bytes, PAGE_BYTES);
    page_release(page);
    own->references = 1;
    image->pages[at] = own;
    image->taken[at] = true;
    return own->bytes;
}

struct image image_copy(const struct image *image)
{
    struct image copy = {.size = image->size};
    make_room(&copy, image->count);
    for (size_t at = 0; at < image->count; at++) {
        copy.pages[at] = image->pages[at];
        copy.taken[at] = image->taken[at];
        if (copy.pages[at] != NULL)
            copy.pages[at]->references++;
    }
    return copy;
}

void image_free(struct image *image)
{
    for (size_t at = 0; at < image->count; at++)
        page_release(image->pages[at]);
    free(image->pages);
    free(image->taken);
    memset(image, 0, sizeof *image);
}

/* Bytes of [offset, offset + length) that lie in the page of offset. */
static size_t within_page(uint64_t offset, uint64_t length)
{
    uint64_t rest = PAGE_BYTES - offset % PAGE_BYTES;
    return (size_t)(length < rest ? length : rest);
}

void image_write(struct image *image, uint64_t offset, const uint8_t *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        size_t piece = within_page(offset + done, length - done);
        memcpy(own_page(image, (size_t)((offset + done) / PAGE_BYTES)) + (offset + done) % PAGE_BYTES, bytes + done, piece);
        done += piece;
    }
    if (length > 0 && offset + length > image->size)
        image->size = offset + length;
}

void image_read(const struct image *image, uint64_t offset, uint8_t *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        size_t piece = within_page(offset + done, length - done);
        size_t at = (size_t)((offset + done) / PAGE_BYTES);
        if (at < image->count && image->pages[at] != NULL)
            memcpy(bytes + done, image->pages[at]->bytes + (offset + done) % PAGE_BYTES, piece);
        else
            memset(bytes + done, 0, piece);
        done += piece;
    }
}

void image_resize(struct image *image, uint64_t size)
{
    if (size < image->size)
        image_punch(image, size, (uint64_t)image->count * PAGE_BYTES - size);
    image->size = size;
}

void image_allocate(struct image *image, uint64_t offset, uint64_t length)
{
    size_t end = (size_t)((offset + length + PAGE_BYTES - 1) / PAGE_BYTES);
    make_room(image, end);
    for (size_t at = (size_t)(offset / PAGE_BYTES); at < end; at++)
        image->taken[at] = true;
}

void image_punch(struct image *image, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;
    if (end > (uint64_t)image->count * PAGE_BYTES)
        end = (uint64_t)image->count * PAGE_BYTES;
    while (offset < end) {
        size_t piece = within_page(offset, end - offset);
        size_t at = (size_t)(offset / PAGE_BYTES);
        if (piece == PAGE_BYTES) {
            page_release(image->pages[at]);
            image->pages[at] = NULL;
            image->taken[at] = false;
        } else if (image->pages[at] != NULL) {
            memset(own_page(image, at) + offset % PAGE_BYTES, 0, piece);
        }
        offset += piece;
    }
}

uint64_t image_taken_bytes(const struct image *image)
{
    uint64_t taken = 0;
    for (size_t at = 0; at < image->count; at++)
        taken += image->taken[at];
    return taken * PAGE_BYTES;
}

uint64_t image_taken_by_either(const struct image *left, const struct image *right)
{
    uint64_t taken = 0;
    for (size_t at = 0; at < left->count || at < right->count; at++)
        taken += (at < left->count && left->taken[at]) || (at < right->count && right->taken[at]);
    return taken * PAGE_BYTES;
}

uint64_t image_missing_bytes(const struct image *image, uint64_t offset, uint64_t length)
{
    uint64_t missing = 0;
    for (uint64_t at = offset / PAGE_BYTES; at * PAGE_BYTES < offset + length; at++)
        missing += at >= image->count || !image->taken[at];
    return missing * PAGE_BYTES;
}

bool image_seek_data(const struct image *image, uint64_t offset, uint64_t *data)
{
    for (size_t at = (size_t)(offset / PAGE_BYTES); at < image->count && at * PAGE_BYTES < image->size; at++)
        if (image->pages[at] != NULL) {
            *data = at * PAGE_BYTES > offset ? at * PAGE_BYTES : offset;
            return true;
        }
    return false;
}

uint64_t image_seek_hole(const struct image *image, uint64_t offset)
{
    size_t at = (size_t)(offset / PAGE_BYTES);
    while (at < image->count && at * PAGE_BYTES < image->size && image->pages[at] != NULL)
        at++;
    uint64_t hole = at * PAGE_BYTES > offset ? at * PAGE_BYTES : offset;
    return hole < image->size ? hole : image->size;
}

void image_share_page(struct image *image, const struct image *from, size_t page)
{
    struct page *shared = page < from->count ? from->pages[page] : NULL;
    if (page >= image->count)
        return;
    if (shared != NULL)
        shared->references++;
    page_release(image->pages[page]);
    image->pages[page] = shared;
}
