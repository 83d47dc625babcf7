/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The place of an image in a server while the image comes and goes: its
 * states, who gets at the image in each, and what is done to the storage.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fake-image.h"
#include "handover.h"

/* How the fake storage's lock is, to be seen and to be taken. */
static _Atomic int seen, had;
static _Atomic unsigned looks, opens, drains, takings;

static int
fake_test_lock (const struct qed_options *options)
{
  (void) options;
  looks++;
  return seen;
}

static int
fake_open (const struct qed_options *options, struct qed_image **opened)
{
  opens++;
  if (had < 0)
    return had;
  assert_true (fake->closed);
  fake->closed = false;
  return image_open_storage (options, &fake->storage, opened);
}

static void
fake_draining (void *opaque, struct qed_image *opened)
{
  (void) opaque;
  assert_non_null (opened);
  drains++;
}

static void
fake_taken (void *opaque, struct qed_image *opened)
{
  (void) opaque;
  assert_non_null (opened);
  takings++;
}

static struct qed_slot *slot;

static void
make_slot (bool standby)
{
  struct qed_slot_options options;

  qed_slot_options_init (&options);
  options.image.path = "fake";
  options.image.metadata_cache = QED_METADATA_CACHE_MIN;
  options.image.clean_after = 0;
  options.image.log.fn = log_quietly;
  options.standby = standby;
  options.open = fake_open;
  options.test_lock = fake_test_lock;
  options.draining = fake_draining;
  options.taken = fake_taken;
  looks = opens = drains = takings = 0;
  fake->closed = true;
  assert_int_equal (qed_slot_new (&options, &slot), 0);
}

static void
start_active (void)
{
  had = 0;
  make_slot (false);
  assert_null (qed_slot_enter (slot));
  assert_int_equal (qed_slot_start (slot), 0);
  assert_int_equal (qed_slot_state (slot), QED_SLOT_ACTIVE);
}

static void
start_standby (int lock)
{
  seen = had = lock;
  make_slot (true);
  fake_forget (fake);
  assert_int_equal (qed_slot_start (slot), 0);
}

static void
wait_state (enum qed_slot_state state)
{
  while (qed_slot_state (slot) != state)
    sched_yield ();
}

static void
wait_looks (unsigned n)
{
  for (n += looks; looks < n;)
    sched_yield ();
}

static int
write_in_slot (unsigned char byte)
{
  unsigned char buf[512];
  int r;

  memset (buf, byte, sizeof buf);
  image = qed_slot_enter (slot);
  assert_non_null (image);
  r = sync_request (image, QED_OP_WRITE, buf, sizeof buf, 0, 0);
  qed_slot_leave (slot);
  return r;
}

static void
expect_in_slot (unsigned char byte)
{
  image = qed_slot_enter (slot);
  assert_non_null (image);
  expect_byte (0, byte);
  qed_slot_leave (slot);
}

/* There is nothing to be had, and nothing is touched. */
static void
expect_absent (enum qed_slot_state state)
{
  assert_int_equal (qed_slot_state (slot), state);
  assert_null (qed_slot_enter (slot));
  assert_false (qed_slot_wait (slot, 1));
  assert_true (fake->closed);
}

/* What was written is durable before the storage is closed, and the image is
 * marked clean; what another wrote meanwhile is read when it comes back.
 */
static void
test_release_activate (void **state)
{
  uint64_t generation;

  (void) state;
  start_active ();
  generation = qed_slot_generation (slot);
  assert_int_equal (write_in_slot (7), 0);
  assert_true (need_check ());
  assert_int_equal (qed_slot_release (slot), 0);
  expect_absent (QED_SLOT_RELEASED);
  assert_false (need_check ());
  assert_int_equal (fake->calls[fake->call_count - 1].op, FAKE_SYNC);
  assert_int_equal (qed_slot_release (slot), -EALREADY);

  had = -EAGAIN;
  assert_int_equal (qed_slot_activate (slot), -EAGAIN);
  expect_absent (QED_SLOT_RELEASED);
  had = -EINVAL;
  assert_int_equal (qed_slot_activate (slot), -EINVAL);
  expect_absent (QED_SLOT_RELEASED);

  had = 0;
  assert_int_equal (qed_slot_activate (slot), 0);
  assert_int_equal (qed_slot_activate (slot), -EALREADY);
  expect_in_slot (7);
  assert_int_equal (qed_slot_generation (slot), generation + 1);
  assert_int_equal (qed_slot_same_since (slot), generation);
  assert_int_equal (takings, 2);
  assert_int_equal (qed_slot_close (slot), 0);
  assert_true (fake->closed);
}

