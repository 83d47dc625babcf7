/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl check: find what is wrong with an image, and repair it. */

#include <config.h>

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "ctl-check.h"

enum {
  OPT_REPAIR = CTL_OPT_FIRST,
  OPT_DRY_RUN,
  OPT_DATA,
  OPT_UNDO,
  OPT_LIMIT,
  OPT_RAW_IMAGE,
  OPT_VERBOSE,
  OPT_JSON,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "repair", optional_argument, NULL, OPT_REPAIR },
  { "dry-run", no_argument, NULL, OPT_DRY_RUN },
  { "data", no_argument, NULL, OPT_DATA },
  { "undo", required_argument, NULL, OPT_UNDO },
  { "limit", required_argument, NULL, OPT_LIMIT },
  { "raw-image", no_argument, NULL, OPT_RAW_IMAGE },
  { "verbose", no_argument, NULL, OPT_VERBOSE },
  { "json", no_argument, NULL, OPT_JSON },
  { NULL, 0, NULL, 0 },
};

/* ---- Options ----------------------------------------------------------- */

static bool
set_repair (struct qed_check_options *check, const char *value)
{
  if (value == NULL || strcmp (value, "all") == 0)
    check->repair = QED_REPAIR_ALL;
  else if (strcmp (value, "leaks") == 0)
    check->repair = QED_REPAIR_LEAKS;
  else {
    ctl_error ("--repair=%s is not possible: choose leaks or all", value);
    return false;
  }
  return true;
}

static bool
set_limit (struct qed_check_options *check, const char *value)
{
  uint64_t rate;

  if (!ctl_parse_size ("limit", value, &rate))
    return false;
  if (rate == 0) {
    ctl_error ("a limit of 0 bytes a second would never end");
    return false;
  }
  atomic_store (&check->control->rate, rate);
  return true;
}

/* One option.  False, with a message, if its value makes no sense. */
static bool
set_option (int c, struct qed_check_options *check,
            struct check_report *report)
{
  switch (c) {
  case OPT_REPAIR:
    return set_repair (check, optarg);
  case OPT_DRY_RUN:
    check->dry_run = true;
    return true;
  case OPT_DATA:
    check->data = true;
    return true;
  case OPT_UNDO:
    check->undo = optarg;
    return true;
  case OPT_LIMIT:
    return set_limit (check, optarg);
  case OPT_RAW_IMAGE:
    check->raw_image = true;
    return true;
  case OPT_VERBOSE:
    report->verbose = true;
    return true;
  default:
    report->json = true;
    return true;
  }
}

static bool
check_options (const struct qed_check_options *check)
{
  if (check->repair == QED_REPAIR_NONE && check->dry_run)
    ctl_error ("--dry-run is given without --repair: a check alone writes "
               "nothing");
  else if (check->repair == QED_REPAIR_NONE && check->undo != NULL)
    ctl_error ("--undo is given without --repair: a check alone writes "
               "nothing");
  else if (check->dry_run && check->undo != NULL)
    ctl_error ("--undo and --dry-run exclude each other: a dry run writes "
               "nothing");
  else
    return true;
  return false;
}

/* ---- Running it -------------------------------------------------------- */

/* Someone ended it: what became of the image? */
static void
tell_state (const char *path, const struct qed_check_options *check,
            const struct qed_log *log)
{
  struct qed_info info;
  bool dirty;

  if (check->repair == QED_REPAIR_NONE || check->dry_run) {
    ctl_error ("%s: nothing was written", path);
    return;
  }
  if (qed_info_read (path, log, &info) < 0)
    return;
  dirty = info.features & QED_F_NEED_CHECK;
  qed_info_free (&info);
  ctl_error ("%s: the repair is not complete%s: run it again to finish it%s"
             "%s%s", path, dirty ? ", and the image is marked as needing a "
             "check" : "", check->undo ? ", or put everything back with "
             "qedctl undo " : "", check->undo ? check->undo : "",
             check->undo ? " first" : "");
}

static int
run_check (const char *path, struct qed_check_options *check,
           struct check_report *report)
{
  struct ctl_progress progress;
  struct qed_check_result result = { 0 };
  struct qed_options options;
  bool written;
  int r;

  qed_options_init (&options);
  options.path = path;
  ctl_log_init (&options.log);
  report->path = path;
  report->check = check;
  check->found = check_report_found;
  check->fixed = check_report_fixed;
  check->lost = check_report_lost;
  check->opaque = report;

  if (!check_report_begin (report))
    return CTL_FAILED;
  ctl_progress_start (&progress, check->repair == QED_REPAIR_NONE ||
                      check->dry_run ? "check" : "repair");
  check->progress = progress.progress;
  r = qed_check (&options, check, &result);
  if (ctl_progress_end (&progress) && r < 0)
    tell_state (path, check, &options.log);
  written = check_report_end (report, r < 0 ? NULL : &result);
  return written ? qed_check_exit_code (r, &result) : CTL_FAILED;
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct check_report report = { 0 };
  struct qed_check_control control = { 0 };
  struct qed_check_options check;
  int c, status;

  qed_check_options_init (&check);
  check.control = &control;
  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &check, &report))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 1) || !check_options (&check))
    return CTL_FAILED;

  /* A reader of the report that goes away doesn't end a repair half-way. */
  if (check.repair != QED_REPAIR_NONE)
    signal (SIGPIPE, SIG_IGN);
  status = run_check (argv[optind], &check, &report);
  check_report_free (&report);
  return status;
}

const struct ctl_command ctl_check_command = {
  .name = "check",
  .arguments = "IMAGE|URI",
  .summary = "Find what is wrong with an image, and repair it if told to",
  .help =
  "Nothing is written unless --repair is given.  No one else may have the\n"
  "image open for writing.  qedctl explain CODE tells more about a problem.\n"
  "A URI (nbd://, nbds://, nbd+unix://) names an export of an NBD server that\n"
  "holds the image file itself; it is not repaired from here.\n"
  "\n"
  "  --repair[=leaks|all]        repair leaks alone, or everything (default)\n"
  "  --dry-run                   with --repair: tell what it would do\n"
  "  --undo FILE                 with --repair: save what is overwritten to\n"
  "                              the new file FILE, for qedctl undo\n"
  "  --data                      read all data too, so that errors of the\n"
  "                              storage show\n"
  "  --limit RATE                read at most so many bytes a second\n"
  "  --raw-image                 with a URI: what the server exports is an\n"
  "                              image file, even if it says it is a disk\n"
  "  --verbose                   show every problem, not 100 of each kind\n"
  "  --json                      print a JSON object, with all problems\n",
  .run = run,
};
