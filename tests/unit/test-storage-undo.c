/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage that saves what is overwritten: that it saves enough, and that
 * nothing is changed which could not be saved.  The linker leads the calls
 * that make the undo file here (--wrap).
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/uio.h>

#include <cmocka.h>

#include "fake-storage.h"
#include "format.h"
#include "kept-message.h"
#include "undo.h"

#define PAGE FAKE_PAGE
#define PAGES 1024u             /* more than a record holds */
#define LENGTH (PAGES * PAGE)

/* ---- Calls that fail ---- */

static const char *failing;
static unsigned failing_skip;

/* It fails once, with ENOSPC or for want of memory, after so many calls. */
static void
fail_after (const char *call, unsigned skip)
{
  failing = call;
  failing_skip = skip;
}

static bool
is_due (const char *call)
{
  if (failing == NULL || strcmp (call, failing) != 0 || failing_skip-- > 0)
    return false;
  failing = NULL;
  errno = ENOSPC;
  return true;
}

#define WRAP(type, failed, name, parameters, arguments) \
  type __real_##name parameters; \
  type __wrap_##name parameters; \
  type \
  __wrap_##name parameters \
  { \
    return is_due (#name) ? failed : __real_##name arguments; \
  }

WRAP (void *, NULL, malloc, (size_t n), (n))
WRAP (void *, NULL, calloc, (size_t n, size_t size), (n, size))
WRAP (int, -1, fsync, (int fd), (fd))
WRAP (int, -1, fdatasync, (int fd), (fd))
WRAP (ssize_t, -1, pwrite, (int fd, const void *buf, size_t n, off_t offset),
      (fd, buf, n, offset))

/* ---- The image ---- */

static char directory[] = "/tmp/test-storage-undo.XXXXXX";
static char path[64];
static struct fake_storage *fake;
static struct storage *s;
static unsigned char before[LENGTH], now[LENGTH], noise[2 * LENGTH];
static bool no_data_known;

static enum qed_log_level error_level = QED_LOG_ERROR;
static const struct qed_log messages = {
  .fn = keep_message, .opaque = &error_level,
};

static const struct storage_ops *plain_ops;
static struct storage_ops ops;

static int
next_data (struct storage *storage, uint64_t offset, uint64_t *start,
           uint64_t *end)
{
  return no_data_known ? -EIO
    : plain_ops->next_data (storage, offset, start, end);
}

/* Every second page is data, but for the first ones. */
static int
set_up (void **state)
{
  const struct format_header header = {
    .cluster_size = PAGE, .table_size = 1, .header_size = 1,
    .l1_table_offset = PAGE, .image_size = 1 << 20,
  };
  uint64_t i;

  (void) state;
  fake = fake_new (LENGTH, 2 * LENGTH);
  fake->sparse = true;
  plain_ops = fake->storage.ops;
  ops = *plain_ops;
  ops.next_data = next_data;
  fake->storage.ops = &ops;
  no_data_known = false;
  fake_format (fake, &header);
  for (i = 2; i < PAGES; i += 2)
    fake_poke (fake, noise + i * 7, PAGE, i * PAGE);
  fake_peek (fake, before, LENGTH, 0);
  failing = NULL;
  forget_message ();
  return 0;
}

static int
tear_down (void **state)
{
  (void) state;
  fake_free (fake);
  unlink (path);
  return 0;
}

static int
try_undo (void)
{
  int r = storage_undo_open (&fake->storage, &messages, &s);

  if (r < 0)
    return r;
  fake->closed = false;
  r = storage_undo_begin (s, path);
  if (r < 0) {
    assert_false (fake->closed);
    s->ops->close (s);
    fake->closed = false;
  }
  return r;
}

static void
open_undo (void)
{
  assert_int_equal (try_undo (), 0);
  fake_forget (fake);
}

/* Put the records back, by what undo.h says of them; returns how many. */
static unsigned
put_back (void)
{
  static unsigned char file[2 * LENGTH];
  uint64_t places[4096], at = UNDO_HEADER, end, offset, count;
  unsigned n = 0, i;
  int fd = open (path, O_RDONLY);

  assert_true (fd >= 0);
  assert_true (read (fd, file, sizeof file) < (ssize_t) sizeof file);
  close (fd);
  end = format_get64 (file + UNDO_AT_END);
  for (; at < end; at += UNDO_RECORD_BYTES + format_get64 (file + at + 8))
    places[n++] = at;
  assert_true (at == end);
  for (i = n; i > 0; i--) {
    at = places[i - 1];
    offset = format_get64 (file + at);
    count = format_get64 (file + at + 8);
    assert_in_range (count, 1, UNDO_PIECE_BYTES);
    assert_true (offset + count <= LENGTH);
    memcpy (now + offset, file + at + UNDO_RECORD_BYTES, count);
  }
  return n;
}

/* After the storage is closed, all is as before, from so many records. */
static void
expect_undone (unsigned records)
{
  s->ops->close (s);
  assert_true (fake->closed);
  fake_peek (fake, now, LENGTH, 0);
  assert_int_equal (put_back (), records);
  assert_memory_equal (now, before, LENGTH);
}

/* ---- What is saved ---- */

static void
test_write (void **state)
{
  const struct iovec iov[] = { { noise, 100 }, { noise + 100, 2 * PAGE } };

  (void) state;
  open_undo ();
  assert_int_equal (s->ops->pwrite (s, noise, 3 * PAGE, 10 * PAGE + 1), 0);
  assert_int_equal (s->ops->pwritev (s, iov, 2, 11 * PAGE), 0);
  assert_int_equal (s->ops->pwrite (s, noise, PAGE, 11 * PAGE), 0);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 4);
  expect_undone (3);
}