/* Its tables and its header may be others when it comes back. */
static void
test_changed_meanwhile (void **state)
{
  (void) state;
  start_active ();
  assert_int_equal (write_in_slot (7), 0);
  assert_int_equal (qed_slot_release (slot), 0);
  fake_poke64 (fake, AT_L1, 0);
  fake_poke64 (fake, FORMAT_AT_IMAGE_SIZE, IMAGE_SIZE / 2);
  assert_int_equal (qed_slot_activate (slot), 0);
  assert_int_equal (qed_slot_same_since (slot), qed_slot_generation (slot));
  expect_in_slot (0);
  assert_int_equal (qed_size (qed_slot_image (slot)), IMAGE_SIZE / 2);
  assert_int_equal (qed_slot_close (slot), 0);
}

/* Until it has the lock it doesn't read; then it reads, repairs, serves. */
static void
test_standby (void **state)
{
  (void) state;
  format_image (QED_F_NEED_CHECK, 0);
  start_standby (-EAGAIN);
  wait_looks (3);
  expect_absent (QED_SLOT_STANDBY);
  assert_int_equal (fake_calls (fake, FAKE_ANY), 0);
  assert_int_equal (opens, 0);

  seen = 0;                     /* it is free, but another is faster */
  while (opens < 2)
    sched_yield ();
  assert_int_equal (fake_calls (fake, FAKE_ANY), 0);

  had = 0;
  wait_state (QED_SLOT_ACTIVE);
  image = qed_slot_enter (slot);
  assert_non_null (image);
  assert_int_equal (sync_request (image, QED_OP_READY, NULL, 0, 0, 0), 0);
  qed_slot_leave (slot);
  assert_int_equal (write_in_slot (9), 0);
  assert_int_equal (qed_slot_close (slot), 0);
  assert_false (need_check ());
}

static void
test_standby_released (void **state)
{
  (void) state;
  start_standby (-EAGAIN);
  assert_int_equal (qed_slot_release (slot), 0);
  seen = had = 0;
  expect_absent (QED_SLOT_RELEASED);
  assert_int_equal (opens, 0);
  assert_int_equal (qed_slot_activate (slot), 0);
  assert_int_equal (qed_slot_release (slot), 0);
  expect_absent (QED_SLOT_RELEASED);
  assert_int_equal (opens, 1);
  assert_int_equal (qed_slot_close (slot), 0);
}

/* It gets the lock, but can't open the image: others may try, or someone who
 * has mended it.
 */
static void
test_standby_fails (void **state)
{
  (void) state;
  start_standby (-EAGAIN);
  had = -EINVAL;
  seen = 0;
  wait_state (QED_SLOT_FAILED);
  expect_absent (QED_SLOT_FAILED);
  assert_int_equal (opens, 1);
  had = -EAGAIN;
  assert_int_equal (qed_slot_activate (slot), -EAGAIN);
  expect_absent (QED_SLOT_FAILED);
  had = 0;
  assert_int_equal (qed_slot_activate (slot), 0);
  assert_int_equal (qed_slot_close (slot), 0);
}

/* A lock that can't be tested fails at once; later it is tried again. */
static void
test_standby_untestable (void **state)
{
  struct qed_slot_options options;

  (void) state;
  seen = -ENOLCK;
  qed_slot_options_init (&options);
  options.image.path = "fake";
  options.image.log.fn = log_quietly;
  options.standby = true;
  options.test_lock = fake_test_lock;
  assert_int_equal (qed_slot_new (&options, &slot), -ENOLCK);

  start_standby (-EAGAIN);
  seen = -ESTALE;
  wait_looks (2);
  expect_absent (QED_SLOT_STANDBY);
  seen = had = 0;
  wait_state (QED_SLOT_ACTIVE);
  assert_int_equal (qed_slot_close (slot), 0);
}

