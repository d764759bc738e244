/*
 * SHA-256 and SHA-512 with a state that survives a process: libcrypto's low-level contexts keep it in plain fields.
 *
 * Exported state, 240 bytes, little-endian:
 *     0  magic "SPDG"           4  u16 version (1)        6  u16 kind (engine_digest_kind)
 *     8  u64 bytes hashed      16  u64 h[8] (SHA-256: the upper halves are zero)
 *    80  u8[128] the bytes of the unfinished block, then zeros     208  u32 how many those are
 *   212  zeros                236  u32 CRC32C of bytes 0..235
 */
#include <limits.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "engine.h"

#define STATE_MAGIC 0x47445053u /* "SPDG" */
#define STATE_VERSION 1
#define CRC_AT 236

struct engine_digest {
    int kind;
    uint64_t length;
    union {
        SHA256_CTX sha256;
        SHA512_CTX sha512;
    } context;
};

engine_digest *engine_digest_new(int kind)
{
    if (kind != ENGINE_SHA256 && kind != ENGINE_SHA512)
        return NULL;
    engine_digest *digest = calloc(1, sizeof *digest);
    if (digest == NULL)
        return NULL;
    digest->kind = kind;
    int ready = kind == ENGINE_SHA256 ? SHA256_Init(&digest->context.sha256) : SHA512_Init(&digest->context.sha512);
    if (ready != 1) {
        free(digest);
        return NULL;
    }
    return digest;
}

engine_digest *engine_digest_copy(const engine_digest *digest)
{
    engine_digest *copy = malloc(sizeof *copy);
    if (copy != NULL)
        *copy = *digest;
    return copy;
}

void engine_digest_free(engine_digest *digest)
{
    free(digest);
}

int engine_digest_kind_of(const engine_digest *digest)
{
    return digest->kind;
}

uint64_t engine_digest_length(const engine_digest *digest)
{
    return digest->length;
}

int engine_digest_update(engine_digest *digest, const void *data, size_t length)
{
    if (length == 0)
        return 0;
    if (length > UINT64_MAX / 8 - digest->length)
        return -1; /* the 64-bit count of bits in SHA256_CTX would wrap */
    int done = digest->kind == ENGINE_SHA256 ? SHA256_Update(&digest->context.sha256, data, length)
                                             : SHA512_Update(&digest->context.sha512, data, length);
    if (done != 1)
        return -1;
    digest->length += length;
    return 0;
}

int engine_digest_hex(const engine_digest *digest, char hex[129])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t raw[SHA512_DIGEST_LENGTH];
    engine_digest last = *digest;
    size_t length;
    int done;
    if (digest->kind == ENGINE_SHA256) {
        done = SHA256_Final(raw, &last.context.sha256);
        length = SHA256_DIGEST_LENGTH;
    } else {
        done = SHA512_Final(raw, &last.context.sha512);
        length = SHA512_DIGEST_LENGTH;
    }
    if (done != 1)
        return -1;
    for (size_t i = 0; i < length; i++) {
        hex[2 * i] = digits[raw[i] >> 4];
        hex[2 * i + 1] = digits[raw[i] & 15];
    }
    hex[2 * length] = 0;
    return 0;
}

void engine_digest_export(const engine_digest *digest, uint8_t state[240])
{
    memset(state, 0, ENGINE_DIGEST_STATE_BYTES);
    store_u32(state, STATE_MAGIC);
    store_u16(state + 4, STATE_VERSION);
    store_u16(state + 6, (uint16_t)digest->kind);
    store_u64(state + 8, digest->length);
    uint32_t pending;
    if (digest->kind == ENGINE_SHA256) {
        const SHA256_CTX *context = &digest->context.sha256;
        pending = context->num;
        for (size_t i = 0; i < 8; i++)
            store_u64(state + 16 + 8 * i, context->h[i]);
        memcpy(state + 80, context->data, pending);
    } else {
        const SHA512_CTX *context = &digest->context.sha512;
        pending = context->num;
        for (size_t i = 0; i < 8; i++)
            store_u64(state + 16 + 8 * i, context->h[i]);
        memcpy(state + 80, context->u.p, pending);
    }
    store_u32(state + 208, pending);
    store_u32(state + CRC_AT, engine_crc32c(0, state, CRC_AT));
}

/* A CRC tells damage, not meaning: every field is checked before a context is built from it. */
static bool state_is_valid(const uint8_t *state, size_t length)
{
    if (length != ENGINE_DIGEST_STATE_BYTES || load_u32(state) != STATE_MAGIC || load_u16(state + 4) != STATE_VERSION)
        return false;
    if (load_u32(state + CRC_AT) != engine_crc32c(0, state, CRC_AT))
        return false;
    uint16_t kind = load_u16(state + 6);
    if (kind != ENGINE_SHA256 && kind != ENGINE_SHA512)
        return false;
    uint64_t hashed = load_u64(state + 8);
    uint32_t block = kind == ENGINE_SHA256 ? SHA256_CBLOCK : SHA512_CBLOCK;
    uint32_t pending = load_u32(state + 208);
    if (hashed > UINT64_MAX / 8 || pending != hashed % block)
        return false;
    if (!all_zero(state + 80 + pending, 128 - pending) || !all_zero(state + 212, CRC_AT - 212))
        return false;
    for (size_t i = 0; kind == ENGINE_SHA256 && i < 8; i++)
        if (load_u64(state + 16 + 8 * i) > UINT32_MAX)
            return false;
    return true;
}

engine_digest *engine_digest_import(const uint8_t *state, size_t length)
{
    if (!state_is_valid(state, length))
        return NULL;
    engine_digest *digest = engine_digest_new(load_u16(state + 6));
    if (digest == NULL)
        return NULL;
    uint64_t hashed = load_u64(state + 8);
    uint32_t pending = load_u32(state + 208);
    digest->length = hashed;
    if (digest->kind == ENGINE_SHA256) {
        SHA256_CTX *context = &digest->context.sha256;
        for (size_t i = 0; i < 8; i++)
            context->h[i] = (SHA_LONG)load_u64(state + 16 + 8 * i);
        context->Nl = (SHA_LONG)((hashed << 3) & 0xffffffffu);
        context->Nh = (SHA_LONG)(hashed >> 29);
        context->num = pending;
        memcpy(context->data, state + 80, pending);
    } else {
        SHA512_CTX *context = &digest->context.sha512;
        for (size_t i = 0; i < 8; i++)
            context->h[i] = load_u64(state + 16 + 8 * i);
        context->Nl = hashed << 3;
        context->Nh = hashed >> 61;
        context->num = pending;
        memcpy(context->u.p, state + 80, pending);
    }
    return digest;
}
