/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Errors, for the log and for who asked: see message.h. */

#include <config.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "message.h"
#include "requests.h"

static _Thread_local char *kept;
static _Thread_local size_t kept_size;
static _Thread_local bool connecting;

void
message_connecting (bool yes)
{
  connecting = yes;
}

static bool
may_log (void)
{
  return !connecting || requests_may_log_others ();
}

void
message_warning (const char *text)
{
  if (may_log ())
    nbdkit_error ("warning: %s", text);
}

void
message_keep (char *text, size_t size)
{
  kept = text;
  kept_size = size;
  if (kept != NULL)
    kept[0] = '\0';
}

void
message_error (const char *fmt, ...)
{
  const int saved_errno = errno;
  va_list args;

  if (may_log ()) {
    va_start (args, fmt);
    errno = saved_errno;        /* for %m */
    nbdkit_verror (fmt, args);
    va_end (args);
  }
  if (kept != NULL && kept[0] == '\0') {
    va_start (args, fmt);
    errno = saved_errno;        /* for %m */
    vsnprintf (kept, kept_size, fmt, args);
    va_end (args);
  }
  errno = saved_errno;
}
