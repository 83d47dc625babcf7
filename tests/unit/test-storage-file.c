/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A local file as storage: calls that are interrupted, short or refused, files
 * that are no images, and what a file system without holes gets.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/uio.h>

#include "file.h"
#include "file-calls.h"
#include "log.h"

#define SIZE 8192u
static unsigned char noise[SIZE];

static void
expect_noise (struct storage *s, uint64_t offset)
{
  unsigned char buf[SIZE];

  assert_int_equal (s->ops->pread (s, buf, SIZE, offset), 0);
  assert_memory_equal (buf, noise, SIZE);
}
/* ---- Data ---- */

/* What is interrupted or short is continued; any other error is told. */
static void
test_transfers (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE];

  (void) state;
  fail_next ("pwrite", EINTR, 0, 2);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 512), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("pread", EINTR, 0, 2);
  expect_noise (s, 512);
  assert_int_equal (plan.times, 0);
  fail_next ("pwrite", 0, 0, 3);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 20000), 0);
  fail_next ("pread", 0, 0, 3);
  expect_noise (s, 20000);
  fail_next ("pread", EIO, 0, 1);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), -EIO);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), -ENOSPC);
  fail_next ("pwrite", 0, 0, 1);        /* nothing of it, and no error */
  assert_int_equal (s->ops->pwrite (s, noise, 1, 0), -EIO);
  s->ops->close (s);
}

static void
test_beyond_end (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[16], zeros[8] = { 0 };

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, 8, 0), 0);
  memset (buf, 1, sizeof buf);
  assert_int_equal (s->ops->pread (s, buf, sizeof buf, 0), 0);
  assert_memory_equal (buf, noise, 8);
  assert_memory_equal (buf + 8, zeros, 8);
  s->ops->close (s);
}

static void
test_vectors (void **state)
{
  struct storage *s = open_file ();
  struct iovec iov[IOV_MAX + 1];
  const struct iovec two[] = { { noise, 5000 }, { noise + 5000, SIZE - 5000 } };
  int i;

  (void) state;
  assert_int_equal (s->ops->pwritev (s, two, 2, 0), 0);
  expect_noise (s, 0);
  fail_next ("pwritev", 0, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 10000), 0);
  expect_noise (s, 10000);
  fail_next ("pwritev", EINTR, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 20000), 0);
  expect_noise (s, 20000);
  fail_next ("pwritev", EIO, 0, 1);
  assert_int_equal (s->ops->pwritev (s, two, 2, 0), -EIO);

  /* More than one call takes. */
  for (i = 0; i <= IOV_MAX; i++)
    iov[i] = (struct iovec) { noise + i, 1 };
  assert_int_equal (s->ops->pwritev (s, iov, IOV_MAX + 1, 30000), 0);
  assert_int_equal (s->ops->pwrite (s, noise + IOV_MAX + 1,
                                    SIZE - IOV_MAX - 1,
                                    30000 + IOV_MAX + 1), 0);
  expect_noise (s, 30000);
  fail_next ("pwrite", EIO, 1, 1);
  assert_int_equal (s->ops->pwritev (s, iov, IOV_MAX + 1, 30000), -EIO);
  s->ops->close (s);
}

/* Where there are no holes zeros are written, and the next time at once. */
static void
expect_no_punch (int error)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE], zeros[4096] = { 0 };

  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", error, 0, 1);
  assert_int_equal (s->ops->punch (s, 0, 4096), -EOPNOTSUPP);
  expect_noise (s, 0);
  fail_next ("fallocate", EIO, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, 4096), 0);
  assert_int_equal (plan.times, 1);     /* it was not tried again */
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, 4096);
  assert_memory_equal (buf + 4096, noise + 4096, 4096);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, 4096), -ENOSPC);
  fail_next (NULL, 0, 0, 0);
  assert_int_equal (s->ops->zero (s, 0, UINT64_C (3) << 20), 0);
  s->ops->close (s);
}

static void
test_no_holes (void **state)
{
  static const int errors[] = { EOPNOTSUPP, ENOSYS, ENODEV, EINVAL };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof errors / sizeof errors[0]; i++)
    expect_no_punch (errors[i]);
}

