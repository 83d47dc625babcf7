/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The calls that may fail, in two ways: the linker leads the calls of a test
 * program's own objects here (--wrap); or, as a part of a library that is
 * preloaded (FAULT_PRELOAD), these stand before libc's.
 */

#include <config.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fault.h"

#ifdef FAULT_PRELOAD
#define WRAP(call) call
#define REAL(call) \
  ((__typeof__ (&call)) dlsym (RTLD_NEXT, #call))
#else
#define WRAP(call) __wrap_ ## call
#define REAL(call) __real_ ## call

ssize_t REAL (pread) (int fd, void *buf, size_t count, off_t at);
ssize_t WRAP (pread) (int fd, void *buf, size_t count, off_t at);
ssize_t REAL (pwrite) (int fd, const void *buf, size_t count, off_t at);
ssize_t WRAP (pwrite) (int fd, const void *buf, size_t count, off_t at);
ssize_t REAL (pwritev) (int fd, const struct iovec *iov, int n, off_t at);
ssize_t WRAP (pwritev) (int fd, const struct iovec *iov, int n, off_t at);
int REAL (fdatasync) (int fd);
int WRAP (fdatasync) (int fd);
int REAL (fsync) (int fd);
int WRAP (fsync) (int fd);
int REAL (ftruncate) (int fd, off_t length);
int WRAP (ftruncate) (int fd, off_t length);
int REAL (fallocate) (int fd, int mode, off_t at, off_t count);
int WRAP (fallocate) (int fd, int mode, off_t at, off_t count);
off_t REAL (lseek) (int fd, off_t at, int whence);
off_t WRAP (lseek) (int fd, off_t at, int whence);
int REAL (fcntl) (int fd, int command, ...);
int WRAP (fcntl) (int fd, int command, ...);
#endif

static bool
interrupted (void)
{
  if (fault_draw (4) != 1)
    return false;
  errno = EINTR;
  return true;
}

/* How many of these bytes are transferred. */
static size_t
shortened (size_t count)
{
  return count < 2 ? count : count - fault_draw (count);
}

/* ---- System calls ---- */

ssize_t
WRAP (pread) (int fd, void *buf, size_t count, off_t at)
{
  return fault_hits_call (FAULT_READ) || interrupted () ? -1
    : REAL (pread) (fd, buf, shortened (count), at);
}

ssize_t
WRAP (pwrite) (int fd, const void *buf, size_t count, off_t at)
{
  return fault_hits_call (FAULT_WRITE) || interrupted () ? -1
    : REAL (pwrite) (fd, buf, shortened (count), at);
}

/* A short one ends within the first buffer, or with one of them. */
ssize_t
WRAP (pwritev) (int fd, const struct iovec *iov, int n, off_t at)
{
  uint64_t some;

  if (fault_hits_call (FAULT_WRITE) || interrupted ())
    return -1;
  some = fault_draw (3);
  if (some == 1)
    return REAL (pwrite) (fd, iov->iov_base, shortened (iov->iov_len), at);
  return REAL (pwritev) (fd, iov, some == 2 ? 1 : n, at);
}

int
WRAP (fdatasync) (int fd)
{
  return fault_hits_sync (fd) || interrupted () ? -1 : REAL (fdatasync) (fd);
}

int
WRAP (fsync) (int fd)
{
  return fault_hits_sync (fd) ? -1 : REAL (fsync) (fd);
}

int
WRAP (ftruncate) (int fd, off_t length)
{
  return fault_hits_call (FAULT_RESIZE) || interrupted () ? -1
    : REAL (ftruncate) (fd, length);
}

int
WRAP (fallocate) (int fd, int mode, off_t at, off_t count)
{
  return fault_hits_call (FAULT_PUNCH) || interrupted () ? -1
    : REAL (fallocate) (fd, mode, at, count);
}

off_t
WRAP (lseek) (int fd, off_t at, int whence)
{
  return (whence == SEEK_DATA || whence == SEEK_HOLE) &&
    fault_hits_call (FAULT_SEEK) ? -1 : REAL (lseek) (fd, at, whence);
}

/* Other commands are none of ours; their argument fits into a pointer. */
int
WRAP (fcntl) (int fd, int command, ...)
{
  void *argument;
  va_list ap;

  va_start (ap, command);
  argument = va_arg (ap, void *);
  va_end (ap);
  if ((command == F_OFD_SETLK || command == F_OFD_GETLK) &&
      (fault_hits_call (FAULT_LOCK) || interrupted ()))
    return -1;
  return REAL (fcntl) (fd, command, argument);
}

#ifndef FAULT_PRELOAD

ssize_t REAL (read) (int fd, void *buf, size_t count);
ssize_t WRAP (read) (int fd, void *buf, size_t count);
int REAL (unlink) (const char *path);
int WRAP (unlink) (const char *path);
int REAL (unlinkat) (int dir, const char *path, int flags);
int WRAP (unlinkat) (int dir, const char *path, int flags);
int REAL (posix_fallocate) (int fd, off_t at, off_t count);
int WRAP (posix_fallocate) (int fd, off_t at, off_t count);
void *REAL (mmap) (void *at, size_t size, int protection, int flags, int fd,
                   off_t offset);
void *WRAP (mmap) (void *at, size_t size, int protection, int flags, int fd,
                   off_t offset);
FILE *REAL (fopen) (const char *path, const char *mode);
FILE *WRAP (fopen) (const char *path, const char *mode);
int REAL (open) (const char *path, int flags, ...);
int WRAP (open) (const char *path, int flags, ...);
int REAL (openat) (int dir, const char *path, int flags, ...);
int WRAP (openat) (int dir, const char *path, int flags, ...);
int REAL (pthread_create) (pthread_t *thread, const pthread_attr_t *attr,
                           void *(*run) (void *), void *arg);
int WRAP (pthread_create) (pthread_t *thread, const pthread_attr_t *attr,
                           void *(*run) (void *), void *arg);

/* Only files on tmpfs are read so, where nothing interrupts. */
ssize_t
WRAP (read) (int fd, void *buf, size_t count)
{
  return fault_hits_call (FAULT_READ) ? -1
    : REAL (read) (fd, buf, shortened (count));
}

int
WRAP (unlink) (const char *path)
{
  return fault_hits_call (FAULT_UNLINK) ? -1 : REAL (unlink) (path);
}

int
WRAP (unlinkat) (int dir, const char *path, int flags)
{
  return fault_hits_call (FAULT_UNLINK) ? -1
    : REAL (unlinkat) (dir, path, flags);
}

int
WRAP (posix_fallocate) (int fd, off_t at, off_t count)
{
  return fault_hits_call (FAULT_SPACE) || interrupted () ? errno
    : REAL (posix_fallocate) (fd, at, count);
}

void *
WRAP (mmap) (void *at, size_t size, int protection, int flags, int fd,
             off_t offset)
{
  return fault_hits_call (FAULT_MAP) ? MAP_FAILED
    : REAL (mmap) (at, size, protection, flags, fd, offset);
}

FILE *
WRAP (fopen) (const char *path, const char *mode)
{
  return fault_hits_call (FAULT_OPEN) ? NULL : REAL (fopen) (path, mode);
}

int
WRAP (open) (const char *path, int flags, ...)
{
  mode_t mode;
  va_list ap;

  va_start (ap, flags);
  mode = flags & O_CREAT ? va_arg (ap, mode_t) : 0;
  va_end (ap);
  return fault_hits_call (FAULT_OPEN) ? -1 : REAL (open) (path, flags, mode);
}

int
WRAP (openat) (int dir, const char *path, int flags, ...)
{
  mode_t mode;
  va_list ap;

  va_start (ap, flags);
  mode = flags & O_CREAT ? va_arg (ap, mode_t) : 0;
  va_end (ap);
  return fault_hits_call (FAULT_OPEN) ? -1
    : REAL (openat) (dir, path, flags, mode);
}

int
WRAP (pthread_create) (pthread_t *thread, const pthread_attr_t *attr,
                       void *(*run) (void *), void *arg)
{
  return fault_hits_call (FAULT_THREAD) ? errno
    : REAL (pthread_create) (thread, attr, run, arg);
}

/* ---- Allocations ---- */

void *REAL (malloc) (size_t size);
void *WRAP (malloc) (size_t size);
void *REAL (calloc) (size_t n, size_t size);
void *WRAP (calloc) (size_t n, size_t size);
void *REAL (realloc) (void *p, size_t size);
void *WRAP (realloc) (void *p, size_t size);
void *REAL (aligned_alloc) (size_t alignment, size_t size);
void *WRAP (aligned_alloc) (size_t alignment, size_t size);
char *REAL (strdup) (const char *s);
char *WRAP (strdup) (const char *s);
int WRAP (asprintf) (char **text, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));
int REAL (vasprintf) (char **text, const char *format, va_list ap);
int WRAP (vasprintf) (char **text, const char *format, va_list ap)
  __attribute__ ((format (printf, 2, 0)));

void *
WRAP (malloc) (size_t size)
{
  return fault_hits_call (FAULT_ALLOC) ? NULL : REAL (malloc) (size);
}

void *
WRAP (calloc) (size_t n, size_t size)
{
  return fault_hits_call (FAULT_ALLOC) ? NULL : REAL (calloc) (n, size);
}

void *
WRAP (realloc) (void *p, size_t size)
{
  return fault_hits_call (FAULT_ALLOC) ? NULL : REAL (realloc) (p, size);
}

void *
WRAP (aligned_alloc) (size_t alignment, size_t size)
{
  return fault_hits_call (FAULT_ALLOC) ? NULL
    : REAL (aligned_alloc) (alignment, size);
}

char *
WRAP (strdup) (const char *s)
{
  return fault_hits_call (FAULT_ALLOC) ? NULL : REAL (strdup) (s);
}

int
WRAP (asprintf) (char **text, const char *format, ...)
{
  va_list ap;
  int r;

  if (fault_hits_call (FAULT_ALLOC))
    return -1;
  va_start (ap, format);
  r = REAL (vasprintf) (text, format, ap);
  va_end (ap);
  return r;
}

int
WRAP (vasprintf) (char **text, const char *format, va_list ap)
{
  return fault_hits_call (FAULT_LOG) ? -1 : REAL (vasprintf) (text, format, ap);
}

#endif /* FAULT_PRELOAD */
