/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See nbdkit-stub.h. */

#include <config.h>

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "nbdkit-stub.h"
#include "notify.h"
#include "plugin.h"

const char *stub_export_name = "";

/* ---- Messages ---- */

static void
make_message (const char *fmt, va_list args)
{
  char text[1024];

  vsnprintf (text, sizeof text, fmt, args);
  if (getenv ("FUZZ_LOG"))
    fprintf (stderr, "%s\n", text);
}

void
nbdkit_verror (const char *fmt, va_list args)
{
  make_message (fmt, args);
}

void
nbdkit_error (const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  make_message (fmt, args);
  va_end (args);
}

void
nbdkit_debug (const char *fmt, ...)
{
  va_list args;

  va_start (args, fmt);
  make_message (fmt, args);
  va_end (args);
}

void
nbdkit_set_error (int error)
{
  errno = error;
}

/* ---- The client ---- */

const char *
nbdkit_export_name (void)
{
  return stub_export_name;
}

const char *
nbdkit_strdup_intern (const char *text)
{
  (void) text;
  return "";
}

int
nbdkit_is_tls (void)
{
  return 0;
}

int
nbdkit_peer_name (struct sockaddr *address, socklen_t *length)
{
  memset (address, 0, *length);
  address->sa_family = AF_UNIX;
  *length = sizeof address->sa_family;
  return 0;
}

int64_t
nbdkit_peer_uid (void)
{
  return geteuid ();
}

int64_t
nbdkit_peer_pid (void)
{
  return getpid ();
}

int
nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds)
{
  nanosleep (&(struct timespec) { seconds, nanoseconds }, NULL);
  return 0;
}

int
nbdkit_add_export (struct nbdkit_exports *exports, const char *name,
                   const char *description)
{
  (void) exports;
  (void) name;
  (void) description;
  return 0;
}

int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset,
                   uint64_t length, uint32_t type)
{
  (void) extents;
  (void) offset;
  (void) length;
  (void) type;
  return 0;
}

/* ---- Paths ---- */

char *
nbdkit_absolute_path (const char *path)
{
  return strdup (path);
}

char *
nbdkit_realpath (const char *path)
{
  return realpath (path, NULL);
}

/* ---- What of the plugin looks at the process that it is in ---- */

bool
plugin_readonly (void)
{
  return false;
}

bool
plugin_user (uid_t *user)
{
  (void) user;
  return false;
}

int
plugin_quit_start (void)
{
  return 0;
}

void
plugin_quit_stop (void)
{
}

bool
plugin_quit_hang_up (void)
{
  return false;
}

int
notify_start (void)
{
  return 0;
}

void
notify_stop (void)
{
}
