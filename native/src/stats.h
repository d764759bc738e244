/* The numbers that engine_stat tells. Internal. */
#ifndef SPEEDY_STATS_H
#define SPEEDY_STATS_H

#include "engine.h"

int stats_fill(engine_store *store, engine_stats *stats, engine_error *error);

#endif
