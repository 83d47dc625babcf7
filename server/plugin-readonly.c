/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Was nbdkit started with -r, and with -u?
 *
 * nbdkit tells a plugin only when a client connects, long after the image was
 * opened.  That is too late: a read-only server must neither take a writer's
 * lock (two of them may share an image, also with a running guest's snapshot
 * tool), nor fail for want of write permission, nor repair.  Likewise it
 * becomes the user of -u only after what may fail was made.  There is no call
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
#include <pwd.h>
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
  { "user", required_argument, NULL, 'u' },
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
  { NULL, 0, NULL, 0 }
};

struct options {
  bool readonly;
  char *user;                   /* or NULL */
};

/* argv is permuted, as getopt does. */
static void
find_options (int argc, char **argv, struct options *found)
{
  const int saved_optind = optind, saved_opterr = opterr;
  const int saved_optopt = optopt;
  char *const saved_optarg = optarg;
  int c;

  optind = 0;                   /* starts getopt anew */
  opterr = 0;
  while ((c = getopt_long (argc, argv, short_options, long_options,
                           NULL)) != -1)
    if (c == 'r')
      found->readonly = true;
    else if (c == 'u')
      found->user = optarg;

  optind = saved_optind;        /* they are nbdkit's, too */
  opterr = saved_opterr;
  optopt = saved_optopt;
  optarg = saved_optarg;
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

static const char command_line[] = "/proc/self/cmdline";

bool
plugin_readonly (void)
{
  struct options found = { false, NULL };
  char **argv;
  int argc;

  argc = read_strings (command_line, &argv);
  if (argc == -1) {
    nbdkit_debug ("%s: %m: taken as if -r were not given", command_line);
    return false;
  }
  find_options (argc, argv, &found);
  free_strings (argv, argc);
  return found.readonly;
}

/* A name, or else a number, as nbdkit takes it. */
static bool
parse_user (const char *text, uid_t *user)
{
  const struct passwd *entry = getpwnam (text);
  char *end;

  if (entry != NULL) {
    *user = entry->pw_uid;
    return true;
  }
  *user = strtoul (text, &end, 10);
  return text[0] != '\0' && *end == '\0';
}

bool
plugin_user (uid_t *user)
{
  struct options found = { false, NULL };
  char **argv;
  bool given;
  int argc;

  argc = read_strings (command_line, &argv);
  if (argc == -1)
    return false;
  find_options (argc, argv, &found);
  given = found.user != NULL && parse_user (found.user, user);
  free_strings (argv, argc);
  return given;
}
