/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which backing files a command may open: --allow-backing. */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

bool
ctl_parse_allow_backing (const char *text, struct qed_options *options)
{
  static char directory[PATH_MAX];

  if (strcmp (text, "beside") == 0)
    options->backing = QED_BACKING_BESIDE;
  else if (strcmp (text, "any") == 0)
    options->backing = QED_BACKING_ANY;
  else {
    if (realpath (text, directory) == NULL) {
      ctl_error ("--allow-backing %s: %m: choose beside, any or a directory",
                 text);
      return false;
    }
    options->backing = QED_BACKING_BELOW;
    options->backing_directory = directory;
  }
  return true;
}
