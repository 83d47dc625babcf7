/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl: make, inspect and steer QED images.  The commands are in ctl-*.c;
 * here is what they share, and the table of them.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

static const struct ctl_command *const commands[] = {
  &ctl_activate_command,
  &ctl_check_command,
  &ctl_commit_command,
  &ctl_create_command,
  &ctl_explain_command,
  &ctl_flush_command,
  &ctl_info_command,
  &ctl_list_command,
  &ctl_map_command,
  &ctl_metrics_command,
  &ctl_rebase_command,
  &ctl_release_command,
  &ctl_resize_command,
  &ctl_status_command,
  &ctl_top_command,
  &ctl_undo_command,
};

#define COMMANDS (sizeof commands / sizeof commands[0])

/* ---- Messages ---------------------------------------------------------- */

void (*ctl_before_error) (void);

/* A name from outside may hold a newline or worse: messages are one line. */
static void
print_error (char *message)
{
  ctl_progress_hide ();
  if (ctl_before_error != NULL)
    ctl_before_error ();
  ctl_make_harmless (message);
  fprintf (stderr, "qedctl: %s\n", message);
}

void
ctl_error (const char *fmt, ...)
{
  const int saved_errno = errno;
  char *message;
  va_list ap;
  int r;

  va_start (ap, fmt);
  errno = saved_errno;          /* for %m */
  r = vasprintf (&message, fmt, ap);
  va_end (ap);
  if (r < 0) {
    fputs ("qedctl: out of memory\n", stderr);
    return;
  }
  print_error (message);
  free (message);
}

static void
log_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  if (level <= QED_LOG_WARNING)
    ctl_error ("%s", message);
}

void
ctl_log_init (struct qed_log *log)
{
  *log = (struct qed_log) { .fn = log_message };
}

/* ---- Options ----------------------------------------------------------- */

/* Help that could not be written is an error like any other. */
int
ctl_end_output (void)
{
  if (fflush (stdout) == 0 && !ferror (stdout))
    return CTL_OK;
  ctl_error ("cannot write to the standard output: %m");
  return CTL_FAILED;
}

static int
print_command_help (const struct ctl_command *command)
{
  printf ("Usage: qedctl %s [OPTION ...] %s\n%s.\n\n%s"
          "  -h, --help                  print this\n", command->name,
          command->arguments, command->summary, command->help);
  return ctl_end_output ();
}

int
ctl_options_next (struct ctl_options *options, int argc, char **argv,
                  int *status)
{
  const char *name = options->command->name;
  int c, at = -1;

  opterr = 0;
  c = getopt_long (argc, argv, options->shortopts, options->longopts, &at);
  *status = CTL_FAILED;
  switch (c) {
  case -1:
    return CTL_OPTIONS_END;
  case 'h':
    *status = print_command_help (options->command);
    return CTL_OPTIONS_EXIT;
  case ':':
    ctl_error ("%s: option %s needs a value", name, argv[optind - 1]);
    return CTL_OPTIONS_EXIT;
  case '?':
    /* A letter may stand within its word, whose turn is not over. */
    if (optopt > 0 && optopt < CTL_OPT_FIRST && optopt != 'h')
      ctl_error ("%s: unknown option -%c: see qedctl %s --help", name, optopt,
                 name);
    else
      ctl_error ("%s: option %s is unknown or cannot have a value: see qedctl "
                 "%s --help", name, argv[optind - 1], name);
    return CTL_OPTIONS_EXIT;
  }
  if (at >= 0 && options->given[at]) {
    ctl_error ("%s: option --%s is given twice", name,
               options->longopts[at].name);
    return CTL_OPTIONS_EXIT;
  }
  if (at >= 0)
    options->given[at] = true;
  return c;
}

bool
ctl_arguments (const struct ctl_command *command, int argc, int count)
{
  if (argc - optind == count)
    return true;
  ctl_error ("%s: too %s arguments: usage: qedctl %s [OPTION ...] %s",
             command->name, argc - optind < count ? "few" : "many",
             command->name, command->arguments);
  return false;
}

bool
ctl_parse_size (const char *what, const char *text, uint64_t *size)
{
  static const char suffixes[] = "KMGTPE";
  const char *suffix;
  unsigned long long v;
  unsigned shift = 0;
  char *end;

  errno = 0;
  /* strtoull takes spaces and signs. */
  v = text[0] >= '0' && text[0] <= '9' ? strtoull (text, &end, 10) : 0;
  if (text[0] < '0' || text[0] > '9')
    goto bad;
  if (*end != '\0') {
    suffix = strchr (suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
    if (suffix == NULL || (end[1] != '\0' && strcmp (end + 1, "iB") != 0))
      goto bad;
    shift = 10 * (suffix - suffixes + 1);
  }
  if (errno == ERANGE || v > UINT64_MAX >> shift) {
    ctl_error ("%s %s is too large", what, text);
    return false;
  }
  *size = (uint64_t) v << shift;
  return true;

 bad:
  ctl_error ("%s %s is not a size: give a number of bytes, or one with a "
             "suffix K, M, G, T, P or E", what, text);
  return false;
}

/* ---- Main -------------------------------------------------------------- */

static int
print_help (void)
{
  size_t i;

  printf ("Usage: qedctl COMMAND [OPTION ...] ARGUMENT ...\n"
          "Make, inspect and steer QED disk images.\n\n");
  for (i = 0; i < COMMANDS; ++i)
    printf ("  %-10s  %s\n", commands[i]->name, commands[i]->summary);
  printf ("\nqedctl COMMAND --help tells more.\n");
  return ctl_end_output ();
}

/* Where a standard descriptor is closed, the next file opened would take its
 * number, and messages would be written into an image.  A /dev/null opened
 * the wrong way round keeps the number, and writing still fails.
 */
static bool
hold_standard_descriptors (void)
{
  int fd;

  for (fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd)
    if (fcntl (fd, F_GETFD) == -1 &&
        open ("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
      return false;
  return true;
}

int
main (int argc, char **argv)
{
  size_t i;

  if (!hold_standard_descriptors ())
    return CTL_FAILED;
  /* A limit on file sizes is an error to report and clean up after. */
  signal (SIGXFSZ, SIG_IGN);
  if (argc < 2) {
    ctl_error ("no command: see qedctl --help");
    return CTL_FAILED;
  }
  if (strcmp (argv[1], "--help") == 0 || strcmp (argv[1], "-h") == 0)
    return print_help ();
  if (strcmp (argv[1], "--version") == 0) {
    printf ("qedctl %s\n", PACKAGE_VERSION);
    return ctl_end_output ();
  }
  for (i = 0; i < COMMANDS; ++i)
    if (strcmp (argv[1], commands[i]->name) == 0)
      return commands[i]->run (commands[i], argc - 1, argv + 1);
  ctl_error ("unknown %s %s: see qedctl --help",
             argv[1][0] == '-' ? "option" : "command", argv[1]);
  return CTL_FAILED;
}
