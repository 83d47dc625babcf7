/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Names of backing files, and what create, rebase and resize are given.
 *
 *   scratch/in/    disk.qed, base.raw, base.qed; link-in, fifo; and the ways
 *                  out: link-out (a file), link-dir
 *   scratch/out/   secret.raw, secret.qed, fifo
 *
 * Whatever name stands in disk.qed, no file of out/ may be opened: inotify
 * would tell.  In names the bytes from 0x80 on stand for the words below.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format.h"
#include "fuzz.h"
#include "one-thread.h"
#include "qed.h"
#include "storage.h"

int qedctl_main (int argc, char **argv);

#define NAME_MAX_BYTES 8192u
#define ARGUMENTS_MAX 12
#define CLUSTER 4096u
#define IMAGE_BYTES (UINT64_C (1) << 20)

/* No more is created than this: tmpfs has holes, others may not. */
#define CLUSTER_MAX (UINT32_C (1) << 20)

static char *in_dir, *out_dir, *disk_path, *new_path;
static int watch = -1;
static bool any_allowed;        /* the policy under which it is opened */

static const char *words[] = {
  "../", "/", "out/secret.raw", "secret.qed", "base.raw", "base.qed",
  "link-out", "link-dir/", "link-in", "fifo", "json:{\"file\":\"", "nbd://",
  "nbd+unix:///?socket=/", "file:", "disk.qed", "/proc/self/root/",
  NULL,                         /* in_dir */
  NULL,                         /* out_dir */
  "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
  "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
  "--backing=", "--backing-format=", "--cluster-size=", "--table-size=",
  "--allow-backing=", "--unsafe", "--force", "--json",
};
#define WORDS (sizeof words / sizeof words[0])
#define WORD_IN 16
#define WORD_OUT 17

/* ---- What lies where ---- */

static char *
make_path (const char *directory, const char *name)
{
  char *path;

  if (asprintf (&path, "%s/%s", directory, name) < 0)
    abort ();
  return path;
}

static void
make_file (const char *directory, const char *name, const char *content)
{
  char *path = make_path (directory, name);
  FILE *file = fopen (path, "w");

  if (file == NULL || fputs (content, file) < 0 || fclose (file) != 0)
    fuzz_fail ("cannot make %s", path);
  free (path);
}

static void
make_image (const char *directory, const char *name)
{
  char *path = make_path (directory, name);
  struct qed_create_options create;

  qed_create_options_init (&create);
  create.path = path;
  create.size = IMAGE_BYTES;
  create.cluster_size = CLUSTER;
  create.table_size = 1;
  create.force = true;
  if (qed_create (&create) < 0)
    fuzz_fail ("cannot make %s", path);
  free (path);
}

static void
make_other (const char *directory, const char *name, const char *target)
{
  char *path = make_path (directory, name);

  if ((target ? symlink (target, path) : mkfifo (path, 0600)) == -1)
    fuzz_fail ("cannot make %s", path);
  free (path);
}

static void
make_files (void)
{
  in_dir = fuzz_path ("in");
  out_dir = fuzz_path ("out");
  if (mkdir (in_dir, 0700) == -1 || mkdir (out_dir, 0700) == -1)
    fuzz_fail ("cannot make %s and %s", in_dir, out_dir);
  disk_path = make_path (in_dir, "disk.qed");
  new_path = make_path (in_dir, "new.qed");
  words[WORD_IN] = in_dir;
  words[WORD_OUT] = out_dir;
  make_file (in_dir, "base.raw", "a raw file");
  make_image (in_dir, "base.qed");
  make_image (in_dir, "disk.qed");
  make_file (out_dir, "secret.raw", "a secret");
  make_image (out_dir, "secret.qed");
  make_other (in_dir, "link-in", "base.raw");
  make_other (in_dir, "link-out", "../out/secret.raw");
  make_other (in_dir, "link-dir", "../out");
  make_other (in_dir, "fifo", NULL);
  make_other (out_dir, "fifo", NULL);
  watch = inotify_init1 (IN_NONBLOCK | IN_CLOEXEC);
  if (watch == -1 || inotify_add_watch (watch, out_dir, IN_OPEN) == -1)
    fuzz_fail ("cannot watch %s", out_dir);
}

/* Whether a file of out/ was opened since the last time. */
static bool
was_opened (void)
{
  char events[4096];
  bool any = false;

  while (read (watch, events, sizeof events) > 0)
    any = true;
  return any;
}

/* ---- What the engine looks for ---- */