static void
test_holes (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[SIZE], zeros[SIZE] = { 0 };

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", EINTR, 0, 2);
  assert_int_equal (s->ops->punch (s, 0, SIZE), 0);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, SIZE);
  fail_next ("fallocate", EIO, 0, 1);
  assert_int_equal (s->ops->zero (s, 0, SIZE), -EIO);
  s->ops->close (s);
}

/* A part of a device's block can't be a hole; its other blocks can. */
static void
test_device_block (void **state)
{
  struct storage *s = open_file ();
  unsigned char buf[2 * SIZE], zeros[2 * SIZE] = { 0 };

  (void) state;
  s->fixed = true;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, SIZE), 0);
  fail_next ("fallocate", EINVAL, 0, 1);
  assert_int_equal (s->ops->punch (s, 100, 200), -EOPNOTSUPP);
  expect_noise (s, 0);
  fail_next ("fallocate", EINVAL, 0, 1);        /* not of the middle */
  assert_int_equal (s->ops->zero (s, 100, 2 * SIZE - 150), 0);
  fail_next ("fallocate", EINVAL, 0, 2);        /* nor of that */
  assert_int_equal (s->ops->zero (s, 100, 2 * SIZE - 150), 0);
  assert_int_equal (plan.times, 0);
  assert_int_equal (s->ops->pread (s, buf, 2 * SIZE, 0), 0);
  assert_memory_equal (buf, noise, 100);
  assert_memory_equal (buf + 100, zeros, 2 * SIZE - 150);
  assert_memory_equal (buf + 2 * SIZE - 50, noise + SIZE - 50, 50);
  fail_next ("fallocate", EIO, 1, 1);
  assert_int_equal (s->ops->zero (s, 0, SIZE), 0);
  assert_int_equal (s->ops->punch (s, 0, SIZE), -EIO);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", EINVAL, 0, 1);        /* less than a block */
  assert_int_equal (s->ops->zero (s, 100, 50), 0);
  fail_next ("fallocate", EINVAL, 0, 1);        /* from a block's begin */
  assert_int_equal (s->ops->zero (s, 0, SIZE - 50), 0);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, SIZE - 50);
  assert_memory_equal (buf + SIZE - 50, noise + SIZE - 50, 50);
  fail_next ("fallocate", EINVAL, 0, 1);        /* blocks it says no to */
  assert_int_equal (s->ops->zero (s, 0, SIZE), 0);
  assert_int_equal (s->ops->pread (s, buf, SIZE, 0), 0);
  assert_memory_equal (buf, zeros, SIZE);
  s->ops->close (s);
}

/* Zeros before and behind its blocks are written, which may fail. */
static void
test_device_edges (void **state)
{
  struct storage *s = open_file ();
  uint64_t start, end;

  (void) state;
  s->fixed = punches_blocks = true;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, SIZE), 0);
  fail_next ("pwrite", EIO, 0, 1);
  assert_int_equal (s->ops->zero (s, 100, 2 * SIZE - 150), -EIO);
  fail_next ("pwrite", EIO, 1, 1);
  assert_int_equal (s->ops->zero (s, 100, 2 * SIZE - 150), -EIO);
  assert_int_equal (s->ops->zero (s, 100, 2 * SIZE - 150), 0);
  assert_int_equal (s->ops->next_data (s, 4096, &start, &end), 0);
  assert_true (start == 2 * SIZE - 4096);
  s->ops->close (s);
}

static void
test_reserve (void **state)
{
  static const int never[] = { EOPNOTSUPP, ENOSYS, ENODEV, EINVAL };
  struct storage *s = open_file ();
  uint64_t length;
  size_t i;

  (void) state;
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 0), 0);
  fail_next ("fallocate", EINTR, 0, 2);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), 0);
  assert_int_equal (s->ops->reserve (s, SIZE, 4096), 0);
  expect_noise (s, 0);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_int_equal (length, SIZE);
  fail_next ("fallocate", ENOSPC, 0, 1);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), -ENOSPC);
  assert_int_equal (s->ops->reserve (s, 0, SIZE), 0);
  s->ops->close (s);
  for (i = 0; i < sizeof never / sizeof never[0]; i++) {
    s = open_file ();
    fail_next ("fallocate", never[i], 0, 1);
    assert_int_equal (s->ops->reserve (s, 0, 4096), -EOPNOTSUPP);
    fail_next ("fallocate", EIO, 0, 1);
    assert_int_equal (s->ops->reserve (s, 0, 4096), -EOPNOTSUPP);
    assert_int_equal (plan.times, 1);   /* it was not tried again */
    fail_next (NULL, 0, 0, 0);
    assert_int_equal (s->ops->punch (s, 0, 4096), 0);
    s->ops->close (s);
  }
}

