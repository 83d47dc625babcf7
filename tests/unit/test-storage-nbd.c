/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An export as storage, without a network: which exports are taken, what
 * becomes of requests and changes when the connection comes, goes, or brings
 * another export, and for how long they wait.  The connection (nbd-link.h),
 * the commands (nbd-flight.h), the loop and its clock are the test's own.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storage-nbd.h"

#define SIZE (UINT64_C (256) << 20)
#define MIB (UINT64_C (1) << 20)

/* ---- The loop ---------------------------------------------------------- */

static double clock_now;
static bool timer_runs;

double __wrap_loop_now (void);
double
__wrap_loop_now (void)
{
  return clock_now;
}

/* At once, so that all is one thread. */
void __wrap_loop_post (struct loop *loop, struct loop_task *task);
void
__wrap_loop_post (struct loop *loop, struct loop_task *task)
{
  (void) loop;
  task->run (task);
}

static int timer_error;

int __wrap_loop_timer_init (struct loop *loop, struct loop_timer *timer,
                            void (*run) (struct loop_timer *timer));
int
__wrap_loop_timer_init (struct loop *loop, struct loop_timer *timer,
                        void (*run) (struct loop_timer *timer))
{
  (void) loop;
  timer->run = run;
  return timer_error;
}

void __wrap_loop_timer_start (struct loop *loop, struct loop_timer *timer,
                              double seconds);
void
__wrap_loop_timer_start (struct loop *loop, struct loop_timer *timer,
                         double seconds)
{
  (void) loop;
  (void) timer;
  assert_true (seconds > 0);
  timer_runs = true;
}

void __wrap_loop_timer_stop (struct loop *loop, struct loop_timer *timer);
void
__wrap_loop_timer_stop (struct loop *loop, struct loop_timer *timer)
{
  (void) loop;
  (void) timer;
  timer_runs = false;
}

bool __wrap_loop_timer_active (const struct loop_timer *timer);
bool
__wrap_loop_timer_active (const struct loop_timer *timer)
{
  (void) timer;
  return timer_runs;
}

void __wrap_loop_timer_destroy (struct loop *loop, struct loop_timer *timer);
void
__wrap_loop_timer_destroy (struct loop *loop, struct loop_timer *timer)
{
  (void) loop;
  (void) timer;
  assert_false (timer_runs);
}

/* ---- Memory ------------------------------------------------------------ */

/* So many allocations of the engine pass, then one fails. */
static unsigned allocations = UINT32_MAX;

static bool
fails (void)
{
  return allocations != UINT32_MAX && allocations-- == 0;
}

void *__real_calloc (size_t n, size_t size);
void *__wrap_calloc (size_t n, size_t size);
void *
__wrap_calloc (size_t n, size_t size)
{
  return fails () ? NULL : __real_calloc (n, size);
}

char *__real_strdup (const char *string);
char *__wrap_strdup (const char *string);
char *
__wrap_strdup (const char *string)
{
  return fails () ? NULL : __real_strdup (string);
}

int __wrap_asprintf (char **p, const char *format, ...);
int
__wrap_asprintf (char **p, const char *format, ...)
{
  va_list ap;
  int r;

  if (fails ())
    return -1;
  va_start (ap, format);
  r = vasprintf (p, format, ap);
  va_end (ap);
  return r;
}

/* ---- The commands ------------------------------------------------------ */

#define SENT_MAX 200u

static struct nbd_flight *flight_of_sent;
static struct fetch *sent[SENT_MAX];    /* not answered, in order */
static unsigned sent_count;
static bool answers;                    /* the server does, at once */
static int answer_error;                /* with this */
static bool full;

void
nbd_flight_init (struct nbd_flight *flight)
{
  memset (flight, 0, sizeof *flight);
  fetch_list_init (&flight->ended);
}

bool
nbd_flight_has_room (const struct nbd_flight *flight,
                     const struct fetch *fetch)
{
  (void) flight;
  (void) fetch;
  return !full;
}

