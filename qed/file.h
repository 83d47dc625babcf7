/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Opening what may hold an image: regular files and block devices, and
 * nothing else.  A FIFO would block, a character device may do anything when
 * it is opened, and a directory holds no image.  Any thread.
 */

#ifndef QED_FILE_H
#define QED_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

struct file_facts {
  bool block_device;
  uint64_t size;                /* the length of the file or device */
  uint64_t disk_size;           /* what a file takes on its file system */
};

/* Open an existing file of any type without blocking.  If 'beneath' is not
 * NULL the path must begin with that directory, and wherever symlinks on the
 * way lead, it must be inside: else -EXDEV.  Returns a file descriptor
 * or a negative errno, without a message.
 */
int file_open_beneath (const char *path, const char *beneath, int flags);

/* Open what may hold an image; 'flags' are O_RDONLY or O_RDWR.  A block device
 * that is opened for writing must not be in use (mounted).  Returns a file
 * descriptor, or a negative errno: then the message names the path.
 */
int file_open (const char *path, const char *beneath, int flags,
               const struct qed_log *log, struct file_facts *facts);

/* pread and pwrite of everything, or a negative errno.  A read beyond the end
 * is an error (-EIO): the caller knows the size.
 */
int file_read (int fd, void *buf, size_t count, uint64_t offset);
int file_write (int fd, const void *buf, size_t count, uint64_t offset);

/* fdatasync, fsync and ftruncate: 0 or a negative errno.  EINTR is retried: it
 * is no verdict on the data; any other error is.
 */
int file_sync_data (int fd);
int file_sync_all (int fd);
int file_set_length (int fd, uint64_t length);

/* Make the name of a file durable, which was just created: likewise. */
int file_sync_directory (const char *path);

#endif /* QED_FILE_H */
