/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages: one harmless line each, and few of those that a client can bring
 * about again and again.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "log.h"

static char lines[2048];

static void
collect (void *opaque, enum qed_log_level level, const char *message)
{
  const size_t n = strlen (lines);

  (void) opaque;
  (void) level;
  snprintf (lines + n, sizeof lines - n, "%s\n", message);
}

static const struct qed_log to = { .fn = collect };

static void
test_one_line (void **state)
{
  (void) state;
  lines[0] = '\0';
  log_error (&to, "%s", "a\nb\033[31m\x7f \xc2\x9b""31m \xc3\xbc \xc2\xa0");
  assert_string_equal (lines, "a?b?[31m? ??31m \xc3\xbc \xc2\xa0\n");
}

static void
test_trace (void **state)
{
  struct qed_log traced = to;

  (void) state;
  lines[0] = '\0';
  log_trace (&to, "not asked for");
  log_trace (NULL, "to nobody");
  assert_string_equal (lines, "");
  traced.trace = true;
  log_trace (&traced, "%s: %s", "step", "\xc2");
  assert_string_equal (lines, "step: \xc2\n");
}

static void
test_limit (void **state)
{
  struct log_limit limit = { 0, 0 };
  unsigned i, written = 0;

  (void) state;
  lines[0] = '\0';
  for (i = 0; i < 100; i++)
    written += log_may (&limit, &to, "disk.qed");
  assert_int_equal (written, 1);
  assert_string_equal (lines, "");
  limit.next = 0;               /* later */
  assert_true (log_may (&limit, &to, "disk.qed"));
  assert_string_equal (lines, "disk.qed: 99 lines like the next one were not "
                       "logged: one in 10 seconds is\n");
  lines[0] = '\0';
  limit.next = 0;
  assert_true (log_may (&limit, &to, "disk.qed"));
  assert_string_equal (lines, "");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_one_line),
    cmocka_unit_test (test_trace),
    cmocka_unit_test (test_limit),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
