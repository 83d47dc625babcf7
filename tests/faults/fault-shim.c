/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Preloaded into a server or qedctl: its system calls fail as the file that
 * FAULT_RULE names says, "CALL SKIP TIMES ERRNO" or "short SEED", from when it
 * says so.
 */

#include <config.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fault.h"

#define RULE_SIZE 64u

static const char *rule_path;

/* Plain system calls: what libc has for them may come back here. */
static void
read_rule (char rule[RULE_SIZE])
{
  int fd = (int) syscall (SYS_openat, AT_FDCWD, rule_path,
                          O_RDONLY | O_CLOEXEC);
  long n = fd < 0 ? 0 : syscall (SYS_read, fd, rule, RULE_SIZE - 1);

  if (fd >= 0)
    syscall (SYS_close, fd);
  rule[n > 0 ? n : 0] = '\0';
}

static void
adopt (const char *rule)
{
  unsigned skip, times, i;
  char name[16];
  int error;

  if (sscanf (rule, "short %u", &skip) == 1) {
    fault_arm_short (skip);
    return;
  }
  fault_disarm ();
  if (sscanf (rule, "%15s %u %u %d", name, &skip, &times, &error) != 4)
    return;
  for (i = 0; i < FAULT_CALLS; i++)
    if (strcmp (fault_names[i], name) == 0)
      fault_arm (i, skip, times, error);
}

/* Before each call. */
static void
look (void)
{
  static char last[RULE_SIZE];
  static char turn;
  char rule[RULE_SIZE];

  if (__atomic_test_and_set (&turn, __ATOMIC_ACQUIRE))
    return;                     /* another thread does it */
  read_rule (rule);
  if (strcmp (rule, last) != 0) {
    strcpy (last, rule);
    adopt (rule);
  }
  __atomic_clear (&turn, __ATOMIC_RELEASE);
}

static void begin (void) __attribute__ ((constructor));

static void
begin (void)
{
  rule_path = getenv ("FAULT_RULE");
  if (rule_path)
    fault_before = look;
}
