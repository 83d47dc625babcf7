/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl commit: write an overlay into its backing file. */

#include <config.h>

#include <errno.h>

#include "ctl.h"

enum {
  OPT_KEEP = CTL_OPT_FIRST,
  OPT_ALLOW_BACKING,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "keep", no_argument, NULL, OPT_KEEP },
  { "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },
  { NULL, 0, NULL, 0 },
};

static int
commit (const struct qed_options *options, unsigned flags)
{
  struct ctl_progress progress;
  bool stopped;
  int r;

  ctl_progress_start (&progress, "commit");
  r = qed_commit (options, flags, &progress.progress);
  stopped = ctl_progress_end (&progress);
  if (r == -ECANCELED)
    ctl_error ("%s: its content is as it was: run the command again to "
               "finish", options->path);
  else if (r == 0 && stopped)
    ctl_error ("commit: it was complete");
  return r < 0 ? CTL_FAILED : CTL_OK;
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct qed_options image;
  unsigned flags = 0;
  int c, status;

  qed_options_init (&image);
  ctl_log_init (&image.log);
  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (c == OPT_KEEP)
      flags |= QED_COMMIT_KEEP;
    else if (!ctl_parse_allow_backing (optarg, &image))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 1))
    return CTL_FAILED;
  image.path = argv[optind];
  return commit (&image, flags);
}

const struct ctl_command ctl_commit_command = {
  .name = "commit",
  .arguments = "IMAGE",
  .summary = "Write what an overlay holds into its backing file",
  .help =
  "  --keep                      do not empty IMAGE afterwards\n"
  "  --allow-backing beside|any|DIRECTORY\n"
  "                              which backing files may be opened: those in\n"
  "                              IMAGE's directory (default), any, or those\n"
  "                              inside DIRECTORY\n"
  "\n"
  "The backing file, raw or QED, is made as large as IMAGE if it is smaller.\n"
  "Neither may be in use.  What is read through IMAGE stays the same at every\n"
  "moment; if this is interrupted, run it again.  Other overlays of the same\n"
  "backing file become worthless.\n"
  "\n",
  .run = run,
};
