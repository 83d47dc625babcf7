/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Where the links are, for the server and for qedctl: see control-link.h. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "control-link.h"

void
control_link_name (const struct qed_file_id *id,
                   char name[CONTROL_LINK_NAME_SIZE])
{
  snprintf (name, CONTROL_LINK_NAME_SIZE, "%" PRIu64 "-%" PRIu64, id->device,
            id->inode);
}

bool
control_link_directory (unsigned n, char *path, size_t size)
{
  const char *own = getenv ("XDG_RUNTIME_DIR");
  int length;

  if (n == 0)
    length = snprintf (path, size, "/run/nbdkit-qed/by-inode");
  else if (n == 1 && own != NULL && own[0] == '/')
    length = snprintf (path, size, "%s/nbdkit-qed/by-inode", own);
  else
    return false;
  return length > 0 && (size_t) length < size;
}