static void
end_sent (unsigned n, int error)
{
  struct fetch *fetch = sent[n];

  assert_in_range (n, 0, sent_count - 1);
  memmove (sent + n, sent + n + 1, (--sent_count - n) * sizeof *sent);
  fetch->error = error;
  if (fetch->op == FETCH_READ && error == 0) {
    fetch->data = fetch->buf = malloc (fetch->count);
    assert_non_null (fetch->buf);
    memset (fetch->buf, 'r', fetch->count);
  }
  fetch_list_append (&flight_of_sent->ended, fetch);
}

void
nbd_flight_send (struct nbd_flight *flight, struct nbd_link *link,
                 struct fetch *fetch)
{
  assert_non_null (link->nbd);
  assert_in_range (sent_count, 0, SENT_MAX - 1);
  flight_of_sent = flight;
  sent[sent_count++] = fetch;
  if (answers)
    end_sent (sent_count - 1, answer_error);
}

struct fetch *
nbd_flight_next_ended (struct nbd_flight *flight)
{
  return fetch_list_take_first (&flight->ended);
}

/* The connection takes them with it. */
static void
lose_sent (void)
{
  while (sent_count > 0)
    end_sent (0, -ENOTCONN);
}

/* ---- The connection ---------------------------------------------------- */

static struct nbd_export server;
static int connect_error, wait_error, init_error;
static bool worker_is_out;

int
nbd_link_connect_plainly (struct nbd_link *link)
{
  snprintf (link->error, sizeof link->error, "no way");
  if (connect_error)
    return connect_error;
  link->nbd = (struct nbd_handle *) &server;
  link->export = server;
  return 0;
}

int
nbd_link_wait_plainly (struct nbd_link *link)
{
  snprintf (link->error, sizeof link->error, "no answer");
  if (wait_error == 0)
    end_sent (0, answer_error);
  return wait_error;
}

void
nbd_link_disconnect_plainly (struct nbd_link *link)
{
  if (link->nbd)
    lose_sent ();
  link->nbd = NULL;
}

int
nbd_link_init (struct nbd_link *link)
{
  link->state = NBD_LINK_GREETING;
  return init_error;
}

void
nbd_link_drop (struct nbd_link *link, const char *why)
{
  snprintf (link->error, sizeof link->error, "%s", why);
  link->drop = true;
}

bool
nbd_link_is_alive (const struct nbd_link *link)
{
  return link->nbd && !link->drop;
}

bool
nbd_link_stop (struct nbd_link *link)
{
  if (worker_is_out)
    return false;
  if (link->nbd)
    lose_sent ();
  link->nbd = NULL;
  link->state = NBD_LINK_STOPPED;
  return true;
}

void
nbd_link_destroy (struct nbd_link *link)
{
  (void) link;
}

/* ---- The storage ------------------------------------------------------- */

static struct storage *storage;
static struct storage_nbd *s;
static char said[1024];
static unsigned warnings, errors;

static void
keep_message (void *opaque, enum qed_log_level level, const char *message)
{
  (void) opaque;
  snprintf (said, sizeof said, "%s", message);
  if (level == QED_LOG_ERROR)
    errors++;
  else
    warnings++;
}

static const struct qed_log say = { .fn = keep_message };

static void
expect_said (const char *what)
{
  if (strstr (said, what) == NULL)
    fail_msg ("it said: %s", said);
  said[0] = '\0';
}

static int
setup (void **state)
{
  (void) state;
  storage = NULL;
  s = NULL;
  clock_now = 1000;
  timer_runs = answers = full = worker_is_out = false;
  timer_error = answer_error = connect_error = wait_error = init_error = 0;
  sent_count = warnings = errors = 0;
  said[0] = '\0';
  server = (struct nbd_export) {
    .size = SIZE, .minimum = 512, .maximum = 32 * MIB, .has_extents = true,
    .can_flush = true, .can_zero = true,
  };
  return 0;
}