/* What is larger than a record, or beyond the end. */
static void
test_large (void **state)
{
  (void) state;
  open_undo ();
  assert_int_equal (s->ops->pwrite (s, noise, UNDO_PIECE_BYTES + 5, PAGE + 3),
                    0);
  assert_int_equal (s->ops->pwrite (s, noise, 2 * PAGE, LENGTH - PAGE), 0);
  assert_int_equal (s->ops->pwrite (s, noise, PAGE, LENGTH), 0);
  assert_int_equal (fake->length, LENGTH + PAGE);
  expect_undone (3);
}

/* Of what becomes zeros, only the data: here 5 pages, the first and the last
 * in part.
 */
static void
test_zero (void **state)
{
  int (*call) (struct storage *, uint64_t, uint64_t);
  unsigned i;

  (void) state;
  for (i = 0; i < 2; i++) {
    open_undo ();
    call = i == 0 ? s->ops->zero : s->ops->punch;
    assert_int_equal (call (s, 20 * PAGE + 10, 8 * PAGE), 0);
    assert_int_equal (call (s, 31 * PAGE, PAGE), 0);        /* a hole */
    assert_int_equal (fake_calls (fake, FAKE_ZERO), 2);
    assert_int_equal (fake->data[20 * PAGE + 9], before[20 * PAGE + 9]);
    assert_int_equal (fake->data[28 * PAGE + 9], 0);
    expect_undone (5);
    tear_down (state);
    set_up (state);
  }
}

static void
test_cut (void **state)
{
  (void) state;
  open_undo ();
  assert_int_equal (s->ops->resize (s, LENGTH + PAGE), 0);
  assert_int_equal (s->ops->resize (s, LENGTH - 4 * PAGE), 0);
  assert_int_equal (fake->length, LENGTH - 4 * PAGE);
  expect_undone (2);
}

/* What changes nothing goes through. */
static void
test_others (void **state)
{
  uint64_t start, end;

  (void) state;
  open_undo ();
  assert_int_equal (s->ops->pread (s, now, LENGTH, 0), 0);
  assert_memory_equal (now, before, LENGTH);
  assert_int_equal (s->ops->length (s, &end), 0);
  assert_int_equal (end, LENGTH);
  assert_int_equal (s->ops->next_data (s, 3 * PAGE, &start, &end), 0);
  assert_int_equal (start, 4 * PAGE);
  assert_int_equal (end, 5 * PAGE);
  assert_int_equal (s->ops->sync (s), 0);
  assert_int_equal (fake_calls (fake, FAKE_SYNC), 1);
  assert_int_equal (s->ops->downgrade (s), 0);
  assert_true (s->read_only);
  expect_undone (0);
}

