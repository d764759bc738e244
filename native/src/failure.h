/* Filling in an engine_error in one line where a failure is found. */
#ifndef SPEEDY_FAILURE_H
#define SPEEDY_FAILURE_H

#include <stdbool.h>

#include "engine.h"

/* Returns code, so that it can stand behind return. os_error 0: not from a system call. */
__attribute__((format(printf, 4, 5))) int failure(engine_error *error, int code, int os_error, const char *format, ...);
/* code from errno: DISK_FULL for ENOSPC and EDQUOT, NO_MEMORY for ENOMEM, BUSY for want of descriptors (EMFILE, ENFILE),
 * else FAILED. */
__attribute__((format(printf, 3, 4))) int failure_os(engine_error *error, int os_error, const char *format, ...);
/* Whether an error says what the process or the machine lacks just now, and nothing of the disk or of what is on it. */
bool is_shortage(int os_error);
/* Empties *error and returns ENGINE_OK. */
int no_failure(engine_error *error);

#endif
