/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages of the engine: see log.h. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "log.h"

/* A message is one line whatever names it quotes: a file may be called
 * "x\nerror: ...".  Nor is it a command to a terminal: what begins one is a C0
 * character, or in UTF-8 a C1 character.
 */
static void
make_one_line (char *s)
{
  unsigned char *p = (unsigned char *) s;

  for (; *p; ++p) {
    if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
      *p++ = '?';
    else if (*p >= 0x20 && *p != 0x7f)
      continue;
    *p = '?';
  }
}

static void
emit (const struct qed_log *log, enum qed_log_level level, const char *fmt,
      va_list ap)
{
  const int saved_errno = errno;
  char *message;

  if (log == NULL || log->fn == NULL)
    return;
  if (vasprintf (&message, fmt, ap) < 0) {
    log->fn (log->opaque, level, "out of memory, a message is lost");
  }
  else {
    make_one_line (message);
    log->fn (log->opaque, level, message);
    free (message);
  }
  errno = saved_errno;
}

void
log_error (const struct qed_log *log, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  emit (log, QED_LOG_ERROR, fmt, ap);
  va_end (ap);
}

void
log_request (const struct qed_log *log, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  emit (log, QED_LOG_REQUEST, fmt, ap);
  va_end (ap);
}

void
log_warning (const struct qed_log *log, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  emit (log, QED_LOG_WARNING, fmt, ap);
  va_end (ap);
}

void
log_info (const struct qed_log *log, const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  emit (log, QED_LOG_INFO, fmt, ap);
  va_end (ap);
}

#define LIMIT_SECONDS 10

bool
log_may (struct log_limit *limit, const struct qed_log *log, const char *path)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  if (now.tv_sec < limit->next) {
    limit->dropped++;
    return false;
  }
  if (limit->dropped > 0)
    log_error (log, "%s: %u lines like the next one were not logged: one in %d "
               "seconds is", path, limit->dropped, LIMIT_SECONDS);
  limit->dropped = 0;
  limit->next = now.tv_sec + LIMIT_SECONDS;
  return true;
}

void
log_trace (const struct qed_log *log, const char *fmt, ...)
{
  va_list ap;

  if (log == NULL || !log->trace)
    return;
  va_start (ap, fmt);
  emit (log, QED_LOG_TRACE, fmt, ap);
  va_end (ap);
}
