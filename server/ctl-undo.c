/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl undo: put back what a repair overwrote. */

#include "check.h"
#include "ctl.h"
#include "pending-directories.h"

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  enum { OPT_RAW_IMAGE = CTL_OPT_FIRST };
  static const struct option longopts[] = {
    { "help", no_argument, NULL, 'h' },
    { "raw-image", no_argument, NULL, OPT_RAW_IMAGE },
    { NULL, 0, NULL, 0 },
  };
  struct ctl_options list = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct ctl_progress progress;
  struct qed_options options;
  int c, r, status;

  qed_options_init (&options);
  while ((c = ctl_options_next (&list, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    options.raw_image = true;
  }
  if (!ctl_arguments (command, argc, 2))
    return CTL_FAILED;

  options.path = argv[optind + 1];
  options.pending_directories = pending_directories ();
  ctl_log_init (&options.log);
  ctl_progress_start (&progress, "undo");
  r = qed_undo (argv[optind], &options, &progress.progress);
  if (ctl_progress_end (&progress) && r < 0)
    ctl_error ("%s: not everything was put back: run it again",
               options.path);
  return r < 0 ? CTL_FAILED : CTL_OK;
}

const struct ctl_command ctl_undo_command = {
  .name = "undo",
  .arguments = "FILE IMAGE|URI",
  .summary = "Put back what a repair of an image overwrote",
  .help =
  "FILE is what \"qedctl check --repair --undo FILE IMAGE\" made: nothing\n"
  "else may have changed IMAGE since; or IMAGE.undo, which a server left.\n"
  "\n"
  "  --raw-image                 IMAGE is a URI (nbd://...) of an export that\n"
  "                              holds the image file\n",
  .run = run,
};
