/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The admin door: commands for a server that runs.
 *
 * This is the dispatcher, which knows JSON and the images.  The doors bring
 * requests and carry replies: a Unix socket (control-socket.c), and an NBD
 * export (control-export.c).  docs/qed-control.pod says what a request
 * and a reply look like.
 *
 * Each request is carried out on a thread of its own, so no door is blocked by
 * one that takes long.  A door gives one client one request at a time and
 * bounds the number of clients, and thereby of threads.
 */

#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include <stddef.h>

/* Bytes.  A longer request is the door's to refuse; no reply is longer. */
#define CONTROL_REQUEST_MAX ((size_t) 64 << 10)
#define CONTROL_REPLY_MAX ((size_t) 2 << 20)

enum control_rights {
  CONTROL_CHECK,                /* look, and check without repair */
  CONTROL_ADMIN,                /* everything */
};

/* Someone at a door, whose it is; it lives until its reply. */
struct control_client {
  enum control_rights rights;
  char who[80];                 /* for messages: "uid 0, process 1234" */

  /* Progress, one JSON object without a newline, to be copied; it may be
   * dropped.  Any thread, and only before the reply.
   */
  void (*event) (struct control_client *client, const char *text,
                 size_t length);

  /* The reply, likewise; the text is the door's, to be freed.  Exactly once a
   * request, and the last that is done with the client; any thread, perhaps
   * within control_submit.  NULL if memory ran out.
   */
  void (*reply) (struct control_client *client, char *text, size_t length);
};

/* Carry out a request, of at most CONTROL_REQUEST_MAX bytes, which are copied.
 * Any thread; doesn't wait.
 */
void control_submit (struct control_client *client, const char *text,
                     size_t length);

/* The reply to what never becomes a request, to be freed; NULL if memory runs
 * out.
 */
char *control_refusal (const char *code, const char *message);

/* Cancel what runs, wait until all has ended, and refuse what comes.  Before
 * the images are closed; doors may close before or after.
 */
void control_stop (void);

/* ---- control-socket.c -------------------------------------------------- */

/* Bind the socket of control=, if there is one; what is wrong with it fails
 * nbdkit here.  Before the fork.
 */
int control_socket_bind (void);

/* Serve it, after the fork; close it and remove the file. */
int control_socket_start (void);
void control_socket_stop (void);

#endif /* SERVER_CONTROL_H */