/* What is changed while the image is opened is not the repair's. */
static void
test_before (void **state)
{
  (void) state;
  assert_int_equal (storage_undo_open (&fake->storage, &messages, &s), 0);
  assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), 0);
  assert_int_equal (s->ops->punch (s, 6 * PAGE, PAGE), 0);
  fake_peek (fake, before, LENGTH, 0);
  assert_int_equal (storage_undo_begin (s, path), 0);
  assert_int_equal (s->ops->pwrite (s, noise + 1, PAGE, 4 * PAGE), 0);
  expect_undone (1);
}

/* Nor is there a file where none was wanted in the end. */
static void
test_not_begun (void **state)
{
  (void) state;
  assert_int_equal (storage_undo_open (&fake->storage, &messages, &s), 0);
  s->ops->close (s);
  assert_true (fake->closed);
  assert_int_equal (access (path, F_OK), -1);
}

/* ---- What can't be saved is not changed ---- */

static void
expect_unchanged (int error)
{
  const struct iovec iov = { noise, PAGE };

  assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), error);
  no_data_known = error == -EIO;
  assert_int_equal (s->ops->zero (s, 4 * PAGE, PAGE), error);
  assert_int_equal (s->ops->punch (s, 4 * PAGE, PAGE), error);
  assert_int_equal (s->ops->resize (s, LENGTH - 4 * PAGE), error);
  no_data_known = false;
  assert_int_equal (s->ops->pwritev (s, &iov, 1, 4 * PAGE), error);
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_ZERO), 0);
  assert_int_equal (fake_calls (fake, FAKE_RESIZE), 0);
}

static void
test_unreadable (void **state)
{
  (void) state;
  open_undo ();
  fake_rule_add (fake, FAKE_READ, 0, LENGTH, -EIO, FAKE_ALWAYS);
  expect_unchanged (-EIO);
  fake_drop_rules (fake);
  expect_undone (0);
}

/* A record's head, its data, and that both are durable. */
static void
test_undo_file_full (void **state)
{
  static const struct {
    const char *call;
    unsigned skip;
  } calls[] = { { "pwrite", 0 }, { "pwrite", 1 }, { "fdatasync", 0 } };
  unsigned i;

  (void) state;
  open_undo ();
  for (i = 0; i < 3; i++) {
    fail_after (calls[i].call, calls[i].skip);
    assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), -ENOSPC);
    assert_null (failing);
    fail_after (calls[i].call, calls[i].skip);
    assert_int_equal (s->ops->punch (s, 6 * PAGE, PAGE), -ENOSPC);
    assert_null (failing);
  }
  assert_int_equal (fake_calls (fake, FAKE_WRITE), 0);
  assert_int_equal (fake_calls (fake, FAKE_ZERO), 0);
  assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), 0);
  expect_undone (3);            /* two are of what did not happen */
}

/* ---- What is left ---- */

static uint64_t
sum (uint64_t offset, uint64_t count)
{
  static unsigned char buf[UNDO_PIECE_BYTES];
  uint64_t sum;

  assert_int_equal (undo_sum_range (&fake->storage, offset, count, buf, &sum),
                    0);
  return sum;
}

/* The same whether zeros are holes, from wherever on; and no other content has
 * it, be the difference in the highest bits or behind the last whole word.
 */
static void
test_sum (void **state)
{
  static const uint64_t ranges[][2] = {
    { 0, LENGTH }, { 5 * PAGE + 3, 2 * PAGE + 6 }, { 4 * PAGE, PAGE },
    { LENGTH - PAGE - 1, 3 * PAGE }, { 8 * PAGE + 1, 5 },
  };
  const unsigned char top = 0x80, none = 0;
  uint64_t holes, offset;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
    offset = ranges[i][0];
    holes = sum (offset, ranges[i][1]);
    fake->sparse = false;
    assert_true (holes == sum (offset, ranges[i][1]));
    fake->sparse = true;
  }
  holes = sum (5 * PAGE, PAGE);
  fake_poke (fake, &top, 1, 5 * PAGE + 7);
  fake_poke (fake, &top, 1, 5 * PAGE + 15);
  assert_true (holes != sum (5 * PAGE, PAGE));
  fake_poke (fake, &none, 1, 5 * PAGE + 7);
  fake_poke (fake, &none, 1, 5 * PAGE + 15);
  assert_true (holes == sum (5 * PAGE, PAGE));
  holes = sum (5 * PAGE, 13);
  fake_poke (fake, &top, 1, 5 * PAGE + 13);
  assert_true (holes == sum (5 * PAGE, 13));
  fake_poke (fake, &top, 1, 5 * PAGE + 12);
  assert_true (holes != sum (5 * PAGE, 13));
}

