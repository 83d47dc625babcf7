/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An export as storage, without a network: which exports are taken, and for
 * what, and plain calls before there is a loop.
 */

#include <errno.h>
#include <string.h>

#include "fake-nbd.h"

/* ---- Opening ----------------------------------------------------------- */

static void
test_open (void **state)
{
  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->read_only);
  assert_int_equal (storage->block, 512);
  assert_true (storage->holes_known);
  assert_null (nbd->link.nbd);    /* a fork may follow */
  assert_int_equal (storage->ops->resize (storage, SIZE), 0);
  assert_int_equal (storage->ops->resize (storage, SIZE + 1), -EOPNOTSUPP);
  assert_true (storage->ops->stop (storage));   /* it wasn't started */
}

static void
test_holes_unknown (void **state)
{
  (void) state;
  server.has_extents = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->holes_known);
  storage->ops->close (storage);
  server.has_extents = true;
  server.can_zero = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->holes_known);
}

static void
test_not_writable (void **state)
{
  (void) state;
  server.read_only = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EROFS);
  expect_said ("exported read-only");
  server.read_only = false;
  server.can_flush = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EOPNOTSUPP);
  expect_said ("no flush");
  server.can_flush = true;
  server.minimum = 2 * STORAGE_BLOCK_MAX;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EOPNOTSUPP);
  expect_said ("blocks of 8192 bytes");
  server.read_only = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE | STORAGE_NBD_MAY_READ),
                    0);
  expect_said ("and served so");
  assert_true (storage->read_only);
  storage->ops->close (storage);
  storage = NULL;
  assert_int_equal (open_storage (0), 0);
}

static void
test_unreachable (void **state)
{
  struct storage *none;

  (void) state;
  connect_error = -ECONNREFUSED;
  assert_int_equal (open_storage (0), -ECONNREFUSED);
  expect_said ("nbd://there/: cannot connect: no way");
  assert_int_equal (storage_nbd_open ("nbd://there/", "above.qed", 0, &say,
                                      &none), -ECONNREFUSED);
  expect_said ("above.qed: cannot connect to the backing file nbd://there/");
}

static void
test_no_memory (void **state)
{
  struct storage *none;
  int i;

  (void) state;
  for (i = 0; i < 3; i++) {
    allocations = i;
    assert_int_equal (storage_nbd_open ("nbd://there/", i == 1 ? "above" : NULL,
                                        0, &say, &none), -ENOMEM);
    expect_said (i == 1 ? "above: out of memory" : "nbd://there/: out of mem");
  }
  allocations = UINT32_MAX;
}

/* ---- What for ---------------------------------------------------------- */

static int
open_as (const struct qed_options *how)
{
  int r = storage_open (how, &storage);

  nbd = (struct storage_nbd *) storage;
  if (r == 0) {
    storage->ops->close (storage);
    storage = NULL;
  }
  return r;
}

/* An export is an image's file only where that is meant, and a guest's disk is
 * none.
 */
static void
test_purposes (void **state)
{
  struct qed_options how;

  (void) state;
  qed_options_init (&how);
  how.path = "nbd://there/";
  how.log = say;
  assert_int_equal (open_as (&how), -EOPNOTSUPP);
  expect_said ("can be checked, repaired and served from here");
  how.examine = true;
  assert_int_equal (open_as (&how), -EINVAL);
  expect_said ("without --raw-image");
  how.read_only = true;
  assert_int_equal (open_as (&how), 0);
  server.guest_disk = true;
  assert_int_equal (open_as (&how), -EINVAL);
  expect_said ("its content is the guest's");
  how.raw_image = true;
  assert_int_equal (open_as (&how), 0);
  server.guest_disk = how.read_only = false;
  assert_int_equal (open_as (&how), 0);
  expect_said ("has no locks");
  server.read_only = true;
  assert_int_equal (open_as (&how), -EROFS);
  how.examine = how.raw_image = false;
  how.remote = true;
  assert_int_equal (open_as (&how), 0); /* to be served, read-only */
  how.need_write = true;
  assert_int_equal (open_as (&how), -EROFS);
  connect_error = -ECONNREFUSED;
  assert_int_equal (open_as (&how), -ECONNREFUSED);
}

static void
expect_advice (const char *uri, int error, const char *message,
               const char *advice)
{
  const char *said_now = storage_nbd_advice (uri, error, message);

  if (advice == NULL)
    assert_string_equal (said_now, "");
  else
    assert_non_null (strstr (said_now, advice));
}