/* ---- The file as a whole ---- */

static void
test_length (void **state)
{
  struct storage *s = open_file ();
  uint64_t length;

  (void) state;
  fail_next ("ftruncate", EINTR, 0, 2);
  assert_int_equal (s->ops->resize (s, 12345), 0);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_true (length == 12345);
  fail_next ("ftruncate", ENOSPC, 0, 1);
  assert_int_equal (s->ops->resize (s, 1), -ENOSPC);
  assert_int_equal (s->ops->resize (s, (uint64_t) INT64_MAX + 1), -EFBIG);
  fail_next ("fstat", EIO, 0, 1);
  assert_int_equal (s->ops->length (s, &length), -EIO);
  s->ops->close (s);
}

static void
test_sync (void **state)
{
  struct storage *s = open_file ();

  (void) state;
  fail_next ("fdatasync", EINTR, 0, 3);
  assert_int_equal (s->ops->sync (s), 0);
  assert_int_equal (plan.times, 0);
  fail_next ("fdatasync", EIO, 0, 1);
  assert_int_equal (s->ops->sync (s), -EIO);
  s->ops->close (s);
}

/* Where holes can't be found all may be data. */
static void
test_next_data (void **state)
{
  struct storage *s = open_file ();
  uint64_t start, end;

  (void) state;
  assert_int_equal (s->ops->resize (s, UINT64_C (3) << 20), 0);
  assert_int_equal (s->ops->pwrite (s, noise, SIZE, 1 << 20), 0);
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), 0);
  assert_true (start == 1 << 20 && end == (1 << 20) + SIZE);
  assert_int_equal (s->ops->next_data (s, 2 << 20, &start, &end), 0);
  assert_true (start == UINT64_MAX);

  fail_next ("lseek", EINVAL, 0, 1);
  assert_int_equal (s->ops->next_data (s, 4096, &start, &end), 0);
  assert_true (start == 4096 && end == UINT64_C (3) << 20);
  fail_next ("lseek", EINVAL, 0, 1);
  assert_int_equal (s->ops->next_data (s, 4 << 20, &start, &end), 0);
  assert_true (start == UINT64_MAX);
  fail_next ("lseek", EIO, 1, 1);       /* the end of the data */
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), -EIO);
  fail_next ("lseek", 0, 1, 1);         /* no data any more */
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), 0);
  assert_true (start == 1 << 20 && end == (1 << 20) + 1);
  fail_next ("lseek", ENXIO, 1, 1);     /* cut off */
  assert_int_equal (s->ops->next_data (s, 0, &start, &end), 0);
  assert_true (start == 1 << 20 && end == (1 << 20) + 1);
  s->ops->close (s);
}

/* ---- What is no image ---- */

static void
test_types (void **state)
{
  struct storage *s;
  int ends[2];

  (void) state;
  options.path = directory;
  assert_int_equal (storage_file_open (&options, &s), -EISDIR);
  assert_non_null (strstr (said, "a directory"));
  options.path = "/dev/null";
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a character device"));
  assert_int_equal (mkfifo (other, 0600), 0);
  options.path = other;
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a FIFO"));
  assert_int_equal (unlink (other), 0);

  assert_int_equal (pipe (ends), 0);
  assert_int_equal (storage_file_open_fd (ends[0], "pipe", &options, &s),
                    -EINVAL);
  assert_non_null (strstr (said, "not a regular file"));
  assert_int_equal (close (ends[0]), -1);       /* it was the storage's */
  close (ends[1]);
}