static int
open_storage (unsigned flags)
{
  int r = storage_nbd_open ("nbd://there/", NULL, flags, &say, &storage);

  s = (struct storage_nbd *) storage;
  return r;
}

static unsigned stopped_calls;

static void
was_stopped (void *opaque)
{
  (void) opaque;
  stopped_calls++;
}

static void
open_and_start (unsigned flags)
{
  assert_int_equal (open_storage (flags), 0);
  assert_int_equal (storage->ops->start (storage, (struct loop *) &server,
                                         was_stopped, NULL), 0);
}

static void
go_up (void)
{
  s->link.nbd = (struct nbd_handle *) &server;
  s->link.export = server;
  s->link.drop = false;
  assert_true (s->link.up (&s->link));
  s->link.state = NBD_LINK_UP;
  s->link.turn (&s->link);
}

static void
turn (void)
{
  s->link.turn (&s->link);
}

static void
go_down (void)
{
  bool was_up = s->link.state == NBD_LINK_UP;

  lose_sent ();
  s->link.nbd = NULL;
  s->link.state = NBD_LINK_PAUSE;
  s->link.down (&s->link, was_up);
}

static int
teardown (void **state)
{
  (void) state;
  if (storage) {
    if (s->loop)
      assert_true (storage->ops->stop (storage));
    storage->ops->close (storage);
  }
  assert_int_equal (sent_count, 0);
  return 0;
}

/* ---- Fetches ----------------------------------------------------------- */

/* One that is looked at after its end. */
static struct fetch *
submit (enum fetch_op op, uint64_t offset, uint64_t count)
{
  struct fetch *fetch = fetch_new (op, offset, count);

  assert_non_null (fetch);
  atomic_store (&fetch->holders, 2);
  if (op == FETCH_WRITE) {
    fetch->buf = calloc (1, count);
    assert_non_null (fetch->buf);
  }
  storage->ops->submit (storage, fetch);
  return fetch;
}

static bool
has_ended (const struct fetch *fetch)
{
  return atomic_load (&((struct fetch *) fetch)->ended);
}

static void
withdraw (struct fetch *fetch)
{
  struct qed_request request = { .fetch = fetch };

  fetch_drop (&request);
}

static void
expect_end (struct fetch *fetch, int error)
{
  assert_true (has_ended (fetch));
  assert_int_equal (fetch->error, error);
  withdraw (fetch);
}

static int loops_result;

static void
loops_ended (struct fetch *fetch)
{
  loops_result = fetch->error;
}

/* ---- Opening ----------------------------------------------------------- */

static void
test_open (void **state)
{
  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->read_only);
  assert_int_equal (storage->block, 512);
  assert_true (storage->holes_known);
  assert_null (s->link.nbd);    /* a fork may follow */
  assert_int_equal (storage->ops->resize (storage, SIZE), 0);
  assert_int_equal (storage->ops->resize (storage, SIZE + 1), -EOPNOTSUPP);
  assert_true (storage->ops->stop (storage));   /* it wasn't started */
}

static void
test_holes_unknown (void **state)
{
  (void) state;
  server.has_extents = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->holes_known);
  storage->ops->close (storage);
  server.has_extents = true;
  server.can_zero = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_false (storage->holes_known);
}

static void
test_not_writable (void **state)
{
  (void) state;
  server.read_only = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EROFS);
  expect_said ("exported read-only");
  server.read_only = false;
  server.can_flush = false;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EOPNOTSUPP);
  expect_said ("no flush");
  server.can_flush = true;
  server.minimum = 2 * STORAGE_BLOCK_MAX;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), -EOPNOTSUPP);
  expect_said ("blocks of 8192 bytes");
  server.read_only = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE | STORAGE_NBD_MAY_READ),
                    0);
  expect_said ("and served so");
  assert_true (storage->read_only);
  storage->ops->close (storage);
  storage = NULL;
  assert_int_equal (open_storage (0), 0);
}

