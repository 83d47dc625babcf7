/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl rebase: another backing file for an image. */

#include <config.h>

#include <string.h>

#include "ctl.h"

enum {
  OPT_BACKING = CTL_OPT_FIRST,
  OPT_BACKING_FORMAT,
  OPT_NO_BACKING,
  OPT_ALLOW_BACKING,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "unsafe", no_argument, NULL, 'u' },
  { "backing", required_argument, NULL, OPT_BACKING },
  { "backing-format", required_argument, NULL, OPT_BACKING_FORMAT },
  { "no-backing", no_argument, NULL, OPT_NO_BACKING },
  { "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },
  { NULL, 0, NULL, 0 },
};

struct arguments {
  struct qed_options image;
  struct qed_rebase rebase;
  bool backing, no_backing, format;     /* given */
};

static bool
set_format (struct arguments *args, const char *text)
{
  args->format = true;
  if (strcmp (text, "raw") == 0)
    args->rebase.format = QED_REBASE_RAW;
  else if (strcmp (text, "qed") == 0)
    args->rebase.format = QED_REBASE_QED;
  else {
    ctl_error ("backing format %s is not possible: choose raw or qed", text);
    return false;
  }
  return true;
}

static bool
set_option (int c, struct arguments *args)
{
  switch (c) {
  case 'u':
    args->rebase.unsafe = true;
    return true;
  case OPT_BACKING:
    args->backing = true;
    args->rebase.backing = optarg[0] != '\0' ? optarg : NULL;
    return true;
  case OPT_BACKING_FORMAT:
    return set_format (args, optarg);
  case OPT_NO_BACKING:
    args->no_backing = true;
    return true;
  default:
    return ctl_parse_allow_backing (optarg, &args->image);
  }
}

static bool
check_options (const struct arguments *args)
{
  if (args->backing == args->no_backing) {
    ctl_error ("rebase: give either --backing FILE or --no-backing");
    return false;
  }
  if (args->format && args->rebase.backing == NULL) {
    ctl_error ("--backing-format is given without --backing");
    return false;
  }
  return true;
}

static int
work (const struct arguments *args)
{
  struct ctl_progress progress;
  bool stopped;
  int r;

  ctl_progress_start (&progress, "rebase");
  r = qed_rebase (&args->image, &args->rebase, &progress.progress);
  stopped = ctl_progress_end (&progress);
  if (r < 0)
    return CTL_FAILED;
  if (stopped)
    ctl_error ("rebase: it was complete: %s has its new backing file",
               args->image.path);
  return CTL_OK;
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":hu",
  };
  struct arguments args = { .backing = false };
  int c, status;

  qed_options_init (&args.image);
  ctl_log_init (&args.image.log);
  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &args))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 1) || !check_options (&args))
    return CTL_FAILED;
  args.image.path = argv[optind];
  return work (&args);
}

const struct ctl_command ctl_rebase_command = {
  .name = "rebase",
  .arguments = "IMAGE",
  .summary = "Change the backing file of an image, not its content",
  .help =
  "Where the old and the new backing file differ, IMAGE gets what the old one\n"
  "has.  IMAGE must not be in use.  When interrupted, IMAGE keeps its backing\n"
  "file and its content.\n\n"
  "  --backing FILE              the new one; a relative name counts from\n"
  "                              IMAGE's directory\n"
  "  --backing-format raw|qed    what it is; if not given FILE is probed\n"
  "  --no-backing                none from now on (also: --backing '')\n"
  "  -u, --unsafe                change the name alone; the content follows\n"
  "                              the new file, and the old one need not exist\n"
  "  --allow-backing beside|any|DIRECTORY\n"
  "                              which of the other backing files may be\n"
  "                              opened: those in IMAGE's directory (default;\n"
  "                              below FILE: in FILE's), any, or those inside\n"
  "                              DIRECTORY\n",
  .run = run,
};
