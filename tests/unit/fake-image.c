/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "fake-image.h"

#define ROOM (UINT64_C (64) << 20)

struct fake_storage *fake;
struct qed_image *image;

void
format_image (uint64_t features, uint64_t autoclear)
{
  const struct format_header header = {
    .cluster_size = CLUSTER, .table_size = 1, .header_size = 1,
    .features = features, .autoclear_features = autoclear,
    .l1_table_offset = AT_L1, .image_size = IMAGE_SIZE,
    .backing_filename_offset = 64,
    .backing_filename_size = features & QED_F_BACKING_FILE ? 4 : 0,
  };

  fake_format (fake, &header);
}

int
fake_image_setup (void **state)
{
  (void) state;
  fake = fake_new (0, ROOM);
  format_image (0, 0);
  return 0;
}

int
fake_image_teardown (void **state)
{
  (void) state;
  fake_free (fake);
  return 0;
}

enum qed_check_mode fake_check;
unsigned fake_clean_after;

int
open_image (void)
{
  struct qed_options options;

  qed_options_init (&options);
  options.path = "fake";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  options.clean_after = fake_clean_after;
  options.check = fake_check;
  options.log.fn = log_quietly;
  fake->closed = false;
  return image_open_storage (&options, &fake->storage, &image);
}

void
wait_scanned (void)
{
  while (atomic_load (&image->scan_state) != SCAN_DONE)
    sched_yield ();
}

void
start_image (void)
{
  assert_int_equal (open_image (), 0);
  assert_int_equal (qed_start (image), 0);
  wait_scanned ();
  fake_forget (fake);
}

int
close_image (void)
{
  int r = qed_close (image);

  image = NULL;
  assert_true (fake->closed);
  return r;
}

int
write_byte (uint64_t offset, unsigned char byte, unsigned flags)
{
  unsigned char buf[512];

  memset (buf, byte, sizeof buf);
  return sync_request (image, QED_OP_WRITE, buf, sizeof buf, offset, flags);
}

int
flush_image (void)
{
  return sync_request (image, QED_OP_FLUSH, NULL, 0, 0, 0);
}

int
read_result (uint64_t offset)
{
  unsigned char buf[512];

  return sync_request (image, QED_OP_READ, buf, sizeof buf, offset, 0);
}

void
expect_byte (uint64_t offset, unsigned char byte)
{
  unsigned char buf[512], expected[512];

  memset (expected, byte, sizeof expected);
  assert_int_equal (sync_request (image, QED_OP_READ, buf, sizeof buf, offset,
                                  0), 0);
  assert_memory_equal (buf, expected, sizeof buf);
}

/* The content must live as long as the request. */
struct pending *
start_write (uint64_t offset, unsigned char byte)
{
  static unsigned char content[256][512];

  memset (content[byte], byte, sizeof content[byte]);
  return pending_start (image, QED_OP_WRITE, content[byte],
                        sizeof content[byte], offset, 0);
}

struct pending *
start_flush (void)
{
  return pending_start (image, QED_OP_FLUSH, NULL, 0, 0, 0);
}

bool
need_check (void)
{
  return (fake_peek64 (fake, FORMAT_AT_FEATURES) & QED_F_NEED_CHECK) != 0;
}

/* RESIZE of growth: how far is the engine's business (offset UINT64_MAX). */
static bool
same_call (const struct fake_call *call, const struct fake_call *expected)
{
  if (call->op != expected->op)
    return false;
  if (call->op == FAKE_RESIZE)
    return expected->offset == UINT64_MAX || call->offset == expected->offset;
  return call->op == FAKE_SYNC ||
    (call->offset == expected->offset && call->count == expected->count);
}

void
expect_calls (const struct fake_call *expected, size_t n)
{
  const struct fake_call *call;
  size_t i, at = 0;

  pthread_mutex_lock (&fake->lock);
  for (i = 0; i < fake->call_count; i++) {
    call = &fake->calls[i];
    if (call->op == FAKE_READ)
      continue;
    if (at == n || !same_call (call, &expected[at]))
      fail_msg ("call %zu is %d, offset 0x%" PRIx64 ", %" PRIu64 " bytes", at,
                (int) call->op, call->offset, call->count);
    at++;
  }
  fake->call_count = 0;
  pthread_mutex_unlock (&fake->lock);
  assert_int_equal (at, n);
}
