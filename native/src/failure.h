/* Filling in an engine_error in one line where a failure is found. */
#ifndef SPEEDY_FAILURE_H
#define SPEEDY_FAILURE_H

#include "engine.h"

/* Returns code, so that it can stand behind return. os_error 0: not from a system call. */
__attribute__((format(printf, 4, 5))) int failure(engine_error *error, int code, int os_error, const char *format, ...);
/* code from errno: DISK_FULL for ENOSPC and EDQUOT, NO_MEMORY for ENOMEM, else FAILED. */
__attribute__((format(printf, 3, 4))) int failure_os(engine_error *error, int os_error, const char *format, ...);
/* Empties *error and returns ENGINE_OK. */
int no_failure(engine_error *error);

#endif
