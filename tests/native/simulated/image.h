/*
 * The content of one file of a simulated disk: pages of 4 KiB that are shared until one of their owners changes them, so
 * that a copy of a disk costs pointers and not bytes. Not thread-safe; a page may be shared between disks of one thread.
 */
#ifndef SPEEDY_SIMULATED_IMAGE_H
#define SPEEDY_SIMULATED_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define SECTOR_BYTES 512u

struct page;

struct image {
    struct page **pages; /* owned references; NULL is a page of zeros that was never written */
    bool *taken;         /* the page has space on the disk, written or not */
    size_t count;        /* of both arrays */
    uint64_t size;       /* of the file, bytes */
};

struct image image_copy(const struct image *image);
void image_free(struct image *image);
void image_write(struct image *image, uint64_t offset, const uint8_t *bytes, size_t length);
void image_read(const struct image *image, uint64_t offset, uint8_t *bytes, size_t length);
void image_resize(struct image *image, uint64_t size);
/* Takes space; the size stays. */
void image_allocate(struct image *image, uint64_t offset, uint64_t length);
/* Whole pages become holes, parts of pages zeros. */
void image_punch(struct image *image, uint64_t offset, uint64_t length);
uint64_t image_taken_bytes(const struct image *image);
/* Space that either takes. */
uint64_t image_taken_by_either(const struct image *left, const struct image *right);
/* Pages in [offset, offset + length) without space. */
uint64_t image_missing_bytes(const struct image *image, uint64_t offset, uint64_t length);
/* First written byte at or behind offset; false when there is none. */
bool image_seek_data(const struct image *image, uint64_t offset, uint64_t *data);
/* First byte at or behind offset that was not written; the size when there is none. */
uint64_t image_seek_hole(const struct image *image, uint64_t offset);
/* The page of `image` becomes that of `from`. */
void image_share_page(struct image *image, const struct image *from, size_t page);

#endif
