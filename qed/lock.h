/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* File locks that QEMU respects and that respect QEMU's.
 *
 * Open-file-description read locks of one byte: 100 + n says "I use
 * permission n", 200 + n "I do not share permission n", with n 0 for
 * consistent-read, 1 write, 2 write-unchanged, 3 resize (byte 0 is
 * libvirt's).  A writer holds 100, 101, 103, 201, 203; a reader 100, 201,
 * 203.  First the locks are set, then it is tested whether anyone else holds
 * what contradicts them; on conflict they are let go.  Of two racers both may
 * fail, never both win; so a loser tries again, for a second, with random
 * pauses.  The locks survive a fork and die with the last copy of the
 * descriptor.  Any thread.
 */

#ifndef QED_LOCK_H
#define QED_LOCK_H

#include <stdbool.h>
#include <stddef.h>

#define LOCK_HOLDER_SIZE 128

/* Take the locks of a writer or a reader on 'fd', retrying for a second.
 * Returns 0; -EAGAIN when another process holds what contradicts them, with
 * 'holder' naming it ("qemu-nbd, process 1234") where the "lock:" lines of
 * /proc/PID/fdinfo tell, else ""; another negative errno where the file
 * system has no such locks.
 */
int lock_take (int fd, bool writer, char holder[LOCK_HOLDER_SIZE]);

/* lock_take says by itself whether a writer sets write locks, but on byte 100,
 * in place of read locks: on NFS.
 */
int lock_take_as (int fd, bool writer, bool write_locks,
                  char holder[LOCK_HOLDER_SIZE]);

/* Whether lock_take would succeed just now: 0, -EAGAIN or another negative
 * errno.  Nothing is set, so that those who watch a lock are in nobody's way.
 */
int lock_test (int fd, bool writer);

/* Drop all locks that lock_take set, explicitly: other processes may hold
 * copies of the descriptor.
 */
void lock_drop (int fd);

#endif /* QED_LOCK_H */
