/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuzz.h"

void
fuzz_fail (const char *fmt, ...)
{
  va_list args;

  fputs ("fuzz: broken: ", stderr);
  va_start (args, fmt);
  vfprintf (stderr, fmt, args);
  va_end (args);
  putc ('\n', stderr);
  abort ();
}

/* ---- The directory ---- */

static char *directory;

static int
remove_one (const char *path, const struct stat *st, int type,
            struct FTW *walk)
{
  (void) st;
  (void) type;
  (void) walk;
  return remove (path);
}

static void
remove_directory (void)
{
  nftw (directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
  free (directory);
}

const char *
fuzz_directory (void)
{
  const char *base = getenv ("TMPDIR");

  if (directory)
    return directory;
  if (asprintf (&directory, "%s/fuzz.XXXXXX", base ? base : "/tmp") < 0 ||
      mkdtemp (directory) == NULL)
    fuzz_fail ("cannot make a directory in %s", base ? base : "/tmp");
  atexit (remove_directory);
  return directory;
}

char *
fuzz_path (const char *name)
{
  char *path;

  if (asprintf (&path, "%s/%s", fuzz_directory (), name) < 0)
    abort ();
  return path;
}