static void
test_unreachable (void **state)
{
  struct storage *none;

  (void) state;
  connect_error = -ECONNREFUSED;
  assert_int_equal (open_storage (0), -ECONNREFUSED);
  expect_said ("nbd://there/: cannot connect: no way");
  assert_int_equal (storage_nbd_open ("nbd://there/", "above.qed", 0, &say,
                                      &none), -ECONNREFUSED);
  expect_said ("above.qed: cannot connect to the backing file nbd://there/");
}

static void
test_no_memory (void **state)
{
  struct storage *none;
  int i;

  (void) state;
  for (i = 0; i < 3; i++) {
    allocations = i;
    assert_int_equal (storage_nbd_open ("nbd://there/", i == 1 ? "above" : NULL,
                                        0, &say, &none), -ENOMEM);
    expect_said (i == 1 ? "above: out of memory" : "nbd://there/: out of mem");
  }
  allocations = UINT32_MAX;
}

/* ---- What for ---------------------------------------------------------- */

static int
open_as (const struct qed_options *how)
{
  int r = storage_open (how, &storage);

  s = (struct storage_nbd *) storage;
  if (r == 0) {
    storage->ops->close (storage);
    storage = NULL;
  }
  return r;
}

/* An export is an image's file only where that is meant, and a guest's disk is
 * none.
 */
static void
test_purposes (void **state)
{
  struct qed_options how;

  (void) state;
  qed_options_init (&how);
  how.path = "nbd://there/";
  how.log = say;
  assert_int_equal (open_as (&how), -EOPNOTSUPP);
  expect_said ("can be checked, repaired and served from here");
  how.examine = true;
  assert_int_equal (open_as (&how), -EINVAL);
  expect_said ("without --raw-image");
  how.read_only = true;
  assert_int_equal (open_as (&how), 0);
  server.guest_disk = true;
  assert_int_equal (open_as (&how), -EINVAL);
  expect_said ("its content is the guest's");
  how.raw_image = true;
  assert_int_equal (open_as (&how), 0);
  server.guest_disk = how.read_only = false;
  assert_int_equal (open_as (&how), 0);
  expect_said ("has no locks");
  server.read_only = true;
  assert_int_equal (open_as (&how), -EROFS);
  how.examine = how.raw_image = false;
  how.remote = true;
  assert_int_equal (open_as (&how), 0); /* to be served, read-only */
  how.need_write = true;
  assert_int_equal (open_as (&how), -EROFS);
  connect_error = -ECONNREFUSED;
  assert_int_equal (open_as (&how), -ECONNREFUSED);
}

static void
expect_advice (const char *uri, int error, const char *message,
               const char *advice)
{
  const char *said_now = storage_nbd_advice (uri, error, message);

  if (advice == NULL)
    assert_string_equal (said_now, "");
  else
    assert_non_null (strstr (said_now, advice));
}

static void
test_advice (void **state)
{
  (void) state;
  expect_advice ("nbd://h/", -ECONNREFUSED, "", "listens there");
  expect_advice ("nbd://h/", -ETIMEDOUT, "", "no firewall");
  expect_advice ("nbd://h/", -ENOENT, "", "which exports");
  expect_advice ("nbd://h/", -ENOTSUP, "", "use nbds://");
  expect_advice ("nbds://h/", -ENOTSUP, "", "use nbd://");
  expect_advice ("nbds://h/", -EIO, "gnutls: tls alert", "knows the key");
  expect_advice ("nbds://h/", -EIO, "other", NULL);
  expect_advice ("nbd://h/", -EIO, "gnutls: tls alert", NULL);
}

