/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl check: find what is wrong with an image, and repair it. */

#include <config.h>

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "ctl-check.h"
#include "ctl-remote.h"
#include "pending-directories.h"

enum {
  OPT_REPAIR = CTL_OPT_FIRST,
  OPT_DRY_RUN,
  OPT_DATA,
  OPT_UNDO,
  OPT_LIMIT,
  OPT_RAW_IMAGE,
  OPT_CONTROL,
  OPT_PAUSE,
  OPT_CONTINUE,
  OPT_CANCEL,
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
  { "control", required_argument, NULL, OPT_CONTROL },
  { "pause", no_argument, NULL, OPT_PAUSE },
  { "continue", no_argument, NULL, OPT_CONTINUE },
  { "cancel", no_argument, NULL, OPT_CANCEL },
  { "verbose", no_argument, NULL, OPT_VERBOSE },
  { "json", no_argument, NULL, OPT_JSON },
  { NULL, 0, NULL, 0 },
};

/* What was asked for. */
struct checking {
  struct qed_check_options check;
  struct qed_check_control limits;      /* what check.control points at */
  struct check_report report;
  const char *control;          /* the server's socket, or NULL */
  enum check_action action;
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

static bool
set_action (struct checking *checking, enum check_action action)
{
  if (checking->action != CHECK_START) {
    ctl_error ("--pause, --continue and --cancel exclude each other");
    return false;
  }
  checking->action = action;
  return true;
}

/* One option.  False, with a message, if its value makes no sense. */
static bool
set_option (int c, struct checking *checking)
{
  struct qed_check_options *check = &checking->check;

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
  case OPT_CONTROL:
    checking->control = optarg;
    return true;
  case OPT_PAUSE:
    return set_action (checking, CHECK_PAUSE);
  case OPT_CONTINUE:
    return set_action (checking, CHECK_CONTINUE);
  case OPT_CANCEL:
    return set_action (checking, CHECK_CANCEL);
  case OPT_VERBOSE:
    checking->report.verbose = true;
    return true;
  default:
    checking->report.json = true;
    return true;
  }
}

static bool
check_options (const struct checking *checking)
{
  const struct qed_check_options *check = &checking->check;

  if (checking->action != CHECK_START &&
      (check->repair != QED_REPAIR_NONE || check->data || check->raw_image))
    ctl_error ("--pause, --continue and --cancel are for a check that runs: "
               "beside them there can be --limit alone, with --continue");
  else if (checking->action != CHECK_START &&
           checking->action != CHECK_CONTINUE &&
           atomic_load (&check->control->rate) > 0)
    ctl_error ("--limit is for a check that goes on: use it with --continue");
  else if (checking->control != NULL && check->raw_image)
    ctl_error ("--raw-image and --control exclude each other");
  else if (check->repair == QED_REPAIR_NONE && check->dry_run)
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
  options.pending_directories = pending_directories ();
  ctl_log_init (&options.log);
  report->path = path;
  report->check = check;
  check->opened = check_report_opened;
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

/* ---- Who has it -------------------------------------------------------- */

/* Through its server.  'target' is what the command line calls it. */
static int
run_at_door (struct checking *checking, struct ctl_door *door,
             const char *target)
{
  int status;

  if (checking->action != CHECK_START)
    status = check_steer (door, checking->action,
                          atomic_load (&checking->limits.rate),
                          checking->report.json);
  else {
    checking->report.path = target;
    status = check_at_door (door, &checking->check, &checking->report);
  }
  ctl_door_close (door);
  return status;
}

static int
run_here (struct checking *checking, const char *target)
{
  if (checking->action == CHECK_START)
    return run_check (target, &checking->check, &checking->report);
  ctl_error ("%s: no server of nbdkit-qed that takes commands serves this: "
             "start it with control=SOCKET or control-export=", target);
  return CTL_FAILED;
}

/* A file that a server on this host has is checked there; so is the disk that
 * a server elsewhere exports, if it takes commands.
 */
static int
run_target (struct checking *checking, const char *target)
{
  struct ctl_door door = { NULL, NULL };
  bool failed = false, other = false, found;

  if (!ctl_is_uri (target))
    found = ctl_door_find (target, true, &door, &failed);
  else if (checking->check.raw_image)
    found = false;
  else {
    door.remote = ctl_remote_nbd (target, &door.image, &other);
    found = door.remote != NULL;
    failed = !found && !other;
  }
  if (failed)
    return CTL_FAILED;
  return found ? run_at_door (checking, &door, target)
    : run_here (checking, target);
}

static int
run_socket (const struct ctl_command *command, struct checking *checking,
            int argc, char **argv)
{
  struct ctl_door door;

  if (!ctl_door_open (command, checking->control, true, argc, argv, &door))
    return CTL_FAILED;
  return run_at_door (checking, &door, optind < argc ? argv[optind] : NULL);
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct checking checking = { .control = NULL };
  int c, status;

  qed_check_options_init (&checking.check);
  checking.check.control = &checking.limits;
  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &checking))
      return CTL_FAILED;
  }
  if ((checking.control == NULL && !ctl_arguments (command, argc, 1)) ||
      !check_options (&checking))
    return CTL_FAILED;

  /* A reader of the report that goes away doesn't end a repair half-way. */
  if (checking.check.repair != QED_REPAIR_NONE)
    signal (SIGPIPE, SIG_IGN);
  status = checking.control != NULL
    ? run_socket (command, &checking, argc, argv)
    : run_target (&checking, argv[optind]);
  check_report_free (&checking.report);
  return status;
}

const struct ctl_command ctl_check_command = {
  .name = "check",
  .arguments = "[IMAGE|URI]",
  .summary = "Find what is wrong with an image, and repair it if told to",
  .help =
  "Nothing is written unless --repair is given.  An image that is served with\n"
  "control=SOCKET is checked by its server, while it is in use; no one else\n"
  "may have it open for writing.  A URI (nbd://, nbds://, nbd+unix://) names\n"
  "a disk of such a server with control-export=, or an export of another NBD\n"
  "server that holds the image file itself; that is repaired with --raw-image,\n"
  "while nobody else uses it.\n"
  "qedctl explain CODE tells more about a problem.\n"
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
  "  --control SOCKET            let the server of this control socket check\n"
  "                              IMAGE, or its only one\n"
  "  --pause, --continue         let a check of the server rest, and go on,\n"
  "                              with --limit at another rate\n"
  "  --cancel                    end a check of the server\n"
  "  --verbose                   show every problem, not 100 of each kind\n"
  "  --json                      print a JSON object, with all problems\n",
  .run = run,
};
