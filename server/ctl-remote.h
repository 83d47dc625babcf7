/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl: commands to a server that runs, through one of its doors
 * (docs/qed-control.pod).  What fails has written one message that says
 * what to do.
 */

#ifndef QED_CTL_REMOTE_H
#define QED_CTL_REMOTE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "ctl.h"

/* ---- A connection ------------------------------------------------------ */

/* What ctl_remote_ops.receive returns beside REMOTE_LOST. */
#define REMOTE_LOST -1          /* a message was written */
#define REMOTE_NOTHING 0        /* for some 100 ms */
#define REMOTE_EVENT 1
#define REMOTE_REPLY 2

struct ctl_remote {
  const struct ctl_remote_ops *ops;
  char *name;                   /* of the door: a path, or a URI */
};

struct ctl_remote_ops {
  /* Send a request, and wait for what comes: *text is to be freed. */
  bool (*send) (struct ctl_remote *remote, const char *text, size_t length);
  int (*receive) (struct ctl_remote *remote, char **text, size_t *length);
  /* Another connection through the same door. */
  struct ctl_remote *(*again) (const struct ctl_remote *remote);
  void (*close) (struct ctl_remote *remote);
};

/* Connect.  If 'quiet' is not NULL and nobody serves this socket, or it is
 * not there, *quiet is set and there is no message.
 */
struct ctl_remote *ctl_remote_socket (const char *path, bool *quiet);

/* Connect to the control export of an NBD server.  *image is the export that
 * the URI names, to be freed.  If 'other' is not NULL and the server is
 * another one than ours, *other is set and there is no message; nothing was
 * written to it.
 */
struct ctl_remote *ctl_remote_nbd (const char *uri, char **image,
                                   bool *other);

void ctl_remote_close (struct ctl_remote *remote);

/* ---- Commands ---------------------------------------------------------- */

/* A request, to be completed by the caller: "command" and, unless it is NULL,
 * "image".
 */
json_t *ctl_request (const char *command, const char *image);

/* Send a request, which is taken over, and wait for its reply; NULL if there
 * is none.  'progress' may be NULL; it is told also when there is nothing new,
 * with a total of 0 before the first event.  If it wants the end, the check
 * that the request has started is canceled; of any other request the reply is
 * not waited for, and the connection is of no more use.
 */
json_t *ctl_remote_call (struct ctl_remote *remote, json_t *request,
                         const struct qed_progress *progress);

/* The same for a reply that tells of success: any other is told in words,
 * and NULL returned.
 */
json_t *ctl_remote_ask (struct ctl_remote *remote, json_t *request,
                        const struct qed_progress *progress);

/* The words for a reply that tells of a failure. */
void ctl_remote_tell_error (const struct ctl_remote *remote,
                            const json_t *reply);

/* Members of objects: what isn't there, or isn't of that type, is "", 0,
 * false.
 */
const char *ctl_json_string (const json_t *object, const char *key);
uint64_t ctl_json_number (const json_t *object, const char *key);
bool ctl_json_bool (const json_t *object, const char *key);

/* ---- ctl-status-words.c ------------------------------------------------ */

/* Lines of a status: health, requests, cache; requests alone; and what is
 * allocated.
 */
void ctl_report_watch (struct ctl_report *report, const json_t *image);
void ctl_report_requests (struct ctl_report *report, const json_t *image);
void ctl_report_allocation (struct ctl_report *report, const json_t *image);

/* ---- ctl-door.c: which server is meant --------------------------------- */

/* Who serves an image. */
struct ctl_door {
  struct ctl_remote *remote;
  char *image;                  /* its name there; NULL: the only one */
};

bool ctl_is_uri (const char *target);

/* The server on this host that holds a file, found by its device and inode;
 * 'now': not one that would, but waits or has released it.  False, with
 * door->remote NULL, if there is none.  One that doesn't answer is worth a
 * message; *failed says so.
 */
bool ctl_door_find (const char *file, bool now, struct ctl_door *door,
                    bool *failed);

/* What a command line says: --control SOCKET, with IMAGE if the command takes
 * one; or a URI, or a file.
 */
bool ctl_door_open (const struct ctl_command *command, const char *control,
                    bool takes_image, int argc, char **argv,
                    struct ctl_door *door);
void ctl_door_close (struct ctl_door *door);

/* The command line of a command to a server, and the server: --help, --control
 * and --json, and 'more' options, ended by one without a name, which 'take' is
 * given; it returns false, with a message, if it doesn't like one.  Both may be
 * NULL.  False with the exit status.
 */
struct ctl_door_line {
  const struct option *more;    /* values from CTL_OPT_DOOR_MORE on */
  bool (*take) (void *opaque, int option, const char *value);
  void *opaque;
  bool takes_image;
  bool json;                    /* the result */
  struct ctl_door door;         /* the result */
};
#define CTL_OPT_DOOR_MORE (CTL_OPT_FIRST + 16)
bool ctl_door_parse (const struct ctl_command *command, int argc, char **argv,
                     struct ctl_door_line *line, int *status);

#endif /* QED_CTL_REMOTE_H */