static uint64_t
flags (void)
{
  unsigned char buf[8];
  int fd = open (path, O_RDONLY);

  assert_int_equal (pread (fd, buf, sizeof buf, UNDO_AT_FLAGS), sizeof buf);
  close (fd);
  return format_get64 (buf);
}

/* The image, or the file, fails when it is noted: the records are good. */
static void
test_not_noted (void **state)
{
  static const struct {
    const char *call;
    unsigned skip;
  } calls[] = { { "malloc", 0 }, { "pwrite", 0 } };
  unsigned i;

  (void) state;
  for (i = 0; i < 4; i++) {
    open_undo ();
    assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), 0);
    forget_message ();
    error_level = QED_LOG_WARNING;
    if (i < 2)
      fail_after (calls[i].call, calls[i].skip);
    else
      fake_rule_add (fake, FAKE_READ, i == 2 ? 4 * PAGE : 0,
                     i == 2 ? 5 * PAGE : PAGE, -EIO, 1);
    expect_undone (1);
    error_level = QED_LOG_ERROR;
    assert_null (failing);
    assert_non_null (strstr (said, "cannot note what the repair has left"));
    assert_int_equal (flags (), 0);
    tear_down (state);
    set_up (state);
  }
  open_undo ();
  expect_undone (0);
  assert_int_equal (flags (), UNDO_F_LEFT);
}

/* ---- Making it ---- */

/* The image stays open, and no file is left. */
static void
expect_not_made (int error, const char *about)
{
  forget_message ();
  assert_int_equal (try_undo (), error);
  assert_null (failing);
  assert_non_null (strstr (said, about));
  assert_int_equal (access (path, F_OK), -1);
}

static void
test_not_made (void **state)
{
  unsigned i;

  (void) state;
  fail_after ("calloc", 0);
  expect_not_made (-ENOMEM, "no memory");
  fail_after ("malloc", 0);
  expect_not_made (-ENOMEM, "no memory");
  fail_after ("malloc", 1);     /* the buffer of the sum */
  expect_not_made (-ENOMEM, path);
  for (i = 0; i < 2; i++) {     /* the file, and its name */
    fail_after ("fsync", i);
    expect_not_made (-ENOSPC, path);
  }
  fail_after ("pwrite", 0);
  expect_not_made (-ENOSPC, path);
  for (i = 0; i < 3; i++) {     /* who it is, where L1 lies, and L1 */
    fake_poke64 (fake, PAGE, 2 * PAGE);
    fake_rule_add_full (fake, (struct fake_rule) {
        .op = FAKE_READ, .to = 2 * PAGE, .error = -EIO, .times = 1,
        .skip = i });
    expect_not_made (-EIO, path);
  }
  no_data_known = true;
  expect_not_made (-EIO, path);
  no_data_known = false;
  fake_poke64 (fake, 0, 0);     /* no image any more */
  expect_not_made (-EINVAL, path);
}

/* It may be needed still. */
static void
test_exists (void **state)
{
  (void) state;
  open_undo ();
  assert_int_equal (s->ops->pwrite (s, noise, PAGE, 4 * PAGE), 0);
  expect_undone (1);
  assert_int_equal (try_undo (), -EEXIST);
  assert_non_null (strstr (said, "give another name"));
  assert_int_equal (put_back (), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, set_up, tear_down)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_write),
    TEST (test_large),
    TEST (test_zero),
    TEST (test_cut),
    TEST (test_others),
    TEST (test_before),
    TEST (test_not_begun),
    TEST (test_unreadable),
    TEST (test_undo_file_full),
    TEST (test_sum),
    TEST (test_not_noted),
    TEST (test_not_made),
    TEST (test_exists),
  };
  unsigned i;
  int r;

  for (i = 0; i < sizeof noise; i++)
    noise[i] = (unsigned char) (i * 7 + i / 251 + 1);
  if (mkdtemp (directory) == NULL)
    return 1;
  snprintf (path, sizeof path, "%s/undo", directory);
  r = cmocka_run_group_tests (tests, NULL, NULL);
  rmdir (directory);
  return r;
}