/* A device that is still in use without a lock is waited for like a lock. */
static void
test_busy_device (void **state)
{
  (void) state;
  start_standby (-EBUSY);
  wait_looks (1);
  expect_absent (QED_SLOT_STANDBY);
  assert_int_equal (qed_slot_activate (slot), -EAGAIN);
  expect_absent (QED_SLOT_STANDBY);
  opens = 0;
  seen = 0;                     /* of the lock; the device stays in use */
  while (opens < 2)
    sched_yield ();
  had = 0;
  wait_state (QED_SLOT_ACTIVE);
  assert_int_equal (qed_slot_release (slot), 0);
  had = -EBUSY;
  assert_int_equal (qed_slot_activate (slot), -EAGAIN);
  expect_absent (QED_SLOT_RELEASED);
  assert_int_equal (qed_slot_close (slot), 0);
}

static void *
release_in_thread (void *result)
{
  *(int *) result = qed_slot_release (slot);
  return NULL;
}

/* Who has entered is asked to leave, and waited for; nobody else enters. */
static void
test_drain (void **state)
{
  pthread_t thread;
  int r = -1;

  (void) state;
  start_active ();
  assert_non_null (qed_slot_enter (slot));
  assert_non_null (qed_slot_enter (slot));
  assert_int_equal (pthread_create (&thread, NULL, release_in_thread, &r), 0);
  wait_state (QED_SLOT_RELEASING);
  assert_null (qed_slot_enter (slot));
  qed_slot_leave (slot);
  while (drains < 2)
    sched_yield ();
  assert_int_equal (qed_slot_state (slot), QED_SLOT_RELEASING);
  assert_false (fake->closed);
  qed_slot_leave (slot);
  pthread_join (thread, NULL);
  assert_int_equal (r, 0);
  expect_absent (QED_SLOT_RELEASED);
  assert_int_equal (qed_slot_close (slot), 0);
}

/* O8: after a failed sync nothing is written any more. */
static void
test_release_failed (void **state)
{
  (void) state;
  start_active ();
  assert_int_equal (write_in_slot (7), 0);
  fake_rule_add (fake, FAKE_SYNC, 0, 1, -EIO, 1);
  assert_int_equal (sync_request (qed_slot_image (slot), QED_OP_FLUSH, NULL, 0,
                                  0, 0), -EIO);
  fake_forget (fake);
  assert_int_equal (qed_slot_release (slot), -EIO);
  expect_absent (QED_SLOT_RELEASED);
  assert_int_equal (fake_calls (fake, FAKE_ANY), 0);
  assert_true (need_check ());

  assert_int_equal (qed_slot_activate (slot), 0);       /* and is repaired */
  assert_int_equal (write_in_slot (8), 0);
  assert_int_equal (qed_slot_close (slot), 0);
  assert_false (need_check ());
}

#define USERS 3
static atomic_bool enough;
static _Atomic unsigned used;

static void *
use (void *arg)
{
  const struct qed_image *mine;

  (void) arg;
  while (!enough) {
    mine = qed_slot_enter (slot);
    if (mine == NULL) {
      qed_slot_wait (slot, 10);
      continue;
    }
    assert_int_equal (qed_size (mine), IMAGE_SIZE);     /* it is there */
    assert_false (fake->closed);
    used++;
    qed_slot_leave (slot);
  }
  return NULL;
}

static void
test_threads (void **state)
{
  pthread_t threads[USERS];
  unsigned i, before;

  (void) state;
  enough = false;
  start_active ();
  for (i = 0; i < USERS; i++)
    assert_int_equal (pthread_create (&threads[i], NULL, use, NULL), 0);
  for (i = 0; i < 20; i++) {
    before = used;
    while (used == before)
      sched_yield ();
    assert_int_equal (qed_slot_release (slot), 0);
    assert_true (fake->closed);
    assert_int_equal (qed_slot_activate (slot), 0);
  }
  enough = true;
  for (i = 0; i < USERS; i++)
    pthread_join (threads[i], NULL);
  assert_int_equal (qed_slot_close (slot), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_IMAGE_TEST (test_release_activate),
    FAKE_IMAGE_TEST (test_changed_meanwhile),
    FAKE_IMAGE_TEST (test_standby),
    FAKE_IMAGE_TEST (test_standby_released),
    FAKE_IMAGE_TEST (test_standby_fails),
    FAKE_IMAGE_TEST (test_standby_untestable),
    FAKE_IMAGE_TEST (test_busy_device),
    FAKE_IMAGE_TEST (test_drain),
    FAKE_IMAGE_TEST (test_release_failed),
    FAKE_IMAGE_TEST (test_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
