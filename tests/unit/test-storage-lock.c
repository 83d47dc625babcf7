/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The locks of a local file: taken, given up in part, refused, on file systems
 * that have none; and what is said of who holds one.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/stat.h>

#include "file-calls.h"

/* Seen from this process, too: locks are of open files. */
static void
test_in_use (void **state)
{
  struct storage *s = open_file (), *t;

  (void) state;
  assert_int_equal (storage_file_test_lock (&options), -EAGAIN);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  assert_non_null (strstr (said, "or open it read-only"));
  options.need_write = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_null (strstr (said, "read-only"));
  options.need_write = false;
  options.read_only = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_null (strstr (said, "or open it"));
  forget_message ();
  options.quiet_lock = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_string_equal (said, "");

  /* A reader leaves room for readers. */
  assert_int_equal (s->ops->downgrade (s), 0);
  assert_true (s->read_only);
  t = open_file ();
  assert_int_equal (storage_file_test_lock (&options), -EAGAIN);
  t->ops->close (t);
  s->ops->close (s);
  assert_int_equal (storage_file_test_lock (&options), 0);
}

static void
test_not_locked (void **state)
{
  struct storage *s, *t;

  (void) state;
  options.lock = false;
  s = open_file ();
  t = open_file ();
  assert_int_equal (s->ops->downgrade (s), 0);
  s->ops->close (s);
  t->ops->close (t);
}

/* File systems without locks, calls that are interrupted, errors at each of
 * the calls that it takes.
 */
static void
test_lock_errors (void **state)
{
  static const char *const calls[] = { "setlk", "getlk" };
  struct storage *s;
  unsigned i, n;
  int r;

  (void) state;
  for (i = 0; i < 2; i++) {
    fail_next (calls[i], EINTR, 0, 2);
    s = open_file ();
    assert_int_equal (plan.times, 0);
    s->ops->close (s);
    for (n = 0; n < 100; n++) {
      fail_next (calls[i], ENOLCK, n, 1);
      r = storage_file_open (&options, &s);
      if (plan.times > 0)
        break;
      assert_int_equal (r, -ENOLCK);
      assert_non_null (strstr (said, "lock=off"));
    }
    assert_in_range (n, 5, 50); /* then there were not so many */
    assert_int_equal (r, 0);
    s->ops->close (s);
  }
  fail_next ("getlk", ENOLCK, 0, 1);
  assert_int_equal (storage_file_test_lock (&options), -ENOLCK);
}

/* Said to be held, and given up meanwhile: it is tried again, also where
 * there is no source of randomness.
 */
static void
test_lock_again (void **state)
{
  struct storage *s, *t;

  (void) state;
  fail_next ("setlk", EACCES, 0, 1);
  s = open_file ();
  s->ops->close (s);
  fail_next ("setlk", EAGAIN, 0, 5);
  s = open_file ();
  s->ops->close (s);
  s = open_file ();
  fail_next ("getrandom", ENOSYS, 0, 1000);
  options.quiet_lock = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_true (plan.times < 1000);
  s->ops->close (s);
}

/* A lock on more than a byte, up to no end, also tells its holder. */
static void
test_lock_whole_file (void **state)
{
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  struct storage *s;
  int fd = open (path, O_RDWR);

  (void) state;
  assert_int_equal (fcntl (fd, F_OFD_SETLK, &lock), 0);
  assert_int_equal (storage_file_open (&options, &s), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  close (fd);
}

/* What can't be seen of a holder is left out of the message. */
static void
test_holder_unknown (void **state)
{
  static const char *const calls[] = {
    "opendir", "fdopendir", "openat", "fdopen", "fgets",
  };
  struct storage *s = open_file (), *t;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    fail_next (calls[i], EACCES, 0, UINT_MAX);
    assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
    if (strstr (said, "is in use: stop that program") == NULL)
      fail_msg ("without %s it said: %s", calls[i], said);
  }
  fail_next ("fstat", EIO, 5, 1);       /* of the file, when that is sought */
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  s->ops->close (s);
}

/* Its name is one line, or none. */
static void
test_holder_name (void **state)
{
  struct storage *s = open_file (), *t;
  char name[16];

  (void) state;
  assert_int_equal (prctl (PR_GET_NAME, name), 0);
  assert_int_equal (prctl (PR_SET_NAME, "odd\tname"), 0);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by odd?name, process "));
  assert_int_equal (prctl (PR_SET_NAME, ""), 0);
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by process "));
  assert_int_equal (prctl (PR_SET_NAME, name), 0);
  s->ops->close (s);
}

static void
test_holder_elsewhere (void **state)
{
  struct storage *s = open_file (), *t;

  (void) state;
  are_elsewhere = true;
  assert_int_equal (storage_file_open (&options, &t), -EAGAIN);
  assert_non_null (strstr (said, "is in use by test-storage"));
  s->ops->close (s);
}

/* A standby does not fall back to reading, and leaves a busy device to
 * others.
 */
static void
test_fall_back (void **state)
{
  struct storage *s;

  (void) state;
  options.take_over = true;
  s = open_file ();
  s->ops->close (s);
  if (getuid () != 0) {
    assert_int_equal (chmod (path, 0400), 0);
    s = open_file ();
    assert_true (s->read_only);
    assert_non_null (strstr (said, "served read-only"));
    s->ops->close (s);
    options.quiet_lock = true;
    assert_int_equal (storage_file_open (&options, &s), -EACCES);
    assert_int_equal (chmod (path, 0600), 0);
  }
}
int
main (void)
{
  const struct CMUnitTest tests[] = {
    FILE_TEST (test_in_use),
    FILE_TEST (test_not_locked),
    FILE_TEST (test_lock_errors),
    FILE_TEST (test_lock_again),
    FILE_TEST (test_lock_whole_file),
    FILE_TEST (test_holder_unknown),
    FILE_TEST (test_holder_name),
    FILE_TEST (test_holder_elsewhere),
    FILE_TEST (test_fall_back),
  };

  return cmocka_run_group_tests (tests, file_setup_all, file_teardown_all);
}
