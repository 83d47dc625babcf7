/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Preloaded into the system's nbdkit after a sanitizer's runtime, to get along
 * with what isn't built for that.
 */

#include <locale.h>
#include <stdlib.h>

static void forget_preload (void) __attribute__ ((constructor));

/* The commands that nbdkit runs (--run) must not be burdened with the runtime:
 * some don't survive it.
 */
static void
forget_preload (void)
{
  unsetenv ("LD_PRELOAD");
}

/* With the address sanitizer of Debian 12, glibc's lock of locales is out of
 * balance once a message had an errno in words, and p11-kit, which frees a
 * locale when a program that uses GnuTLS exits, then waits for it for ever.
 */
void
freelocale (locale_t locale)
{
  (void) locale;
}
