/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files that are written whole or not at all. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl.h"

/* A device or a pipe must not be replaced. */
static bool
may_replace (const char *path)
{
  struct stat st;

  if (stat (path, &st) == -1 || S_ISREG (st.st_mode))
    return true;
  ctl_error ("%s is there and is not a regular file: choose another name",
             path);
  return false;
}

/* mkstemp's files are for their owner alone; this one gets the permissions
 * of any new file.
 */
static int
create_temporary (char *name)
{
  mode_t mask = umask (0);
  int fd;

  umask (mask);
  fd = mkostemp (name, O_CLOEXEC);
  if (fd >= 0 && fchmod (fd, 0666 & ~mask) == -1) {
    close (fd);
    unlink (name);
    return -1;
  }
  return fd;
}

bool
ctl_file_begin (struct ctl_file *file, const char *path)
{
  int fd;

  *file = (struct ctl_file) { .path = path };
  if (!may_replace (path))
    return false;
  if (asprintf (&file->temporary, "%s.XXXXXX", path) < 0) {
    file->temporary = NULL;
    ctl_error ("out of memory");
    return false;
  }
  fd = create_temporary (file->temporary);
  if (fd >= 0)
    file->stream = fdopen (fd, "w");
  if (file->stream)
    return true;
  ctl_error ("cannot write %s: %m", path);
  if (fd >= 0) {
    close (fd);
    unlink (file->temporary);
  }
  free (file->temporary);
  return false;
}

bool
ctl_file_end (struct ctl_file *file, bool ok)
{
  bool written = ok && !ferror (file->stream);

  errno = EIO;                  /* if it isn't known any more */
  written = fflush (file->stream) == 0 && written;
  written = fclose (file->stream) == 0 && written;
  written = written && rename (file->temporary, file->path) == 0;
  if (ok && !written)
    ctl_error ("cannot write %s: %m", file->path);
  if (!written)
    unlink (file->temporary);
  free (file->temporary);
  return written || !ok;
}
