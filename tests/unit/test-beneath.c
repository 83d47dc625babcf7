/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image that may be opened only beneath a directory: no link leads out, not
 * even one that took a file's place after it was looked up.
 */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

#include <cmocka.h>

#include "qed.h"

static char top[PATH_MAX];      /* without symlinks */
static char directory[PATH_MAX + 8];
static char log_line[512];

static char *
path_of (const char *name)
{
  static char path[2 * PATH_MAX];

  snprintf (path, sizeof path, "%s/%s", top, name);
  return path;
}

static void
keep_line (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  (void) level;
  snprintf (log_line, sizeof log_line, "%s", message);
}

static void
create (const char *name)
{
  struct qed_create_options options;

  qed_create_options_init (&options);
  options.path = path_of (name);
  options.size = 1 << 20;
  assert_int_equal (qed_create (&options), 0);
}

static int
set_up (void **state)
{
  const char *tmp = getenv ("TMPDIR");
  char name[PATH_MAX - 16];

  (void) state;
  snprintf (name, sizeof name, "%s/test-beneath.XXXXXX", tmp ? tmp : "/tmp");
  if (mkdtemp (name) == NULL || realpath (name, top) == NULL)
    return -1;
  snprintf (directory, sizeof directory, "%s/dir", top);
  if (mkdir (directory, 0700) == -1 || mkdir (path_of ("dir/sub"), 0700) == -1)
    return -1;
  create ("dir/in.qed");
  create ("dir/sub/deep.qed");
  create ("out.qed");
  return symlink ("sub/deep.qed", path_of ("dir/to-deep.qed"));
}

static int
tear_down (void **state)
{
  static const char *const names[] = {
    "dir/in.qed", "dir/sub/deep.qed", "out.qed", "dir/to-deep.qed", "dir/link",
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof names / sizeof names[0]; ++i)
    unlink (path_of (names[i]));
  rmdir (path_of ("dir/sub"));
  rmdir (directory);
  return rmdir (top);
}

/* Open and close; returns what qed_open does. */
static int
open_beneath (const char *name, struct qed_file_id *id)
{
  struct qed_options options;
  struct qed_image *image;
  int r;

  qed_options_init (&options);
  options.path = path_of (name);
  options.beneath = directory;
  options.log.fn = keep_line;
  log_line[0] = '\0';
  r = qed_open (&options, &image);
  if (r == 0) {
    *id = qed_identify (image);
    assert_int_equal (qed_close (image), 0);
  }
  return r;
}

/* What is inside is found and opened, and is the file that stat finds. */
static void
assert_inside (const char *name)
{
  struct qed_file_id found, opened;
  struct stat st;

  assert_int_equal (stat (path_of (name), &st), 0);
  assert_int_equal (qed_file_identify (path_of (name), directory, &found), 0);
  assert_int_equal (found.device, st.st_dev);
  assert_int_equal (found.inode, st.st_ino);
  assert_int_equal (open_beneath (name, &opened), 0);
  assert_int_equal (opened.device, st.st_dev);
  assert_int_equal (opened.inode, st.st_ino);
}

static void
assert_refused (const char *name, int error)
{
  struct qed_file_id id;

  assert_int_equal (qed_file_identify (path_of (name), directory, &id), error);
  assert_int_equal (open_beneath (name, &id), error);
  assert_non_null (strstr (log_line, path_of (name)));
}

static void
test_inside (void **state)
{
  (void) state;
  assert_inside ("dir/in.qed");
  assert_inside ("dir/sub/deep.qed");
  assert_inside ("dir/to-deep.qed");
}

static void
test_paths_outside (void **state)
{
  (void) state;
  assert_refused ("out.qed", -EXDEV);
  assert_refused ("dir/../out.qed", -EXDEV);
  assert_refused ("dir/sub/../../out.qed", -EXDEV);
  assert_refused ("dir2/in.qed", -EXDEV);
  assert_refused ("dir/nothing.qed", -ENOENT);
  assert_refused ("dir/in.qed/x", -ENOTDIR);
}

static void
test_links_outside (void **state)
{
  char absolute_in[2 * PATH_MAX], absolute_out[2 * PATH_MAX];
  const char *targets[] = {
    "../out.qed", "sub/../../out.qed", absolute_out, absolute_in, "/",
  };
  size_t i;

  (void) state;
  strcpy (absolute_in, path_of ("dir/in.qed"));
  strcpy (absolute_out, path_of ("out.qed"));
  for (i = 0; i < sizeof targets / sizeof targets[0]; ++i) {
    assert_int_equal (symlink (targets[i], path_of ("dir/link")), 0);
    assert_refused ("dir/link", -EXDEV);
    assert_non_null (strstr (log_line, "leads out of the directory"));
    assert_int_equal (unlink (path_of ("dir/link")), 0);
  }
}

/* A directory of the path is a link. */
static void
test_directory_link (void **state)
{
  (void) state;
  assert_int_equal (symlink ("..", path_of ("dir/link")), 0);
  assert_refused ("dir/link/out.qed", -EXDEV);
  assert_int_equal (unlink (path_of ("dir/link")), 0);
  assert_int_equal (symlink ("sub", path_of ("dir/link")), 0);
  assert_inside ("dir/link/deep.qed");
  assert_int_equal (unlink (path_of ("dir/link")), 0);
}

/* Without a directory all is allowed, but not every type of file. */
static void
test_no_directory (void **state)
{
  struct qed_file_id id;

  (void) state;
  assert_int_equal (qed_file_identify (path_of ("out.qed"), NULL, &id), 0);
  assert_int_equal (qed_file_identify (path_of ("dir/sub"), NULL, &id),
                    -EINVAL);
  assert_int_equal (qed_file_identify ("/dev/null", NULL, &id), -EINVAL);
  assert_int_equal (qed_file_identify (path_of ("dir/sub"), directory, &id),
                    -EINVAL);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_inside),
    cmocka_unit_test (test_paths_outside),
    cmocka_unit_test (test_links_outside),
    cmocka_unit_test (test_directory_link),
    cmocka_unit_test (test_no_directory),
  };

  return cmocka_run_group_tests (tests, set_up, tear_down);
}