/* A new image on an export overwrites it. */
static void
test_create (void **state)
{
  struct qed_create_options create;

  (void) state;
  answers = true;
  qed_create_options_init (&create);
  create.path = "nbd://there/";
  create.size = 100 * MIB;
  create.log = say;
  assert_int_equal (qed_create (&create), -EEXIST);
  expect_said ("with --force");
  create.force = true;
  create.backing = "base";
  create.backing_raw = true;
  assert_int_equal (qed_create (&create), -EINVAL);
  expect_said ("can't have a backing file");
  create.backing = NULL;
  create.backing_raw = false;
  connect_error = -ECONNREFUSED;
  assert_int_equal (qed_create (&create), -ECONNREFUSED);
  connect_error = 0;
  server.guest_disk = true;
  assert_int_equal (qed_create (&create), -EINVAL);
  expect_said ("nothing is written to it");
  server.guest_disk = false;
  server.size = 65536;
  assert_int_equal (qed_create (&create), -ENOSPC);
  expect_said ("an empty image of this geometry takes");
  server.size = SIZE;
  answer_error = -ENOSPC;
  assert_int_equal (qed_create (&create), -ENOSPC);
  answer_error = 0;
  assert_int_equal (qed_create (&create), 0);
}

static void
test_info (void **state)
{
  struct qed_info info;

  (void) state;
  answers = true;
  assert_int_equal (qed_info_read ("nbd://there/", &say, &info), -EINVAL);
  expect_said ("not a QED image");
  connect_error = -ECONNREFUSED;
  assert_int_equal (qed_info_read ("nbd://there/", &say, &info),
                    -ECONNREFUSED);
}

/* ---- Before there is a loop -------------------------------------------- */

static void
test_plain_calls (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), 0);
  assert_int_equal (buf[0], 'r');
  answers = true;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  assert_true (s->unflushed);
  assert_int_equal (storage->ops->sync (storage), 0);
  assert_false (s->unflushed);
  assert_int_equal (errors, 0);
}

/* What was not flushed went with the connection. */
static void
test_plain_loss (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  wait_error = -ETIMEDOUT;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said ("no answer");
  answers = true;
  assert_int_equal (storage->ops->sync (storage), 0);
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  answers = false;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  answers = true;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), 0);
  assert_int_equal (storage->ops->sync (storage), -EIO);
  assert_int_equal (storage->ops->sync (storage), -EIO);
}

static void
test_plain_errors (void **state)
{
  unsigned char buf[512];

  (void) state;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  answers = true;
  answer_error = -ENOSPC;
  assert_int_equal (storage->ops->pwrite (storage, buf, 512, 0), -ENOSPC);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  answer_error = -EPERM;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EPERM);
  answer_error = -EIO;
  assert_int_equal (storage->ops->sync (storage), -EIO);
  assert_int_equal (storage->ops->sync (storage), -EIO);
  answer_error = 0;
  assert_int_equal (storage->ops->sync (storage), -EIO);        /* for good */
  nbd_link_disconnect_plainly (&s->link);
  connect_error = -ECONNREFUSED;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said ("no way");
}

static void
expect_other_export (const char *why)
{
  unsigned char buf[512];

  nbd_link_disconnect_plainly (&s->link);
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), -EIO);
  expect_said (why);
  assert_null (s->link.nbd);
}

static void
test_plain_other_export (void **state)
{
  unsigned char buf[512];

  (void) state;
  answers = true;
  assert_int_equal (open_storage (STORAGE_NBD_WRITE), 0);
  server.size = 512;
  expect_other_export ("it has 512 bytes now");
  server.size = SIZE;
  server.guest_disk = true;
  expect_other_export ("another kind of server");
  server.guest_disk = false;
  server.read_only = true;
  expect_other_export ("can't be written to as before");
  server.read_only = false;
  server.can_flush = false;
  expect_other_export ("can't be written to as before");
  server.can_flush = true;
  server.minimum = 1024;
  expect_other_export ("can't be written to as before");
  server.minimum = 1;
  assert_int_equal (storage->ops->pread (storage, buf, 512, 0), 0);
}

/* ---- On a loop --------------------------------------------------------- */