int
storage_nbd_open (const char *uri, const char *about, unsigned flags,
                  const struct qed_log *log, struct storage **storage)
{
  (void) about;
  (void) flags;
  (void) log;
  *storage = NULL;
  if (!any_allowed)
    fuzz_fail ("%s: a server is asked, which the policy forbids", uri);
  return -ECONNREFUSED;
}

static void
take_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  (void) level;
  if (message[0] == '\0')
    fuzz_fail ("a message without words");
  if (getenv ("FUZZ_LOG"))
    fprintf (stderr, "%s\n", message);
}

/* ---- Names ---- */

/* Up to the end, or the byte that ends it; returns its length.  A NUL follows.
 */
static size_t
take_name (struct fuzz_input *in, int end, char name[NAME_MAX_BYTES])
{
  const char *word;
  size_t n = 0;
  char letter[2] = { 0 };
  int c;

  while (fuzz_left (in) > 0 && (c = *in->at++) != end) {
    letter[0] = (char) c;
    word = c >= 0x80 ? words[(size_t) (c - 0x80) % WORDS] : letter;
    if (c == 0 && n + 1 < NAME_MAX_BYTES)
      name[n++] = '\0';
    for (; *word && n + 1 < NAME_MAX_BYTES; word++)
      name[n++] = *word;
  }
  name[n] = '\0';
  return n;
}

/* disk.qed gets that name, whatever it is. */
static void
put_name (const char *name, size_t length, unsigned bits)
{
  struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 3,
    .l1_table_offset = 3 * CLUSTER, .image_size = IMAGE_BYTES,
    .features = QED_F_BACKING_FILE |
      (bits & 1 ? QED_F_BACKING_FORMAT_NO_PROBE : 0),
    .backing_filename_offset = FORMAT_HEADER_BYTES,
    .backing_filename_size = (uint32_t) length + (bits & 2 ? 4096 : 0),
  };
  unsigned char buf[FORMAT_HEADER_BYTES];
  int fd = open (disk_path, O_WRONLY | O_TRUNC | O_CLOEXEC);

  format_encode_header (&header, buf);
  if (fd == -1 || pwrite (fd, buf, sizeof buf, 0) != sizeof buf ||
      pwrite (fd, name, length, FORMAT_HEADER_BYTES) != (ssize_t) length ||
      ftruncate (fd, 4 * CLUSTER) == -1)
    fuzz_fail ("cannot write to %s", disk_path);
  close (fd);
}

/* What was opened is one of in/'s files. */
static void
check_chain (struct qed_image *image)
{
  static const char *const names[] = { "base.raw", "base.qed" };
  struct qed_chain_file file;
  struct qed_file_id id;
  unsigned depth, i;
  bool inside = true;
  char *path;

  for (depth = 1; inside && qed_chain_file (image, depth, &file); depth++) {
    inside = false;
    for (i = 0; i < 2; i++) {
      path = make_path (in_dir, names[i]);
      inside |= qed_file_identify (path, NULL, &id) == 0 &&
        id.device == file.id.device && id.inode == file.id.inode;
      free (path);
    }
    if (!inside)
      fuzz_fail ("%s is a backing file", file.path);
  }
}

/* Open what has a name in its header. */
static void
try_open (struct fuzz_input *in)
{
  static const enum qed_backing_mode modes[] = {
    QED_BACKING_BESIDE, QED_BACKING_NONE, QED_BACKING_BELOW, QED_BACKING_ANY,
  };
  unsigned bits = (unsigned) fuzz_take (in, 1);
  struct qed_options options;
  struct qed_image *image;
  char name[NAME_MAX_BYTES];
  size_t length = take_name (in, -1, name);

  put_name (name, length, bits);
  qed_options_init (&options);
  options.path = disk_path;
  options.backing = modes[bits >> 2 & 3];
  options.backing_directory = options.backing == QED_BACKING_BELOW
    ? in_dir : NULL;
  options.read_only = bits & 16;
  options.log.fn = take_message;
  any_allowed = options.backing == QED_BACKING_ANY;
  was_opened ();
  if (qed_open (&options, &image) == 0) {
    if (options.backing == QED_BACKING_NONE)
      fuzz_fail ("a backing file was opened, and none is allowed");
    if (memchr (name, '\0', length) || memchr (name, '\n', length))
      fuzz_fail ("a name with a control character was opened");
    if (!any_allowed)
      check_chain (image);
    qed_close (image);
  }
  if (!any_allowed && was_opened ())
    fuzz_fail ("a file outside was opened for %s", name);
}

/* ---- Arguments ---- */

