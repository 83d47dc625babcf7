/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "pending-directories.h"

const char *const *
pending_directories (void)
{
  static char own[PATH_MAX], shared[64];
  static const char *list[4];
  const char *runtime = getenv ("XDG_RUNTIME_DIR");
  unsigned n = 0;
  int length;

  if (runtime != NULL && runtime[0] == '/') {
    length = snprintf (own, sizeof own, "%s/nbdkit-qed/pending", runtime);
    if (length > 0 && (size_t) length < sizeof own)
      list[n++] = own;
  }
  list[n++] = "/run/nbdkit-qed/pending";
  snprintf (shared, sizeof shared, "/dev/shm/nbdkit-qed-%u",
            (unsigned) geteuid ());
  list[n++] = shared;
  list[n] = NULL;
  return list;
}
