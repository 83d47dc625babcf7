/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "file-bytes.h"
#include "format.h"

static void
write_file (const char *name, int flags, const void *buf, size_t n,
            uint64_t at)
{
  int fd = open (name, O_RDWR | flags, 0600);

  assert_true (fd >= 0);
  assert_int_equal (pwrite (fd, buf, n, (off_t) at), n);
  assert_int_equal (close (fd), 0);
}

void
store_file (const char *name, const void *buf, size_t n)
{
  write_file (name, O_CREAT | O_TRUNC, buf, n, 0);
}

void
poke_file (const char *name, uint64_t at, const void *buf, size_t n)
{
  write_file (name, 0, buf, n, at);
}

void
poke_file64 (const char *name, uint64_t at, uint64_t value)
{
  unsigned char buf[8];

  format_put64 (buf, value);
  poke_file (name, at, buf, sizeof buf);
}

uint64_t
peek_file64 (const char *name, uint64_t at)
{
  unsigned char buf[8];
  int fd = open (name, O_RDONLY);

  assert_true (fd >= 0);
  assert_int_equal (pread (fd, buf, sizeof buf, (off_t) at), sizeof buf);
  assert_int_equal (close (fd), 0);
  return format_get64 (buf);
}
