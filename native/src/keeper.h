/* The thread that punches, seals, checkpoints and prepares. Internal. */
#ifndef SPEEDY_KEEPER_H
#define SPEEDY_KEEPER_H

#include <pthread.h>
#include <stdbool.h>

#include "engine.h"

struct keeper {
    pthread_mutex_t work; /* one at a time: punching, sealing, checkpointing */
    pthread_mutex_t lock; /* guards the flags below */
    pthread_cond_t wake;
    pthread_t thread;
    bool started;
    bool stopping;
    bool wanted;
    bool resting; /* everything that was wanted is done */
};

int keeper_start(engine_store *store, engine_error *error);
void keeper_stop(engine_store *store);
void keeper_wake(engine_store *store);
/* Punches and checkpoints every changed volume now. */
int keeper_checkpoint(engine_store *store, engine_error *error);

#endif