static void
test_start_fails (void **state)
{
  (void) state;
  assert_int_equal (open_storage (0), 0);
  timer_error = -ENOMEM;
  assert_int_equal (storage->ops->start (storage, (struct loop *) &server,
                                         was_stopped, NULL), -ENOMEM);
  timer_error = 0;
  init_error = -ENOMEM;
  assert_int_equal (storage->ops->start (storage, (struct loop *) &server,
                                         was_stopped, NULL), -ENOMEM);
  assert_null (s->loop);
}

/* What is asked before there is a connection waits for it, in order. */
static void
test_wait_for_connection (void **state)
{
  struct fetch *one, *two, *gone;

  (void) state;
  open_and_start (0);
  one = submit (FETCH_READ, 0, 512);
  gone = submit (FETCH_READ, 512, 512);
  two = submit (FETCH_READ, 1024, 512);
  assert_true (timer_runs);
  withdraw (gone);
  go_up ();
  assert_false (timer_runs);
  assert_int_equal (sent_count, 2);
  assert_ptr_equal (sent[0], one);
  end_sent (1, 0);
  turn ();
  expect_end (two, 0);
  assert_false (has_ended (one));
  end_sent (0, -ENOSPC);        /* what reads don't know */
  turn ();
  expect_end (one, -EIO);
}

static void
test_patience (void **state)
{
  struct fetch *read, *flush, *loops, *late, *cache;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_down ();
  expect_said ("cannot be connected to");
  read = submit (FETCH_READ, 0, 512);
  flush = submit (FETCH_FLUSH, 0, 0);
  loops = submit (FETCH_READ, 0, 512);
  loops->done = loops_ended;
  cache = submit (FETCH_CACHE, 0, 512);
  expect_end (cache, 0);        /* nobody waits for it */
  clock_now += 20;
  s->tick.run (&s->tick);
  assert_false (has_ended (read));
  late = submit (FETCH_READ, 0, 512);
  clock_now += 11;
  s->tick.run (&s->tick);
  expect_said ("what has waited long enough fails");
  expect_end (read, -EIO);
  expect_end (flush, -ENOTCONN);
  expect_end (loops, -ENOTCONN);
  assert_int_equal (loops_result, -ENOTCONN);
  assert_false (has_ended (late));
  errors = 0;
  clock_now += 30;
  s->tick.run (&s->tick);
  expect_end (late, -EIO);
  assert_int_equal (errors, 0); /* it was said */
  go_up ();
  expect_said ("is back after 61 seconds");
  s->tick.run (&s->tick);       /* with a connection it does nothing */
}

/* For those who can't go on without: the first loss of patience is the end. */
static void
test_once (void **state)
{
  struct fetch *read, *late;

  (void) state;
  open_and_start (STORAGE_NBD_ONCE);
  go_down ();
  read = submit (FETCH_READ, 0, 512);
  clock_now += 31;
  s->tick.run (&s->tick);
  expect_said ("start again when the server is back");
  expect_end (read, -ENOTCONN);
  late = submit (FETCH_READ, 0, 512);
  expect_end (late, -ENOTCONN);
}

static void
test_given_up (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_down ();
  read = submit (FETCH_READ, 0, 512);
  storage_give_up (storage);
  s->tick.run (&s->tick);
  expect_end (read, -EIO);
}

/* What the connection took with it is asked again; what nobody wants is not. */
static void
test_loss (void **state)
{
  struct fetch *one, *two, *gone, *cache;

  (void) state;
  open_and_start (0);
  go_up ();
  one = submit (FETCH_READ, 0, 512);
  gone = submit (FETCH_READ, 0, 512);
  cache = submit (FETCH_CACHE, 0, 512);
  two = submit (FETCH_READ, 512, 512);
  turn ();
  assert_int_equal (sent_count, 4);
  withdraw (gone);
  go_down ();
  expect_said ("was lost");
  expect_end (cache, -EIO);
  clock_now += 1;
  go_up ();
  assert_int_equal (sent_count, 2);
  assert_ptr_equal (sent[0], one);
  assert_ptr_equal (sent[1], two);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  expect_end (two, 0);
}

