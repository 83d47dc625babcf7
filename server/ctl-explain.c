/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl explain: what a check's codes mean. */

#include <config.h>

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <jansson.h>

#include "ctl-check.h"

/* ---- Names that are near ----------------------------------------------- */

#define NAME_MAX_LEN 40u        /* longer ones are near to nothing */
#define NEAR 3u                 /* letters to be changed */

/* How many letters have to be added, dropped or replaced (Levenshtein). */
static unsigned
distance (const char *a, const char *b)
{
  unsigned row[NAME_MAX_LEN + 1], diagonal, cost, above;
  size_t n = strlen (b), i, j;

  for (j = 0; j <= n; j++)
    row[j] = j;
  for (i = 0; a[i] != '\0'; i++) {
    diagonal = row[0];
    row[0] = i + 1;
    for (j = 0; j < n; j++) {
      above = row[j + 1];
      cost = diagonal + (a[i] != b[j]);
      if (above + 1 < cost)
        cost = above + 1;
      if (row[j] + 1 < cost)
        cost = row[j] + 1;
      row[j + 1] = cost;
      diagonal = above;
    }
  }
  return row[n];
}

/* Of a short word few letters may differ, or it is near to any other. */
static bool
is_near (const char *name, const char *code)
{
  size_t n = strlen (name);

  if (n > NAME_MAX_LEN || n < NEAR)
    return false;
  return strstr (code, name) != NULL || strstr (name, code) != NULL ||
    distance (code, name) <= (n / 3 < NEAR ? n / 3 : NEAR);
}

static void
tell_unknown (const char *name)
{
  char names[512] = "";
  size_t used = 0;
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++) {
    const char *code = qed_problem_kind (i)->code;

    if (is_near (name, code) && used < sizeof names - 64)
      used += snprintf (names + used, sizeof names - used, "%s%s",
                        used > 0 ? ", " : "", code);
  }
  if (used > 0)
    ctl_error ("there is no code %s; near to it: %s (qedctl explain lists "
               "all)", name, names);
  else
    ctl_error ("there is no code %s: qedctl explain lists them", name);
}

/* ---- Text -------------------------------------------------------------- */

#define WIDTH_MAX 79u           /* wider lines are hard to read */
#define WIDTH_MIN 20u

static unsigned
terminal_width (void)
{
  struct winsize size;

  if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == -1 || size.ws_col == 0 ||
      size.ws_col > WIDTH_MAX)
    return WIDTH_MAX;
  return size.ws_col < WIDTH_MIN ? WIDTH_MIN : size.ws_col;
}

/* Print words in lines of at most 'width' columns, each behind 'indent'
 * spaces.
 */
static void
print_wrapped (const char *text, unsigned width, unsigned indent)
{
  unsigned column = 0;
  size_t n;

  while (*text != '\0') {
    n = strcspn (text, " ");
    if (column > 0 && column + 1 + n > width) {
      putchar ('\n');
      column = 0;
    }
    if (column == 0)
      column = printf ("%*s", (int) indent, "");
    else
      column += printf (" ");
    column += printf ("%.*s", (int) n, text);
    text += n;
    text += strspn (text, " ");
  }
  putchar ('\n');
}

static void
print_list (void)
{
  const struct qed_problem_kind *kind;
  unsigned i, width = terminal_width ();

  for (i = 0; i < QED_PROBLEM_CODES; i++) {
    kind = qed_problem_kind (i);
    printf ("%s\n", kind->code);
    print_wrapped (kind->summary, width, 4);
  }
}

static void
print_kind (const struct qed_problem_kind *kind)
{
  unsigned width = terminal_width ();

  printf ("%s: %s\n\n", kind->code, kind->summary);
  print_wrapped (kind->explanation, width, 0);
}

/* ---- JSON -------------------------------------------------------------- */

static bool
report_kind (const struct qed_problem_kind *kind)
{
  struct ctl_report *report = ctl_report_new ();

  ctl_report_string (report, "code", NULL, kind->code);
  ctl_report_string (report, "severity", NULL,
                     check_severity_to_text (kind->severity));
  ctl_report_string (report, "summary", NULL, kind->summary);
  ctl_report_string (report, "explanation", NULL, kind->explanation);
  return ctl_report_print (report, true);
}

static bool
report_list (void)
{
  struct ctl_report *report = ctl_report_new ();
  json_t *codes = json_array ();
  const struct qed_problem_kind *kind;
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++) {
    kind = qed_problem_kind (i);
    json_array_append_new (codes, json_pack
                           ("{s:s, s:s, s:s}", "code", kind->code, "severity",
                            check_severity_to_text (kind->severity),
                            "summary", kind->summary));
  }
  ctl_report_json (report, "codes", codes);
  return ctl_report_print (report, true);
}

/* ---- The command ------------------------------------------------------- */

static int
explain_all (bool json)
{
  if (json)
    return report_list () ? CTL_OK : CTL_FAILED;
  print_list ();
  return ctl_end_output ();
}

static int
explain_one (const char *name, bool json)
{
  enum qed_problem_code code;

  if (!qed_problem_find (name, &code)) {
    tell_unknown (name);
    return CTL_FAILED;
  }
  if (json)
    return report_kind (qed_problem_kind (code)) ? CTL_OK : CTL_FAILED;
  print_kind (qed_problem_kind (code));
  return ctl_end_output ();
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  enum { OPT_JSON = CTL_OPT_FIRST };
  static const struct option longopts[] = {
    { "help", no_argument, NULL, 'h' },
    { "json", no_argument, NULL, OPT_JSON },
    { NULL, 0, NULL, 0 },
  };
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  bool json = false;
  int c, status;

  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c != OPT_JSON)
      return status;
    json = true;
  }
  if (optind == argc)
    return explain_all (json);
  return ctl_arguments (command, argc, 1)
    ? explain_one (argv[optind], json) : CTL_FAILED;
}

const struct ctl_command ctl_explain_command = {
  .name = "explain",
  .arguments = "[CODE]",
  .summary = "Tell what a code that a check reports means",
  .help =
  "Without CODE all of them are listed.\n"
  "\n"
  "  --json                      print a JSON object\n",
  .run = run,
};
