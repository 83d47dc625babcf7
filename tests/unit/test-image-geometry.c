/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Images of every kind of geometry, up to the largest, on a sparse file:
 * writes at the borders of clusters, of tables and of the image.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "format.h"
#include "qed.h"
#include "sync-request.h"

#define KI UINT64_C (1024)
#define MI (KI * KI)
#define COUNT 1536u             /* bytes of a write, half on each side */

static char path[256];
static struct qed_image *image;

struct geometry {
  uint64_t cluster_size;
  uint32_t table_size;
  uint64_t size;                /* 0: the largest that is possible */
};

static const struct geometry geometries[] = {
  { 4 * KI, 1, 0 },
  { 4 * KI, 16, 1024 * MI },
  { 8 * KI, 2, 0 },
  { 64 * KI, 4, UINT64_C (10) << 40 },
  { 64 * KI, 4, 0 },
  { 64 * KI, 16, 0 },
  { 1 * MI, 1, 0 },
  { 2 * MI, 16, UINT64_C (1) << 50 },
  { 64 * MI, 1, 0 },
  { 64 * MI, 16, 0 },
};

static void
open_image (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = path;
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.log.fn = log_quietly;
  assert_int_equal (qed_open (&options, &image), 0);
  assert_int_equal (qed_start (image), 0);
}

/* The middles of the writes. */
#define PLACES 6u

static void
places_of (const struct geometry *g, uint64_t places[PLACES])
{
  uint64_t size = qed_size (image);
  uint64_t span = g->table_size * g->cluster_size / 8 * g->cluster_size;

  places[0] = COUNT / 2;
  places[1] = g->cluster_size;
  places[2] = span < size ? span : 2 * g->cluster_size;
  places[3] = size / 2;
  places[4] = size / 3 / 4096 * 4096 + 100;
  places[5] = size - COUNT / 2;
}

/* Write to all places, or read what was written. */
static void
carry_out (enum qed_op op, const uint64_t places[PLACES])
{
  unsigned char buf[COUNT], expected[COUNT];
  unsigned i;

  for (i = 0; i < PLACES; i++) {
    memset (expected, (int) i + 1, sizeof expected);
    memset (buf, op == QED_OP_WRITE ? (int) i + 1 : 0xee, sizeof buf);
    assert_int_equal (sync_request (image, op, buf, sizeof buf,
                                    places[i] - COUNT / 2, 0), 0);
    assert_memory_equal (buf, expected, sizeof buf);
  }
}

/* Before and behind each write nothing is to be seen. */
static void
check_around (const uint64_t places[PLACES])
{
  static const unsigned char zeros[512];
  unsigned char buf[512];
  unsigned i;

  for (i = 0; i < PLACES; i++) {
    if (i > 0) {
      assert_int_equal (sync_request (image, QED_OP_READ, buf, sizeof buf,
                                      places[i] - COUNT / 2 - 512, 0), 0);
      assert_memory_equal (buf, zeros, sizeof buf);
    }
    if (i < PLACES - 1) {
      assert_int_equal (sync_request (image, QED_OP_READ, buf, sizeof buf,
                                      places[i] + COUNT / 2, 0), 0);
      assert_memory_equal (buf, zeros, sizeof buf);
    }
  }
}

/* Whether the file system takes a file as long as the image may make it. */
static bool
file_can_be_long (const struct geometry *g)
{
  uint64_t clusters = 1 + (1 + PLACES * 2) * g->table_size + PLACES * 2;
  int fd = open (path, O_RDWR);
  struct stat st;
  bool can;

  assert_true (fd >= 0);
  assert_int_equal (fstat (fd, &st), 0);
  can = ftruncate (fd, (off_t) (clusters * g->cluster_size)) == 0;
  assert_int_equal (ftruncate (fd, st.st_size), 0);
  close (fd);
  return can;
}

static void
test_one (const struct geometry *g)
{
  struct qed_create_options options;
  uint64_t places[PLACES];
  struct qed_info info;

  qed_create_options_init (&options);
  options.path = path;
  options.cluster_size = (uint32_t) g->cluster_size;
  options.table_size = g->table_size;
  options.size = g->size ? g->size
    : format_max_image_size (options.cluster_size, g->table_size);
  options.log.fn = log_quietly;
  assert_int_equal (qed_create (&options), 0);
  if (!file_can_be_long (g)) {
    unlink (path);
    return;
  }
  open_image ();
  assert_true (qed_size (image) == options.size);
  places_of (g, places);
  carry_out (QED_OP_WRITE, places);
  carry_out (QED_OP_READ, places);
  assert_int_equal (qed_close (image), 0);
  assert_int_equal (qed_info_read (path, &options.log, &info), 0);
  assert_true (info.features == 0);
  assert_true (info.file_size % g->cluster_size == 0);
  qed_info_free (&info);
  open_image ();
  assert_true (qed_writable (image));
  carry_out (QED_OP_READ, places);
  check_around (places);
  assert_int_equal (qed_close (image), 0);
  unlink (path);
}

static void
test_geometries (void **state)
{
  const char *dir = getenv ("TMPDIR");
  size_t i;

  (void) state;
  snprintf (path, sizeof path, "%s/test-geometry-%d.qed", dir ? dir : "/tmp",
            (int) getpid ());
  for (i = 0; i < sizeof geometries / sizeof geometries[0]; i++)
    test_one (&geometries[i]);
}

static int
remove_image (void **state)
{
  (void) state;
  unlink (path);
  return 0;
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_teardown (test_geometries, remove_image),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
