/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Was nbdkit started with -r?
 *
 * nbdkit tells a plugin only when a client connects, long after the image was
 * opened.  That is too late: a read-only server must neither take a writer's
 * lock (two of them may share an image, also with a running guest's snapshot
 * tool), nor fail for want of write permission, nor repair.  There is no call
 * to ask, so we read our process's command line as nbdkit has read it: with
 * getopt_long and the same options, so that "-fr", "--reado" and "--run '-r'"
 * mean here what they mean there.
 *
 * If this is ever wrong no harm is done to data.  Missing a -r, we hold a
 * writer's lock, while nbdkit still refuses each client's writes; seeing one
 * too many, the export is read-only.
 */

#include <config.h>

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "plugin.h"

#define FLAG(name) { name, no_argument, NULL, 0 }
#define TAKES(name) { name, required_argument, NULL, 0 }

/* nbdkit's options: which of them take an argument is all that matters.
 * tests/test-read-only.sh compares them with those of the nbdkit installed.
 * An option that is not here is skipped; its argument, if any, then counts as
 * one of those that are no options.
 */
static const char short_options[] = "46D:e:fg:i:nop:P:rst:u:U:vV";
static const struct option long_options[] = {
  { "read-only", no_argument, NULL, 'r' },
  { "readonly", no_argument, NULL, 'r' },
  FLAG ("dump-config"), FLAG ("dump-plugin"), FLAG ("exit-with-parent"),
  FLAG ("foreground"), FLAG ("help"), FLAG ("ipv4-only"), FLAG ("ipv6-only"),
  FLAG ("long-options"), FLAG ("new-style"), FLAG ("newstyle"),
  FLAG ("no-fork"), FLAG ("no-sr"), FLAG ("old-style"), FLAG ("oldstyle"),
  FLAG ("short-options"), FLAG ("single"), FLAG ("stdin"), FLAG ("swap"),
  FLAG ("tls-verify-peer"), FLAG ("verbose"), FLAG ("version"),
  FLAG ("vsock"),
  TAKES ("debug"), TAKES ("export"), TAKES ("export-name"),
  TAKES ("exportname"), TAKES ("filter"), TAKES ("group"), TAKES ("ip-addr"),
  TAKES ("ipaddr"), TAKES ("log"), TAKES ("mask-handshake"),
  TAKES ("pid-file"), TAKES ("pidfile"), TAKES ("port"), TAKES ("run"),
  TAKES ("selinux-label"), TAKES ("threads"), TAKES ("tls"),
  TAKES ("tls-certificates"), TAKES ("tls-psk"), TAKES ("unix"),
  TAKES ("user"),
  { NULL, 0, NULL, 0 }
};

/* Is there a -r among the options?  argv is permuted, as getopt does. */
static bool
find_readonly (int argc, char **argv)
{
  const int saved_optind = optind, saved_opterr = opterr;
  const int saved_optopt = optopt;
  char *const saved_optarg = optarg;
  bool found = false;
  int c;

  optind = 0;                   /* starts getopt anew */
  opterr = 0;
  while ((c = getopt_long (argc, argv, short_options, long_options,
                           NULL)) != -1)
    if (c == 'r')
      found = true;

  optind = saved_optind;        /* they are nbdkit's, too */
  opterr = saved_opterr;
  optopt = saved_optopt;
  optarg = saved_optarg;
  return found;
}

static void
free_strings (char **strings, int n)
{
  while (n > 0)
    free (strings[--n]);
  free (strings);
}

/* Read a file of NUL-terminated strings.  Returns how many, with *strings
 * NULL-terminated and to be freed, or -1 with errno set.
 */
static int
read_strings (const char *path, char ***strings)
{
  FILE *fp;
  char **list, **bigger, *s = NULL;
  size_t size = 0;
  int n = 0;

  fp = fopen (path, "re");
  if (fp == NULL)
    return -1;
  list = calloc (1, sizeof *list);
  while (list != NULL && getdelim (&s, &size, '\0', fp) != -1) {
    bigger = realloc (list, (n + 2) * sizeof *list);
    if (bigger == NULL) {
      free_strings (list, n);
      list = NULL;
      break;
    }
    list = bigger;
    list[n++] = s;
    list[n] = NULL;
    s = NULL;
    size = 0;
  }
  free (s);
  fclose (fp);
  if (list == NULL) {
    errno = ENOMEM;
    return -1;
  }
  *strings = list;
  return n;
}

bool
plugin_readonly (void)
{
  static const char path[] = "/proc/self/cmdline";
  char **argv;
  int argc;
  bool readonly;

  argc = read_strings (path, &argv);
  if (argc == -1) {
    nbdkit_debug ("%s: %m: taken as if -r were not given", path);
    return false;
  }
  readonly = find_readonly (argc, argv);
  free_strings (argv, argc);
  return readonly;
}