static void
try_create (struct fuzz_input *in)
{
  struct qed_create_options create;
  struct qed_info info;
  char name[NAME_MAX_BYTES];
  unsigned bits = (unsigned) fuzz_take (in, 1);

  qed_create_options_init (&create);
  create.path = new_path;
  create.log.fn = take_message;
  create.size = fuzz_take (in, 8);
  create.cluster_size = (uint32_t) fuzz_take (in, 4);
  create.table_size = (uint32_t) fuzz_take (in, 4);
  if (bits & 4)
    create.cluster_size = UINT32_C (1) << create.cluster_size % 32;
  if (bits & 4)
    create.table_size = UINT32_C (1) << create.table_size % 32;
  if (create.cluster_size > CLUSTER_MAX)
    create.cluster_size = CLUSTER_MAX;
  create.backing_raw = bits & 1;
  take_name (in, -1, name);
  create.backing = bits & 2 ? name : NULL;
  if (qed_create (&create) == 0) {
    if (qed_info_read (new_path, &create.log, &info) < 0)
      fuzz_fail ("what was created is no image");
    if (info.image_size != create.size || (info.backing != NULL) !=
        (create.backing != NULL) ||
        (create.backing && strcmp (info.backing, create.backing) != 0))
      fuzz_fail ("what was created is not what was asked for");
    qed_info_free (&info);
  }
  unlink (new_path);
  if (was_opened ())
    fuzz_fail ("create opened a file outside for %s", name);
}

/* Its user vouches for the name: it may be opened, but not with 'unsafe'. */
static void
try_rebase (struct fuzz_input *in)
{
  unsigned bits = (unsigned) fuzz_take (in, 1);
  struct qed_rebase rebase = {
    .format = bits & 1 ? QED_REBASE_RAW : bits & 2 ? QED_REBASE_QED
      : QED_REBASE_PROBE,
    .unsafe = bits & 4,
  };
  struct qed_options options;
  char name[NAME_MAX_BYTES];

  put_name ("base.raw", 8, 1);
  qed_options_init (&options);
  options.path = disk_path;
  options.log.fn = take_message;
  take_name (in, -1, name);
  rebase.backing = bits & 8 ? NULL : name;
  any_allowed = !rebase.unsafe;
  was_opened ();
  qed_rebase (&options, &rebase, NULL);
  if (rebase.unsafe && was_opened ())
    fuzz_fail ("an unsafe rebase opened a file outside: %s", name);
}

/* ---- The command ---- */

/* Options only, so that the files that it writes are those given here. */
static char *
take_option (struct fuzz_input *in)
{
  char name[NAME_MAX_BYTES], *option;
  int r;

  take_name (in, '\0', name);
  if (strncmp (name, "--", 2) == 0 && name[2] != '\0')
    r = asprintf (&option, "%s", name);
  else
    r = asprintf (&option, "--backing=%s", name);
  if (r < 0)
    abort ();
  return option;
}

static void
run_command (int argc, char **argv)
{
  static FILE *null;
  FILE *kept = stderr;

  if (null == NULL && ((null = fopen ("/dev/null", "w")) == NULL ||
                       freopen ("/dev/null", "w", stdout) == NULL))
    fuzz_fail ("cannot open /dev/null");
  optind = 0;
  if (!getenv ("FUZZ_LOG"))
    stderr = null;
  if (qedctl_main (argc, argv) > 1)
    fuzz_fail ("an exit status beyond 1");
  stderr = kept;
}

static void
try_command (struct fuzz_input *in)
{
  static const char *const commands[] = { "create", "rebase", "resize",
                                          "info" };
  unsigned which = (unsigned) fuzz_take (in, 1) % 4;
  char *argv[ARGUMENTS_MAX + 5] = { strdup ("qedctl") };
  char name[NAME_MAX_BYTES];
  int argc = 0, i;

  put_name ("base.raw", 8, 1);
  argv[++argc] = strdup (commands[which]);
  take_name (in, '\0', name);   /* the size */
  while (fuzz_left (in) > 0 && argc < ARGUMENTS_MAX)
    argv[++argc] = take_option (in);
  argv[++argc] = strdup (which == 0 ? new_path : disk_path);
  if (which == 0 || which == 2)
    argv[++argc] = strdup (name);
  any_allowed = true;
  run_command (++argc, argv);
  unlink (new_path);
  for (i = 0; i < argc; i++)
    free (argv[i]);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct fuzz_input in = { data, data + size };

  if (watch == -1) {
    one_thread_reset (0);
    make_files ();
  }
  one_thread_reset (size);
  switch (fuzz_take (&in, 1) % 4) {
  case 0:  try_open (&in); break;
  case 1:  try_create (&in); break;
  case 2:  try_rebase (&in); break;
  default: try_command (&in); break;
  }
  was_opened ();
  return 0;
}