/* A server that says that it ends is left, and the next one asked. */
static void
test_shutdown (void **state)
{
  struct fetch *one, *two;

  (void) state;
  open_and_start (0);
  go_up ();
  one = submit (FETCH_READ, 0, 512);
  two = submit (FETCH_READ, 512, 512);
  turn ();
  end_sent (0, -ESHUTDOWN);
  turn ();
  assert_true (s->link.drop);
  assert_string_equal (s->link.error, "the server is shutting down");
  assert_false (has_ended (one));
  go_down ();
  assert_false (has_ended (two));
  go_up ();
  assert_int_equal (sent_count, 2);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  expect_end (two, 0);
}

static void
test_no_room (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_up ();
  full = true;
  read = submit (FETCH_READ, 0, 512);
  turn ();
  assert_int_equal (sent_count, 0);
  full = false;
  answers = true;
  turn ();
  expect_end (read, 0);
}

/* Those are advice, and not kept without end. */
static void
test_many_caches (void **state)
{
  struct fetch *caches[70];
  unsigned i, ended = 0;

  (void) state;
  open_and_start (0);
  go_up ();
  for (i = 0; i < 70; i++) {
    caches[i] = submit (FETCH_CACHE, i * 512, 512);
    ended += has_ended (caches[i]);
  }
  assert_int_equal (ended, 6);
  answers = true;
  turn ();
  for (i = 0; i < 70; i++)
    expect_end (caches[i], 0);
  assert_int_equal (atomic_load (&s->caches), 0);
}

/* ---- Another export ---------------------------------------------------- */

static void
come_back_changed (void)
{
  server.size = 4096;
  s->link.nbd = (struct nbd_handle *) &server;
  s->link.export = server;
  assert_false (s->link.up (&s->link));
  go_down ();
}

static void
test_other_export (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (0);
  go_up ();
  read = submit (FETCH_READ, 0, 512);
  turn ();
  go_down ();
  come_back_changed ();
  expect_said ("is not the same any more: it has 4096 bytes now");
  expect_end (read, -EIO);
  errors = 0;
  come_back_changed ();
  assert_int_equal (errors, 0); /* it was said */
  read = submit (FETCH_READ, 0, 512);
  server.size = SIZE;
  answers = true;
  go_up ();
  expect_end (read, 0);
}

static void
test_other_export_once (void **state)
{
  struct fetch *read;

  (void) state;
  open_and_start (STORAGE_NBD_ONCE);
  read = submit (FETCH_READ, 0, 512);
  come_back_changed ();
  expect_said ("start again when nobody else changes it");
  expect_end (read, -ENOTCONN);
  read = submit (FETCH_READ, 0, 512);
  expect_end (read, -ENOTCONN);
}

/* ---- Changes ----------------------------------------------------------- */

/* Acknowledged and not flushed: made again before anything else. */
static void
test_made_again (void **state)
{
  struct fetch *one, *two, *flush;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  one = submit (FETCH_WRITE, 0, 512);
  turn ();
  end_sent (0, 0);
  turn ();
  expect_end (one, 0);
  two = submit (FETCH_WRITE, 4096, 512);
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  assert_int_equal (sent_count, 2);
  go_down ();
  go_up ();
  assert_int_equal (sent_count, 1);     /* that which was acknowledged */
  assert_true (sent[0]->kept && sent[0]->offset == 0);
  go_down ();                           /* once more */
  go_up ();
  assert_int_equal (sent_count, 1);
  end_sent (0, 0);
  turn ();
  assert_int_equal (sent_count, 2);
  end_sent (0, 0);
  end_sent (0, 0);
  turn ();
  expect_end (two, 0);
  expect_end (flush, 0);
}

/* A flush that fails is the end of all; what is written would be kept for
 * ever.
 */
