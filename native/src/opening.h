/* Opening a store: everything between the lock and the threads. Internal. */
#ifndef SPEEDY_OPENING_H
#define SPEEDY_OPENING_H

#include "engine.h"

int opening_read(engine_store *store, engine_error *error);

#endif
