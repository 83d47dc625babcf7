/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "kept-message.h"

char said[1024];

void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  const enum qed_log_level *expected = opaque;

  if (expected)
    assert_int_equal (level, *expected);
  snprintf (said, sizeof said, "%s", message);
}

void
forget_message (void)
{
  said[0] = '\0';
}