static void
test_flush_fails (void **state)
{
  struct fetch *write, *flush;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  end_sent (0, -ENOSPC);
  turn ();
  expect_end (flush, -EIO);
  answers = true;
  write = submit (FETCH_WRITE, 0, 512);
  turn ();
  expect_end (write, -EIO);
  flush = submit (FETCH_FLUSH, 0, 0);
  turn ();
  expect_end (flush, -EIO);
  write = submit (FETCH_READ, 0, 512);
  turn ();
  expect_end (write, 0);
}

static void
write_some (unsigned mib)
{
  struct fetch *write;
  unsigned i;

  answers = true;
  for (i = 0; i < mib; i++) {
    write = submit (FETCH_WRITE, i * MIB, MIB);
    turn ();
    expect_end (write, 0);
  }
  answers = false;
}

/* From so many on, the server is asked to flush by ourselves. */
static void
test_own_flush (void **state)
{
  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  write_some (31);
  turn ();
  assert_int_equal (sent_count, 0);
  write_some (1);
  turn ();
  assert_int_equal (sent_count, 1);
  assert_int_equal (sent[0]->op, FETCH_FLUSH);
  turn ();
  assert_int_equal (sent_count, 1);     /* one at a time */
  end_sent (0, 0);
  turn ();
  assert_true (s->kept.bytes == 0);
}

/* While it is under way others wait when there is too much; a lost one is
 * sent again.
 */
static void
test_own_flush_lost (void **state)
{
  struct fetch *write;
  unsigned n;

  (void) state;
  open_and_start (STORAGE_NBD_WRITE);
  go_up ();
  for (n = 0; n < 100; n++) {
    write = submit (FETCH_WRITE, n * MIB, MIB);
    turn ();
    if (sent_count > 0 && sent[sent_count - 1]->op == FETCH_WRITE) {
      end_sent (sent_count - 1, 0);
      turn ();
    }
    if (!has_ended (write))
      break;
    withdraw (write);
  }
  assert_in_range (n, 64, 66);  /* the flush has no answer */
  assert_int_equal (sent_count, 1);
  assert_int_equal (sent[0]->op, FETCH_FLUSH);
  go_down ();
  go_up ();
  answers = true;
  while (sent_count > 0) {      /* what is kept */
    end_sent (0, 0);
    turn ();
  }
  turn ();
  expect_end (write, 0);
  assert_true (s->kept.bytes <= 2 * MIB);
}

/* ---- The end ----------------------------------------------------------- */

static void
test_stop (void **state)
{
  struct fetch *read, *waits;

  (void) state;
  open_and_start (0);
  go_up ();
  read = submit (FETCH_READ, 0, 512);
  turn ();
  full = true;
  waits = submit (FETCH_READ, 512, 512);
  worker_is_out = true;
  stopped_calls = 0;
  assert_false (storage->ops->stop (storage));
  assert_false (has_ended (read));
  s->link.stopped (&s->link);
  assert_int_equal (stopped_calls, 1);
  worker_is_out = false;
  assert_true (storage->ops->stop (storage));
  expect_end (read, -ESHUTDOWN);
  expect_end (waits, -ESHUTDOWN);
}

#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_open),
    TEST (test_holes_unknown),
    TEST (test_not_writable),
    TEST (test_unreachable),
    TEST (test_no_memory),
    TEST (test_purposes),
    TEST (test_advice),
    TEST (test_create),
    TEST (test_info),
    TEST (test_plain_calls),
    TEST (test_plain_loss),
    TEST (test_plain_errors),
    TEST (test_plain_other_export),
    TEST (test_start_fails),
    TEST (test_wait_for_connection),
    TEST (test_patience),
    TEST (test_once),
    TEST (test_given_up),
    TEST (test_loss),
    TEST (test_shutdown),
    TEST (test_no_room),
    TEST (test_many_caches),
    TEST (test_other_export),
    TEST (test_other_export_once),
    TEST (test_made_again),
    TEST (test_flush_fails),
    TEST (test_own_flush),
    TEST (test_own_flush_lost),
    TEST (test_stop),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
