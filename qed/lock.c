/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* File locks that QEMU respects: see lock.h. */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/magic.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "lock.h"

enum permission {
  CONSISTENT_READ,
  WRITE,
  WRITE_UNCHANGED,
  RESIZE,
  PERMISSIONS,
};

#define BIT(n) (1u << (n))

/* What a role uses, and what it lets nobody else do. */
#define READER_USES BIT (CONSISTENT_READ)
#define WRITER_USES (BIT (CONSISTENT_READ) | BIT (WRITE) | BIT (RESIZE))
#define NOT_SHARED (BIT (WRITE) | BIT (RESIZE))

/* The byte that says "I use n", and "I do not share n". */
#define USE_BYTE(n) (100 + (n))
#define UNSHARE_BYTE(n) (200 + (n))

#define RETRY_MS 1000
#define RETRY_MIN 20            /* times, also on a busy host, where two racers
                                 * may get few turns in that time */
#define PAUSE_MIN_MS 10
#define PAUSE_MAX_MS 50

/* F_OFD_SETLK or F_OFD_GETLK on one byte.  *type is the lock's type, and for
 * F_OFD_GETLK what was found.
 */
static int
byte_lock (int fd, int command, off_t byte, short *type)
{
  struct flock lock = {
    .l_type = *type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1,
  };
  int r;

  do
    r = fcntl (fd, command, &lock);
  while (r == -1 && errno == EINTR);
  if (r == -1)
    return errno == EACCES ? -EAGAIN : -errno;
  *type = lock.l_type;
  return 0;
}

static int
set_byte (int fd, off_t byte, short type)
{
  return byte_lock (fd, F_OFD_SETLK, byte, &type);
}

/* 1 if someone else holds any lock on the byte. */
static int
test_byte (int fd, off_t byte)
{
  short type = F_WRLCK;
  int r;

  r = byte_lock (fd, F_OFD_GETLK, byte, &type);
  if (r < 0)
    return r;
  return type != F_UNLCK;
}

void
lock_drop (int fd)
{
  unsigned n;

  for (n = 0; n < PERMISSIONS; ++n) {
    set_byte (fd, USE_BYTE (n), F_UNLCK);
    set_byte (fd, UNSHARE_BYTE (n), F_UNLCK);
  }
}

/* Whether anyone else's locks contradict a role: 0; -EAGAIN with *conflict
 * the byte that someone holds; another error.
 */
static int
test_role (int fd, unsigned uses, off_t *conflict)
{
  unsigned n;
  int r;

  for (n = 0; n < PERMISSIONS; ++n) {
    *conflict = UNSHARE_BYTE (n);
    if ((uses & BIT (n)) && (r = test_byte (fd, *conflict)) != 0)
      return r < 0 ? r : -EAGAIN;
    *conflict = USE_BYTE (n);
    if ((NOT_SHARED & BIT (n)) && (r = test_byte (fd, *conflict)) != 0)
      return r < 0 ? r : -EAGAIN;
  }
  return 0;
}

/* Hold the locks of a role, and no others; those of NOT_SHARED are of the type
 * 'exclusive'.
 */
static int
set_role (int fd, unsigned uses, short exclusive, off_t *conflict)
{
  unsigned n;
  short type;
  int r;

  for (n = 0; n < PERMISSIONS; ++n) {
    type = NOT_SHARED & BIT (n) ? exclusive : F_RDLCK;
    *conflict = USE_BYTE (n);
    if ((r = set_byte (fd, *conflict, uses & BIT (n) ? type : F_UNLCK)) < 0)
      return r;
    *conflict = UNSHARE_BYTE (n);
    if ((r = set_byte (fd, *conflict,
                       NOT_SHARED & BIT (n) ? type : F_UNLCK)) < 0)
      return r;
  }
  return 0;
}

/* Linux's NFS 3 server doesn't see read locks when it tests for others, so
 * nobody would see ours; write locks it sees.  They also are refused where
 * anyone, QEMU too, has a read lock.  For version 4 it makes no difference.
 */
static bool
needs_write_locks (int fd)
{
  struct statfs fs;

  return fstatfs (fd, &fs) == 0 && fs.f_type == NFS_SUPER_MAGIC;
}

int
lock_test (int fd, bool writer)
{
  off_t conflict;

  return test_role (fd, writer ? WRITER_USES : READER_USES, &conflict);
}

/* The test that counts is the one after setting.  The one before keeps those
 * who try again and again from getting in the way of a third who tests.
 */
static int
try_take (int fd, bool writer, bool write_locks, off_t *conflict)
{
  const unsigned uses = writer ? WRITER_USES : READER_USES;
  const short exclusive = writer && write_locks ? F_WRLCK : F_RDLCK;
  int r;

  if ((r = test_role (fd, uses, conflict)) < 0 ||
      (r = set_role (fd, uses, exclusive, conflict)) < 0)
    return r;
  return test_role (fd, uses, conflict);
}

/* ---- Who holds it ------------------------------------------------------ */

/* A lock that we look for. */
struct wanted {
  struct stat st;
  off_t byte;
};

/* Whether a "lock:" line of fdinfo, such as
 *   lock:   1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 100
 * is about our file and byte.  Some file systems show another device there
 * than stat does: then the descriptor itself is asked.
 */
