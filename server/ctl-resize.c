/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl resize: another size for an image. */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>

#include "ctl.h"

enum {
  OPT_SHRINK = CTL_OPT_FIRST,
  OPT_FORCE,
  OPT_ALLOW_BACKING,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "shrink", no_argument, NULL, OPT_SHRINK },
  { "force", no_argument, NULL, OPT_FORCE },
  { "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },
  { NULL, 0, NULL, 0 },
};

static bool
set_option (int c, struct qed_options *image, struct qed_resize *resize)
{
  switch (c) {
  case OPT_SHRINK:
    resize->shrink = true;
    return true;
  case OPT_FORCE:
    resize->force = true;
    return true;
  default:
    return ctl_parse_allow_backing (optarg, image);
  }
}

/* "10G", "+1G" or "-1G". */
static bool
parse_size (const char *text, struct qed_resize *resize)
{
  resize->how = text[0] == '+' ? QED_RESIZE_BY_MORE
    : text[0] == '-' ? QED_RESIZE_BY_LESS : QED_RESIZE_TO;
  return ctl_parse_size ("size", resize->how == QED_RESIZE_TO ? text
                         : text + 1, &resize->size);
}

static int
work (const struct qed_options *image, struct qed_resize *resize)
{
  struct ctl_progress progress;
  bool stopped;
  int r;

  ctl_progress_start (&progress, "resize");
  r = qed_resize (image, resize, &progress.progress);
  stopped = ctl_progress_end (&progress);
  if (r < 0)
    return CTL_FAILED;
  if (stopped)
    ctl_error ("resize: it was complete: %s has %" PRIu64 " bytes",
               image->path, resize->is);
  if (resize->was == resize->is)
    printf ("%s: has %" PRIu64 " bytes already\n", image->path, resize->is);
  return ctl_end_output ();
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct qed_resize resize = { .size = 0 };
  struct qed_options image;
  const char *size = argv[argc - 1];
  int c, status, before_size = argc;

  /* "-1G" is no option. */
  if (argc > 1 && size[0] == '-' && size[1] >= '0' && size[1] <= '9')
    before_size--;
  qed_options_init (&image);
  ctl_log_init (&image.log);
  while ((c = ctl_options_next (&options, before_size, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &image, &resize))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 2))
    return CTL_FAILED;
  if (resize.force && !resize.shrink) {
    ctl_error ("--force is given without --shrink");
    return CTL_FAILED;
  }
  image.path = argv[optind];
  if (!parse_size (argv[optind + 1], &resize))
    return CTL_FAILED;
  return work (&image, &resize);
}

const struct ctl_command ctl_resize_command = {
  .name = "resize",
  .arguments = "IMAGE SIZE",
  .summary = "Make an image larger or smaller",
  .help =
  "What grows reads as zeros.  IMAGE must not be in use.  When interrupted,\n"
  "IMAGE keeps its size.\n\n"
  "  SIZE                        bytes, or with a suffix K, M, G, T, P or E\n"
  "                              (powers of 1024); a multiple of 512; with a\n"
  "                              sign, so many more or fewer than now\n"
  "  --shrink                    IMAGE may become smaller, if nothing is lost\n"
  "  --force                     with --shrink: even if data is lost\n"
  "  --allow-backing beside|any|DIRECTORY\n"
  "                              which backing files may be opened: those in\n"
  "                              IMAGE's directory (default), any, or those\n"
  "                              inside DIRECTORY\n",
  .run = run,
};
