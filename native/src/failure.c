#include "failure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 4, 0))) static int fill(engine_error *error, int code, int os_error, const char *format,
                                                      va_list values)
{
    error->code = code;
    error->os_error = os_error;
    int used = vsnprintf(error->detail, sizeof error->detail, format, values);
    if (used < 0)
        used = 0;
    if (os_error != 0 && (size_t)used < sizeof error->detail) {
        char reason[80];
        /* The GNU strerror_r returns a string that need not be in the buffer. */
        const char *text = strerror_r(os_error, reason, sizeof reason);
        (void)snprintf(error->detail + used, sizeof error->detail - (size_t)used, ": %s", text);
    }
    return code;
}

int failure(engine_error *error, int code, int os_error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fill(error, code, os_error, format, values);
    va_end(values);
    return code;
}

int failure_os(engine_error *error, int os_error, const char *format, ...)
{
    int code = ENGINE_FAILED;
    if (os_error == ENOSPC || os_error == EDQUOT)
        code = ENGINE_DISK_FULL;
    else if (is_shortage(os_error))
        code = os_error == ENOMEM ? ENGINE_NO_MEMORY : ENGINE_BUSY;
    va_list values;
    va_start(values, format);
    fill(error, code, os_error, format, values);
    va_end(values);
    return code;
}

bool is_shortage(int os_error)
{
    return os_error == ENOMEM || os_error == EMFILE || os_error == ENFILE;
}

int no_failure(engine_error *error)
{
    memset(error, 0, sizeof *error);
    return ENGINE_OK;
}