static bool
line_matches (const char *line, const struct wanted *wanted, int proc,
              const char *pid, const char *fd_name)
{
  unsigned major_nr, minor_nr;
  unsigned long long inode;
  long long first, last;
  char last_text[32], path[64];
  struct stat st;

  if (sscanf (line, "lock: %*d: %*s %*s %*s %*d %x:%x:%llu %lld %31s",
              &major_nr, &minor_nr, &inode, &first, last_text) != 5)
    return false;
  last = isdigit ((unsigned char) last_text[0]) ? atoll (last_text)
    : INT64_MAX;                /* "EOF" */
  if (inode != wanted->st.st_ino ||
      wanted->byte < first || wanted->byte > last)
    return false;
  if (major_nr == major (wanted->st.st_dev) &&
      minor_nr == minor (wanted->st.st_dev))
    return true;
  snprintf (path, sizeof path, "%.15s/fd/%.15s", pid, fd_name);
  return fstatat (proc, path, &st, 0) == 0 &&
    st.st_dev == wanted->st.st_dev && st.st_ino == wanted->st.st_ino;
}

/* fopen relative to a directory. */
static FILE *
open_in (int dir, const char *path)
{
  const int fd = openat (dir, path, O_RDONLY | O_CLOEXEC);
  FILE *fp;

  if (fd == -1)
    return NULL;
  fp = fdopen (fd, "r");
  if (fp == NULL)
    close (fd);
  return fp;
}

/* Whether one of a process's descriptors carries the lock. */
static bool
process_holds (int proc, const char *pid, const struct wanted *wanted)
{
  char path[64], line[256];
  struct dirent *d;
  bool found = false;
  DIR *dir;
  FILE *fp;
  int fd;

  snprintf (path, sizeof path, "%.15s/fdinfo", pid);
  fd = openat (proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1)
    return false;               /* gone, or not ours to see */
  dir = fdopendir (fd);
  if (dir == NULL) {
    close (fd);
    return false;
  }
  while (!found && (d = readdir (dir)) != NULL) {
    if (!isdigit ((unsigned char) d->d_name[0]) ||
        (fp = open_in (dirfd (dir), d->d_name)) == NULL)
      continue;
    while (!found && fgets (line, sizeof line, fp) != NULL)
      found = line_matches (line, wanted, proc, pid, d->d_name);
    fclose (fp);
  }
  closedir (dir);
  return found;
}

static void
name_process (int proc, const char *pid, char holder[LOCK_HOLDER_SIZE])
{
  char path[64], comm[64] = "";
  FILE *fp;
  char *p;

  snprintf (path, sizeof path, "%.15s/comm", pid);
  fp = open_in (proc, path);
  if (fp != NULL) {
    if (fgets (comm, sizeof comm, fp) == NULL)
      comm[0] = '\0';
    fclose (fp);
  }
  comm[strcspn (comm, "\n")] = '\0';
  for (p = comm; *p; ++p)
    if (iscntrl ((unsigned char) *p))
      *p = '?';
  snprintf (holder, LOCK_HOLDER_SIZE, "%s%sprocess %.15s", comm,
            comm[0] ? ", " : "", pid);
}

/* Name who holds a lock on the byte; "" if that can't be seen.  We ourselves
 * (through another descriptor, or a fork's copy of it) only if nobody else
 * does.
 */
static void
find_holder (int fd, off_t byte, char holder[LOCK_HOLDER_SIZE])
{
  struct wanted wanted = { .byte = byte };
  struct dirent *d;
  DIR *proc;

  holder[0] = '\0';
  if (fstat (fd, &wanted.st) == -1 || (proc = opendir ("/proc")) == NULL)
    return;
  while ((d = readdir (proc)) != NULL) {
    if (!isdigit ((unsigned char) d->d_name[0]) ||
        !process_holds (dirfd (proc), d->d_name, &wanted))
      continue;
    name_process (dirfd (proc), d->d_name, holder);
    if (atoll (d->d_name) != getpid ())
      break;
  }
  closedir (proc);
}

/* ---- Taking ------------------------------------------------------------ */

static int64_t
now_ms (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Racers that pause equally long would meet again. */
static void
pause_randomly (void)
{
  struct timespec ts = { 0, 0 };
  unsigned random_nr;

  if (getrandom (&random_nr, sizeof random_nr, GRND_NONBLOCK) !=
      sizeof random_nr)
    random_nr = (unsigned) now_ms () ^ (unsigned) getpid ();
  ts.tv_nsec = (PAUSE_MIN_MS +
                random_nr % (PAUSE_MAX_MS - PAUSE_MIN_MS + 1)) * 1000000L;
  nanosleep (&ts, NULL);
}

int
lock_take (int fd, bool writer, char holder[LOCK_HOLDER_SIZE])
{
  return lock_take_as (fd, writer, needs_write_locks (fd), holder);
}

int
lock_take_as (int fd, bool writer, bool write_locks,
              char holder[LOCK_HOLDER_SIZE])
{
  const int64_t deadline = now_ms () + RETRY_MS;
  off_t conflict = 0;
  unsigned tries = 0;
  int r;

  holder[0] = '\0';
  for (;;) {
    r = try_take (fd, writer, write_locks, &conflict);
    if (r == 0)
      return 0;
    lock_drop (fd);
    if (r != -EAGAIN)
      return r;
    if (++tries >= RETRY_MIN && now_ms () >= deadline)
      break;
    pause_randomly ();
  }
  find_holder (fd, conflict, holder);
  return -EAGAIN;
}
