/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Take the engine's lock on a file and hold it until the standard input ends.
 *
 *   lock-holder FILE writer|reader|nfs-writer [drop-after-fork]
 *
 * Prints "held", or "refused HOLDER", or "failed ERROR" (exit 1).  With
 * drop-after-fork a child keeps a copy of the descriptor, and the lock is
 * dropped in the parent before "held" is printed.  A nfs-writer does as a writer
 * does on NFS.
 */

#include <fcntl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/wait.h>

#include "lock.h"

static void
wait_for_end (void)
{
  char c;

  while (read (STDIN_FILENO, &c, 1) > 0)
    ;
}

int
main (int argc, char **argv)
{
  char holder[LOCK_HOLDER_SIZE];
  bool writer, nfs;
  pid_t child;
  int fd, r;

  if (argc < 3) {
    fprintf (stderr, "usage: %s FILE writer|reader|nfs-writer "
             "[drop-after-fork]\n",
             argv[0]);
    return 1;
  }
  nfs = strcmp (argv[2], "nfs-writer") == 0;
  writer = nfs || strcmp (argv[2], "writer") == 0;
  fd = open (argv[1], (writer ? O_RDWR : O_RDONLY) | O_CLOEXEC);
  if (fd == -1) {
    perror (argv[1]);
    return 1;
  }
  r = nfs ? lock_take_as (fd, true, true, holder)
    : lock_take (fd, writer, holder);
  if (r == -EAGAIN)
    printf ("refused %s\n", holder);
  else if (r < 0)
    printf ("failed %s\n", strerror (-r));
  if (r < 0)
    return 1;

  if (argc > 3) {
    child = fork ();
    if (child == -1) {
      perror ("fork");
      return 1;
    }
    if (child == 0) {
      wait_for_end ();
      _exit (0);
    }
    lock_drop (fd);
  }
  puts ("held");
  fflush (stdout);
  wait_for_end ();
  while (wait (NULL) > 0)
    ;
  return 0;
}
