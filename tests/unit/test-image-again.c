/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Steps that can't be taken just then, and are taken again: the page of a
 * table is gone from the cache when it is asked for, or the pending log has no
 * room.  Each such place in turn, in the life of an image without and with a
 * backing file: requests come to their end, the guest's disk holds what it
 * should, and the image is consistent.
 *
 * Tables are of two pages here, and requests go over the border between them.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "metadata.h"
#include "pending.h"
#include "qed.h"
#include "sync-request.h"

#define CLUSTER 4096u
#define PAGE_SPAN (512 * CLUSTER)
#define SIZE (4 * PAGE_SPAN)
#define BACKING_SIZE (3 * PAGE_SPAN - 2 * CLUSTER)
#define BACKING_BYTE 0xba

static char directory[] = "/tmp/test-image-again.XXXXXX";
static char path[64], backing[64];
static unsigned char disk[SIZE], buf[SIZE];     /* the guest's, as it is */

/* ---- What has to be done again ---- */

enum place { LOCK_PAGE, PUBLISH };

static enum place place;
static unsigned skip;           /* so many go well */
static bool armed, hit;

static bool
is_due (enum place here)
{
  if (!armed || place != here || skip-- > 0)
    return false;
  armed = false;
  hit = true;
  return true;
}

struct page *__real_metadata_lock_page (struct metadata *md, uint64_t key);
struct page *__wrap_metadata_lock_page (struct metadata *md, uint64_t key);

struct page *
__wrap_metadata_lock_page (struct metadata *md, uint64_t key)
{
  return is_due (LOCK_PAGE) ? NULL : __real_metadata_lock_page (md, key);
}

int __real_pending_publish (struct qed_image *image, struct page *page,
                            unsigned index, uint64_t value, uint64_t step,
                            unsigned n, uint64_t marks);
int __wrap_pending_publish (struct qed_image *image, struct page *page,
                            unsigned index, uint64_t value, uint64_t step,
                            unsigned n, uint64_t marks);

int
__wrap_pending_publish (struct qed_image *image, struct page *page,
                        unsigned index, uint64_t value, uint64_t step,
                        unsigned n, uint64_t marks)
{
  return is_due (PUBLISH) ? -ENOBUFS
    : __real_pending_publish (image, page, index, value, step, n, marks);
}

/* ---- The image ---- */

static void
make_backing (void)
{
  int fd = open (backing, O_WRONLY | O_CREAT | O_TRUNC, 0600);

  memset (buf, BACKING_BYTE, BACKING_SIZE);
  assert_true (fd >= 0);
  assert_int_equal (write (fd, buf, BACKING_SIZE), BACKING_SIZE);
  close (fd);
}

static void
make_image (bool over)
{
  struct qed_create_options options;

  qed_create_options_init (&options);
  options.path = path;
  options.size = SIZE;
  options.cluster_size = CLUSTER;
  options.table_size = 2;
  options.force = true;
  if (over) {
    options.backing = backing;
    options.backing_raw = true;
  }
  assert_int_equal (qed_create (&options), 0);
  memset (disk, 0, SIZE);
  memset (disk, BACKING_BYTE, over ? BACKING_SIZE : 0);
}

static struct qed_image *
start (void)
{
  struct qed_options options;
  struct qed_image *image;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  options.clean_after = 0;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
  assert_int_equal (qed_wait_scanned (image), 0);
  return image;
}

static void
expect_disk (struct qed_image *image)
{
  assert_int_equal (sync_request (image, QED_OP_READ, buf, SIZE, 0, 0), 0);
  assert_memory_equal (buf, disk, SIZE);
}

static void
expect_consistent (void)
{
  struct qed_check_options check;
  struct qed_check_result result;
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.log.fn = log_quietly;
  qed_check_options_init (&check);
  assert_int_equal (qed_check (&options, &check, &result), 0);
  assert_true (result.corruptions == 0 && result.leaks == 0 &&
               result.errors == 0);
}

/* ---- A life ---- */

static const struct op {
  enum qed_op op;
  uint64_t at, count;
  unsigned char byte;
  unsigned flags;
} ops[] = {
  { QED_OP_WRITE, 512, 512, 1, 0 },
  { QED_OP_WRITE, PAGE_SPAN - 8 * CLUSTER, 16 * CLUSTER, 2, 0 },
  { QED_OP_WRITE, 3 * PAGE_SPAN - CLUSTER, 8 * CLUSTER, 3, QED_FUA },
  { QED_OP_ZERO, PAGE_SPAN - 16 * CLUSTER, 32 * CLUSTER, 0, 0 },
  { QED_OP_FLUSH, 0, 0, 0, 0 },
  { QED_OP_WRITE, PAGE_SPAN - CLUSTER, 2 * CLUSTER, 4, 0 },
  { QED_OP_CLEAN, 0, 0, 0, 0 },                 /* what was freed is */
  { QED_OP_WRITE, 128 * CLUSTER + 512, 5 * CLUSTER, 5, 0 },
  { QED_OP_ZERO, 3 * PAGE_SPAN - CLUSTER, CLUSTER, 0, QED_FUA },
  { QED_OP_WRITE, 3 * PAGE_SPAN, 512, 6, QED_FUA },
};

static void
do_op (struct qed_image *image, const struct op *op)
{
  memset (buf, op->byte, op->count);
  assert_int_equal (sync_request (image, op->op, buf, op->count, op->at,
                                  op->flags), 0);
  memset (disk + op->at, op->byte, op->count);
}

/* Returns whether there was such a place. */
static bool
live (bool over, enum place where, unsigned nth)
{
  struct qed_image *image;
  size_t i;

  make_image (over);
  image = start ();
  place = where;
  skip = nth;
  hit = false;
  armed = true;
  for (i = 0; i < sizeof ops / sizeof ops[0]; i++)
    do_op (image, &ops[i]);
  armed = false;
  expect_disk (image);
  assert_int_equal (qed_close (image), 0);
  expect_consistent ();
  image = start ();
  expect_disk (image);
  assert_int_equal (qed_close (image), 0);
  return hit;
}

static void
test_places (bool over, enum place where)
{
  unsigned n = 0;

  while (live (over, where, n))
    n++;
  assert_in_range (n, 10, 200);
}

static void
test_page_gone (void **state)
{
  (void) state;
  test_places (false, LOCK_PAGE);
}

static void
test_page_gone_over (void **state)
{
  (void) state;
  test_places (true, LOCK_PAGE);
}

static void
test_log_full (void **state)
{
  (void) state;
  test_places (false, PUBLISH);
}

static void
test_log_full_over (void **state)
{
  (void) state;
  test_places (true, PUBLISH);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_page_gone),
    cmocka_unit_test (test_page_gone_over),
    cmocka_unit_test (test_log_full),
    cmocka_unit_test (test_log_full_over),
  };
  int failed;

  if (mkdtemp (directory) == NULL)
    return 1;
  snprintf (path, sizeof path, "%s/image.qed", directory);
  snprintf (backing, sizeof backing, "%s/base", directory);
  make_backing ();
  failed = cmocka_run_group_tests (tests, NULL, NULL);
  unlink (path);
  unlink (backing);
  rmdir (directory);
  return failed;
}
