/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Preloaded into nbdkit after a sanitizer's runtime: the commands that nbdkit
 * runs (--run) must not be burdened with that, some don't survive it.
 */

#include <stdlib.h>

static void forget_preload (void) __attribute__ ((constructor));

static void
forget_preload (void)
{
  unsetenv ("LD_PRELOAD");
}