/* The name changes hands between the look and the open. */
static void
test_types_changed (void **state)
{
  struct storage *s;

  (void) state;
  options.need_write = true;
  fail_next ("fstat", 0, 1, 1);
  assert_int_equal (storage_file_open (&options, &s), -EINVAL);
  assert_non_null (strstr (said, "a FIFO"));
  fail_next ("fstat", EIO, 0, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  fail_next ("fstat", EIO, 1, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  assert_non_null (strstr (said, "cannot open"));
  fail_next ("fstat", EIO, 2, 1);       /* which file it is */
  assert_int_equal (storage_file_open (&options, &s), -EIO);
}

static void
test_missing (void **state)
{
  struct storage *s;

  (void) state;
  options.path = other;
  assert_int_equal (storage_file_open (&options, &s), -ENOENT);
  assert_int_equal (storage_file_test_lock (&options), -ENOENT);
  options.beneath = "/nowhere";
  assert_int_equal (storage_file_open (&options, &s), -EXDEV);
  options.path = "/nowhere/file";
  assert_int_equal (storage_file_open (&options, &s), -ENOENT);
}

/* With "/" as the directory all paths are inside. */
static void
test_beneath_root (void **state)
{
  struct storage *s;

  (void) state;
  options.beneath = "/";
  s = open_file ();
  s->ops->close (s);
}

static void
test_device (void **state)
{
  struct storage *s;
  uint64_t length;
  int fd;

  (void) state;
  are_devices = true;
  s = open_file ();
  assert_true (s->fixed);
  assert_false (s->can_grow);
  assert_int_equal (s->ops->length (s, &length), 0);
  assert_true (length == 1 << 20);
  fail_next ("ioctl", EIO, 0, 1);
  assert_int_equal (s->ops->length (s, &length), -EIO);
  s->ops->close (s);
  options.read_only = true;
  fail_next ("ioctl", EIO, 0, 1);
  assert_int_equal (storage_file_open (&options, &s), -EIO);
  fd = open (path, O_RDONLY);
  assert_int_equal (storage_file_open_fd (fd, path, &options, &s), 0);
  s->ops->close (s);
}
/* ---- Plain files ---- */

static void
test_plain (void **state)
{
  unsigned char buf[SIZE];
  int fd = open (path, O_RDWR);

  (void) state;
  fail_next ("pwrite", EINTR, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), 0);
  fail_next ("pwrite", 0, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), 0);
  fail_next ("pread", EINTR, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), 0);
  fail_next ("pread", 0, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), 0);
  assert_memory_equal (buf, noise, SIZE);
  assert_int_equal (file_read (fd, buf, SIZE, 1), -EIO);
  fail_next ("pread", EBADF, 0, 1);
  assert_int_equal (file_read (fd, buf, SIZE, 0), -EBADF);
  fail_next ("pwrite", ENOSPC, 0, 1);
  assert_int_equal (file_write (fd, noise, SIZE, 0), -ENOSPC);
  fail_next ("pwrite", 0, 0, 1);
  assert_int_equal (file_write (fd, noise, 1, 0), -EIO);
  close (fd);
}

/* A message is one line, whatever it quotes; and one that can't be made is
 * told of.
 */
static void
test_messages (void **state)
{
  (void) state;
  log_error (&options.log, "%s", "a\nb\x7f");
  assert_string_equal (said, "a?b?");
  fail_next ("vasprintf", ENOMEM, 0, 1);
  log_error (&options.log, "lost");
  assert_string_equal (said, "out of memory, a message is lost");
  log_error (NULL, "to nobody");
  assert_string_equal (said, "out of memory, a message is lost");
}
static int
setup_all (void **state)
{
  unsigned i;

  for (i = 0; i < SIZE; i++)
    noise[i] = (unsigned char) (i * 7 + i / 251 + 1);
  return file_setup_all (state);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    FILE_TEST (test_transfers),
    FILE_TEST (test_beyond_end),
    FILE_TEST (test_vectors),
    FILE_TEST (test_no_holes),
    FILE_TEST (test_holes),
    FILE_TEST (test_device_block),
    FILE_TEST (test_device_edges),
    FILE_TEST (test_reserve),
    FILE_TEST (test_length),
    FILE_TEST (test_sync),
    FILE_TEST (test_next_data),
    FILE_TEST (test_types),
    FILE_TEST (test_types_changed),
    FILE_TEST (test_missing),
    FILE_TEST (test_beneath_root),
    FILE_TEST (test_device),
    FILE_TEST (test_plain),
    FILE_TEST (test_messages),
  };

  return cmocka_run_group_tests (tests, setup_all, file_teardown_all);
}
