/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl create: make an empty image. */

#include <string.h>

#include "ctl.h"

enum {
  OPT_CLUSTER_SIZE = CTL_OPT_FIRST,
  OPT_TABLE_SIZE,
  OPT_BACKING,
  OPT_BACKING_FORMAT,
  OPT_FORCE,
  OPT_JSON,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
  { "table-size", required_argument, NULL, OPT_TABLE_SIZE },
  { "backing", required_argument, NULL, OPT_BACKING },
  { "backing-format", required_argument, NULL, OPT_BACKING_FORMAT },
  { "force", no_argument, NULL, OPT_FORCE },
  { "json", no_argument, NULL, OPT_JSON },
  { NULL, 0, NULL, 0 },
};

/* A size that must fit into 32 bits; the engine knows what is possible. */
static bool
parse_size32 (const char *what, const char *text, uint32_t *size)
{
  uint64_t v;

  if (!ctl_parse_size (what, text, &v))
    return false;
  if (v > UINT32_MAX) {
    ctl_error ("%s %s is too large", what, text);
    return false;
  }
  *size = v;
  return true;
}

/* One option.  False, with a message, if its value makes no sense. */
static bool
set_option (int c, struct qed_create_options *create,
            const char **backing_format, bool *json)
{
  switch (c) {
  case OPT_CLUSTER_SIZE:
    return parse_size32 ("cluster size", optarg, &create->cluster_size);
  case OPT_TABLE_SIZE:
    return parse_size32 ("table size", optarg, &create->table_size);
  case OPT_BACKING:
    create->backing = optarg;
    return true;
  case OPT_BACKING_FORMAT:
    *backing_format = optarg;
    if (strcmp (optarg, "raw") != 0 && strcmp (optarg, "qed") != 0) {
      ctl_error ("backing format %s is not possible: choose raw or qed",
                 optarg);
      return false;
    }
    create->backing_raw = strcmp (optarg, "raw") == 0;
    return true;
  case OPT_FORCE:
    create->force = true;
    return true;
  default:
    *json = true;
    return true;
  }
}

static int
print_created (const struct qed_create_options *create)
{
  struct qed_info info;
  bool ok;

  if (qed_info_read (create->path, &create->log, &info) < 0)
    return CTL_FAILED;
  ok = ctl_info_print (create->path, &info, true);
  qed_info_free (&info);
  return ok ? CTL_OK : CTL_FAILED;
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct qed_create_options create;
  const char *backing_format = NULL;
  bool json = false;
  int c, status;

  qed_create_options_init (&create);
  ctl_log_init (&create.log);
  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &create, &backing_format, &json))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 2))
    return CTL_FAILED;
  if (backing_format != NULL && create.backing == NULL) {
    ctl_error ("--backing-format is given without --backing");
    return CTL_FAILED;
  }
  if (backing_format != NULL && !create.backing_raw &&
      qed_backing_is_nbd (create.backing)) {
    ctl_error ("--backing-format qed is not possible with an NBD URI: what "
               "a server exports is raw; let it serve the image's content "
               "(nbdkit qed, qemu-nbd -f qed)");
    return CTL_FAILED;
  }
  create.path = argv[optind];
  if (!ctl_parse_size ("image size", argv[optind + 1], &create.size))
    return CTL_FAILED;

  if (qed_create (&create) < 0)
    return CTL_FAILED;
  return json ? print_created (&create) : CTL_OK;
}

const struct ctl_command ctl_create_command = {
  .name = "create",
  .arguments = "IMAGE|URI SIZE",
  .summary = "Make an empty image",
  .help =
  "  SIZE                        bytes, or with a suffix K, M, G, T, P or E\n"
  "                              (powers of 1024); a multiple of 512\n"
  "  --cluster-size N            4K to 64M, a power of 2 (default 64K)\n"
  "  --table-size N              clusters a table takes: 1, 2, 4, 8 or 16\n"
  "                              (default 4)\n"
  "  --backing FILE              what is not written is read from FILE; a\n"
  "                              relative name counts from IMAGE's directory;\n"
  "                              or the URI of an export: nbd://HOST/NAME,\n"
  "                              nbd+unix:///NAME?socket=/PATH, nbds:// with\n"
  "                              TLS, as libnbd has them\n"
  "  --backing-format raw|qed    raw: FILE is never probed for a format; a\n"
  "                              URI is always raw\n"
  "  --force                     overwrite IMAGE if it exists, or whatever the\n"
  "                              export of the URI holds\n"
  "  --json                      print what was made as a JSON object\n",
  .run = run,
};