static void
test_advice (void **state)
{
  (void) state;
  expect_advice ("nbd://h/", -ECONNREFUSED, "", "listens there");
  expect_advice ("nbd://h/", -ETIMEDOUT, "", "no firewall");
  expect_advice ("nbd://h/", -ENOENT, "", "which exports");
  expect_advice ("nbd://h/", -ENOTSUP, "", "use nbds://");
  expect_advice ("nbds://h/", -ENOTSUP, "", "use nbd://");
  expect_advice ("nbds://h/", -EIO, "gnutls: tls alert", "knows the key");
  expect_advice ("nbds://h/", -EIO, "other", NULL);
  expect_advice ("nbd://h/", -EIO, "gnutls: tls alert", NULL);
}

/* A new image on an export overwrites it. */
static void
test_create (void **state)
{
  struct qed_create_options create;

  (void) state;
  answers = true;
  qed_create_options_init (&create);
  create.path = "nbd://there/";
  create.size = 100 * MIB;
  create.log = say;
  assert_int_equal (qed_create (&create), -EEXIST);
  expect_said ("with --force");
  create.force = true;
  create.backing = "base";
  create.backing_raw = true;
  assert_int_equal (qed_create (&create), -EINVAL);
  expect_said ("can't have a backing file");
  create.backing = NULL;
  create.backing_raw = false;
  connect_error = -ECONNREFUSED;
  assert_int_equal (qed_create (&create), -ECONNREFUSED);
  connect_error = 0;
  server.guest_disk = true;
  assert_int_equal (qed_create (&create), -EINVAL);
  expect_said ("nothing is written to it");
  server.guest_disk = false;
  server.size = 65536;
  assert_int_equal (qed_create (&create), -ENOSPC);
  expect_said ("an empty image of this geometry takes");
  server.size = SIZE;
  answer_error = -ENOSPC;
  assert_int_equal (qed_create (&create), -ENOSPC);
  answer_error = 0;
  assert_int_equal (qed_create (&create), 0);
}

static void
test_info (void **state)
{
  struct qed_info info;

  (void) state;
  answers = true;
  assert_int_equal (qed_info_read ("nbd://there/", &say, &info), -EINVAL);
  expect_said ("not a QED image");
  connect_error = -ECONNREFUSED;
  assert_int_equal (qed_info_read ("nbd://there/", &say, &info),
                    -ECONNREFUSED);
}

/* ---- Before there is a loop -------------------------------------------- */

static void
test_plain_calls (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), 0);
  assert_int_equal (buf[0], 'r');
  answers = true;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  assert_true (nbd->unflushed);
  assert_int_equal (storage->ops->sync (storage), 0);
  assert_false (nbd->unflushed);
  assert_int_equal (errors, 0);
}

/* What was not flushed went with the connection. */
static void
test_plain_loss (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  wait_error = -ETIMEDOUT;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said ("no answer");
  answers = true;
  assert_int_equal (storage->ops->sync (storage), 0);
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  answers = false;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  answers = true;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  assert_int_equal (storage->ops->sync (storage), -EIO);
  assert_int_equal (storage->ops->sync (storage), -EIO);
}

static void
test_plain_errors (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  answers = true;
  answer_error = -ENOSPC;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), -ENOSPC);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  answer_error = -EPERM;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EPERM);
  answer_error = -EIO;
  assert_int_equal (storage->ops->sync (storage), -EIO);
  assert_int_equal (storage->ops->sync (storage), -EIO);
  answer_error = 0;
  assert_int_equal (storage->ops->sync (storage), -EIO);        /* for good */
  nbd_link_disconnect_plainly (&nbd->link);
  connect_error = -ECONNREFUSED;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said ("no way");
}

static void
expect_other_export (const char *why)
{
  unsigned char buf[512];

  nbd_link_disconnect_plainly (&nbd->link);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said (why);
  assert_null (nbd->link.nbd);
}

static void
test_plain_other_export (void **state)
{
  unsigned char buf[512];

  (void) state;
  answers = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  server.size = 512;
  expect_other_export ("it has 512 bytes now");
  server.size = SIZE;
  server.guest_disk = true;
  expect_other_export ("another kind of server");
  server.guest_disk = false;
  server.read_only = true;
  expect_other_export ("can't be written to as before");
  server.read_only = false;
  server.can_flush = false;
  expect_other_export ("can't be written to as before");
  server.can_flush = true;
  server.minimum = 1024;
  expect_other_export ("can't be written to as before");
  server.minimum = 1;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FAKE_NBD_TEST (test_open),
    FAKE_NBD_TEST (test_holes_unknown),
    FAKE_NBD_TEST (test_not_writable),
    FAKE_NBD_TEST (test_unreachable),
    FAKE_NBD_TEST (test_no_memory),
    FAKE_NBD_TEST (test_purposes),
    FAKE_NBD_TEST (test_advice),
    FAKE_NBD_TEST (test_create),
    FAKE_NBD_TEST (test_info),
    FAKE_NBD_TEST (test_plain_calls),
    FAKE_NBD_TEST (test_plain_loss),
    FAKE_NBD_TEST (test_plain_errors),
    FAKE_NBD_TEST (test_plain_other_export),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
