/* What the scrub has found damaged: a bounded list, from which goes what was deleted, put again or found good. */
#include <stdlib.h>

#include "inspect.h"
#include "store.h"

/* scrub.lock is held. The entry of this place, or NULL. */
static engine_damage *find_damage(struct scrub *scrub, uint32_t volume, uint64_t offset)
{
    for (size_t i = 0; i < scrub->damage_count; i++)
        if (scrub->damage[i].volume == volume && scrub->damage[i].offset == offset)
            return &scrub->damage[i];
    return NULL;
}

void scrub_remember(struct scrub *scrub, const engine_damage *found, bool in_round)
{
    pthread_mutex_lock(&scrub->lock);
    if (in_round)
        scrub->cursor.damaged++;
    engine_damage *entry = find_damage(scrub, found->volume, found->offset);
    if (scrub->damage == NULL)
        scrub->damage = calloc(SCRUB_DAMAGE_MAX, sizeof *scrub->damage);
    if (entry == NULL && scrub->damage != NULL && scrub->damage_count < SCRUB_DAMAGE_MAX)
        entry = &scrub->damage[scrub->damage_count++];
    if (entry != NULL)
        *entry = *found;
    else if (in_round)
        scrub->damage_unlisted++;
    pthread_mutex_unlock(&scrub->lock);
}

void scrub_forget(struct scrub *scrub, uint32_t volume, uint64_t offset)
{
    pthread_mutex_lock(&scrub->lock);
    engine_damage *entry = find_damage(scrub, volume, offset);
    if (entry != NULL)
        *entry = scrub->damage[--scrub->damage_count];
    pthread_mutex_unlock(&scrub->lock);
}

/* scrub.lock is held. Drops what was deleted or written anew since. */
static void forget_what_is_gone(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    for (size_t i = 0; i < scrub->damage_count;) {
        const engine_damage *entry = &scrub->damage[i];
        struct chunk_place place;
        struct volume *volume = NULL;
        if (entry->fid != 0 && chunk_index_get(store->index, entry->fid, &place, NULL, NULL))
            volume = volumes_get(store, place.slot);
        bool remains = volume != NULL && volume->id == entry->volume && place.offset == entry->offset;
        if (entry->fid == 0)
            remains = inspect_find(store, entry->volume) != NULL; /* a superblock goes with its volume */
        if (remains)
            i++;
        else
            scrub->damage[i] = scrub->damage[--scrub->damage_count];
    }
}

uint64_t scrub_damage_count(engine_store *store)
{
    struct scrub *scrub = &store->scrub;
    pthread_mutex_lock(&scrub->lock);
    forget_what_is_gone(store);
    uint64_t count = scrub->damage_count + scrub->damage_unlisted;
    pthread_mutex_unlock(&scrub->lock);
    return count;
}

int engine_scrub_damage(engine_store *store, engine_damage *damage, size_t limit, size_t *count, engine_error *error)
{
    struct scrub *scrub = &store->scrub;
    *count = 0;
    int status = store_enter(store, error);
    if (status != ENGINE_OK)
        return status;
    pthread_mutex_lock(&scrub->lock);
    forget_what_is_gone(store);
    for (size_t i = 0; i < scrub->damage_count && i < limit; i++)
        damage[(*count)++] = scrub->damage[i];
    pthread_mutex_unlock(&scrub->lock);
    return store_leave(store, ENGINE_OK);
}
