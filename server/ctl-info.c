/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl info: what the header of an image says. */

#include "ctl.h"
#include "pending-directories.h"

/* The set bits of 'features' by name, ended by NULL. */
static void
name_features (uint64_t features, const char *words[4])
{
  unsigned n = 0;

  if (features & QED_F_BACKING_FILE)
    words[n++] = "backing-file";
  if (features & QED_F_NEED_CHECK)
    words[n++] = "need-check";
  if (features & QED_F_BACKING_FORMAT_NO_PROBE)
    words[n++] = "backing-format-no-probe";
  words[n] = NULL;
}

/* The names are those of "qemu-img info --output=json" where it has one. */
bool
ctl_info_print (const char *path, const struct qed_info *info, bool json)
{
  struct ctl_report *report = ctl_report_new ();
  const char *words[4];
  uint64_t pending;

  ctl_report_string (report, "filename", "image", path);
  ctl_report_string (report, "format", "format", "qed");
  ctl_report_size (report, "virtual-size", "virtual size", info->image_size);
  ctl_report_size (report, "max-virtual-size", "largest virtual size",
                   info->max_image_size);
  ctl_report_size (report, "file-size", "file length", info->file_size);
  if (info->disk_size != UINT64_MAX)
    ctl_report_size (report, "actual-size", "disk usage", info->disk_size);
  ctl_report_size (report, "cluster-size", "cluster size",
                   info->cluster_size);
  ctl_report_number (report, "table-size", "table size", info->table_size,
                     "cluster");
  ctl_report_number (report, "header-size", "header size", info->header_size,
                     "cluster");
  ctl_report_number (report, "l1-table-offset", NULL, info->l1_table_offset,
                     "");
  ctl_report_bits (report, NULL, "L1 table at", info->l1_table_offset);
  if (info->backing != NULL) {
    ctl_report_string (report, "backing-filename", "backing file",
                       info->backing);
    if (info->features & QED_F_BACKING_FORMAT_NO_PROBE)
      ctl_report_string (report, "backing-filename-format", "backing format",
                         "raw");
  }
  ctl_report_bool (report, "dirty-flag", "needs a check",
                   info->features & QED_F_NEED_CHECK);
  name_features (info->features, words);
  ctl_report_words (report, "flags", "flags", words);
  ctl_report_bits (report, "features", NULL, info->features);
  ctl_report_bits (report, "compat-features",
                   info->compat_features ? "unknown compatible" : NULL,
                   info->compat_features);
  ctl_report_bits (report, "autoclear-features",
                   info->autoclear_features & ~QED_AUTOCLEAR_PENDING
                   ? "unknown autoclear" : NULL, info->autoclear_features);
  pending = qed_pending_waiting (path, pending_directories ());
  if (pending > 0)
    ctl_report_number (report, "pending-records", "waits in a pending log",
                       pending, "change");
  return ctl_report_print (report, json);
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
  bool json = false, ok;
  struct qed_info info;
  struct qed_log log;
  int c, status;

  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    switch (c) {
    case OPT_JSON: json = true; break;
    default:       return status;
    }
  }
  if (!ctl_arguments (command, argc, 1))
    return CTL_FAILED;

  ctl_log_init (&log);
  if (qed_info_read (argv[optind], &log, &info) < 0)
    return CTL_FAILED;
  ok = ctl_info_print (argv[optind], &info, json);
  qed_info_free (&info);
  return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_info_command = {
  .name = "info",
  .arguments = "IMAGE|URI",
  .summary = "Show what the header of an image says",
  .help =
  "A URI (nbd://...) is that of an export that holds the image file.\n"
  "\n"
  "  --json                      print a JSON object\n",
  .run = run,
};
