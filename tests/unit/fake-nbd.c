/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake-nbd.h"

/* ---- The loop ---------------------------------------------------------- */

double clock_now;
bool timer_runs;

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

int timer_error;

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
unsigned allocations = UINT32_MAX;

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

static struct nbd_flight *flight_of_sent;
struct fetch *sent[SENT_MAX];    /* not answered, in order */
unsigned sent_count;
bool answers;                    /* the server does, at once */
int answer_error;                /* with this */
bool full;

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

void
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

struct nbd_export server;
int connect_error, wait_error, init_error;
bool worker_is_out;

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

struct storage *storage;
struct storage_nbd *nbd;
char said[1024];
static unsigned warnings;
unsigned errors;

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

const struct qed_log say = { .fn = keep_message };

void
expect_said (const char *what)
{
  if (strstr (said, what) == NULL)
    fail_msg ("it said: %s", said);
  said[0] = '\0';
}

int
fake_nbd_setup (void **state)
{
  (void) state;
  storage = NULL;
  nbd = NULL;
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

int
open_storage (unsigned flags)
{
  int r = storage_nbd_open ("nbd://there/", NULL, flags, &say, &storage);

  nbd = (struct storage_nbd *) storage;
  return r;
}

unsigned stopped_calls;

static void
was_stopped (void *opaque)
{
  (void) opaque;
  stopped_calls++;
}

int
start_storage (void)
{
  return storage->ops->start (storage, (struct loop *) &server, was_stopped,
                              NULL);
}

void
open_and_start (unsigned flags)
{
  assert_int_equal (open_storage (flags), 0);
  assert_int_equal (start_storage (), 0);
}

void
go_up (void)
{
  nbd->link.nbd = (struct nbd_handle *) &server;
  nbd->link.export = server;
  nbd->link.drop = false;
  assert_true (nbd->link.up (&nbd->link));
  nbd->link.state = NBD_LINK_UP;
  nbd->link.turn (&nbd->link);
}

void
turn (void)
{
  nbd->link.turn (&nbd->link);
}

void
go_down (void)
{
  bool was_up = nbd->link.state == NBD_LINK_UP;

  lose_sent ();
  nbd->link.nbd = NULL;
  nbd->link.state = NBD_LINK_PAUSE;
  nbd->link.down (&nbd->link, was_up);
}

int
fake_nbd_teardown (void **state)
{
  (void) state;
  if (storage) {
    if (nbd->loop)
      assert_true (storage->ops->stop (storage));
    storage->ops->close (storage);
  }
  assert_int_equal (sent_count, 0);
  return 0;
}
