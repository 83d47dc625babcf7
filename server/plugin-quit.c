/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An end within seconds, with clients connected.
 *
 * When nbdkit is told to end it waits until all clients have gone, and looks
 * for that only after each one's next request.  A guest that has its disk
 * attached and is idle keeps it alive until systemd loses patience and kills
 * it, which leaves the image in need of a check.  So soon after the signal we
 * shut the clients' sockets for reading: nbdkit sees the end of each
 * connection, requests under way are still carried out and answered, and the
 * image is closed in the normal way.
 *
 * Not at once: a client that is at work has requests answered, and nbdkit
 * leaves it by itself: each of its threads takes one more request at most.  If
 * its socket were shut in the middle of a write's data, nbdkit would close the
 * connection while replies wait to be sent on it, of which nbdkit before 1.34
 * dies (an assertion in raw_send_socket), and the image would need a check
 * after all.  So sockets are shut when the process has been idle for a while:
 * what comes now nbdkit answers by itself, without asking the plugin.
 *
 * nbdkit hands neither the signal nor the sockets to a plugin.  The signal is
 * taken on its way to nbdkit's own handler.  A client's socket is one whose
 * local address is that of a listening socket of this process: so those that
 * lead elsewhere (a log, other servers) are left alone.
 */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/vm_sockets.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "plugin.h"
#include "thread.h"

/* A connection that was accepted just then is met by the next look. */
#define LOOK_NS 100000000

/* After so many looks at an idle process its clients are idle, too.  If it is
 * busy for so many it isn't with clients, but with a check, say.
 */
#define QUIET_LOOKS 6
#define BUSY_LOOKS 30

/* And so many more looks one is spared that has something to be read. */
#define PATIENT_LOOKS 20

/* The processor time that an idle process needs from one look to the next. */
#define IDLE_NS 1000000

#define LISTENERS_MAX 32

struct address {
  struct sockaddr_storage addr;
  socklen_t len;
};

static struct address listeners[LISTENERS_MAX];
static unsigned nr_listeners;

/* The signals that end nbdkit, and what it does with them. */
static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
#define NR_SIGNALS (sizeof signals / sizeof signals[0])
static struct sigaction previous[NR_SIGNALS];

static sem_t wake;              /* by the signal, and by plugin_quit_stop */
static bool running;            /* start to stop, nbdkit's main thread */
static atomic_bool told;        /* nbdkit was told to end */
static atomic_bool stopping;
static unsigned looks_left = PATIENT_LOOKS;     /* the thread's own */
static pthread_t thread;

/* ---- Sockets ----------------------------------------------------------- */

/* Call 'visit' on each open descriptor that is a stream socket. */
static void
each_socket (void (*visit) (int fd, bool listens, const struct address *))
{
  DIR *dir = opendir ("/proc/self/fd");
  struct dirent *entry;

  if (dir == NULL)
    return;
  while ((entry = readdir (dir)) != NULL) {
    const int fd = atoi (entry->d_name);
    struct address local = { .len = sizeof local.addr };
    int type, listens;
    socklen_t len = sizeof type;

    if (entry->d_name[0] == '.' ||
        getsockopt (fd, SOL_SOCKET, SO_TYPE, &type, &len) == -1 ||
        type != SOCK_STREAM)
      continue;
    len = sizeof listens;
    if (getsockopt (fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == -1 ||
        getsockname (fd, (struct sockaddr *) &local.addr, &local.len) == -1)
      continue;
    visit (fd, listens != 0, &local);
  }
  closedir (dir);
}

static void
add_listener (int fd, bool listens, const struct address *local)
{
  (void) fd;
  if (listens && nr_listeners < LISTENERS_MAX)
    listeners[nr_listeners++] = *local;
}

/* A listening socket may be bound to all addresses: its port is what counts. */
static bool
accepted_from (const struct address *listener, const struct address *local)
{
  const struct sockaddr_storage *a = &listener->addr, *b = &local->addr;

  if (a->ss_family != b->ss_family)
    return false;
  switch (a->ss_family) {
  case AF_UNIX:
    return listener->len == local->len && memcmp (a, b, local->len) == 0;
  case AF_INET:
    return ((const struct sockaddr_in *) a)->sin_port ==
      ((const struct sockaddr_in *) b)->sin_port;
  case AF_INET6:
    return ((const struct sockaddr_in6 *) a)->sin6_port ==
      ((const struct sockaddr_in6 *) b)->sin6_port;
  case AF_VSOCK:
    return ((const struct sockaddr_vm *) a)->svm_port ==
      ((const struct sockaddr_vm *) b)->svm_port;
  default:
    return false;
  }
}

/* What was asked before it can still be answered: only reading ends.  What
 * nbdkit has not read yet may be the beginning of a write whose end is still
 * at the client; and one that has not read its replies has no processor, and
 * may be in the middle of a write, too.  Those have their turn later.
 */
static bool
is_at_work (int fd)
{
  int unread;

  return (ioctl (fd, FIONREAD, &unread) == 0 && unread > 0) ||
    (ioctl (fd, TIOCOUTQ, &unread) == 0 && unread > 0);
}

static void
end_client (int fd, bool listens, const struct address *local)
{
  unsigned i;

  if (listens || (looks_left > 0 && is_at_work (fd)))
    return;
  for (i = 0; i < nr_listeners; ++i)
    if (accepted_from (&listeners[i], local)) {
      shutdown (fd, SHUT_RD);
      break;
    }
}

/* nbdkit's send fails, and it takes the connection for lost. */
static void
hang_up_client (int fd, bool listens, const struct address *local)
{
  unsigned i;

  if (listens)
    return;
  for (i = 0; i < nr_listeners; ++i)
    if (accepted_from (&listeners[i], local)) {
      shutdown (fd, SHUT_WR);
      break;
    }
}

bool
plugin_quit_hang_up (void)
{
  if (told)
    each_socket (hang_up_client);
  return told;
}

/* ---- The thread and its signal ----------------------------------------- */

/* Sleep, but not through the end or another signal; less than a second. */
static void
sleep_ns (long ns)
{
  struct timespec end;

  clock_gettime (CLOCK_REALTIME, &end);
  end.tv_nsec += ns;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec++;
  }
  sem_timedwait (&wake, &end);
}

static int64_t
processor_time (void)
{
  struct timespec used;

  clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * INT64_C (1000000000) + used.tv_nsec;
}

static void
wait_for_quiet (void)
{
  unsigned quiet = 0, looks;
  int64_t before = processor_time (), now;

  for (looks = 0; !stopping && quiet < QUIET_LOOKS && looks < BUSY_LOOKS;
       ++looks) {
    sleep_ns (LOOK_NS);
    now = processor_time ();
    quiet = now - before < IDLE_NS ? quiet + 1 : 0;
    before = now;
  }
}

static void *
quit_thread (void *arg)
{
  (void) arg;
  while (sem_wait (&wake) == -1)
    ;                           /* EINTR */
  wait_for_quiet ();
  while (!stopping) {
    each_socket (end_client);
    looks_left -= looks_left > 0;
    sleep_ns (LOOK_NS);
  }
  return NULL;
}

/* First nbdkit, so that it knows when its clients seem to go. */
static void
on_signal (int sig, siginfo_t *info, void *context)
{
  const int saved_errno = errno;
  unsigned i;

  told = true;
  for (i = 0; i < NR_SIGNALS; ++i)
    if (signals[i] == sig) {
      if (previous[i].sa_flags & SA_SIGINFO)
        previous[i].sa_sigaction (sig, info, context);
      else
        previous[i].sa_handler (sig);
    }
  sem_post (&wake);
  errno = saved_errno;
}

/* A signal that nbdkit ignores or leaves alone is left alone. */
static void
take_signals (void)
{
  struct sigaction ours;
  unsigned i;

  for (i = 0; i < NR_SIGNALS; ++i) {
    sigaction (signals[i], NULL, &previous[i]);
    if (!(previous[i].sa_flags & SA_SIGINFO) &&
        (previous[i].sa_handler == SIG_DFL ||
         previous[i].sa_handler == SIG_IGN))
      continue;
    ours = previous[i];
    ours.sa_sigaction = on_signal;
    ours.sa_flags |= SA_SIGINFO;
    sigaction (signals[i], &ours, NULL);
  }
}

int
plugin_quit_start (void)
{
  each_socket (add_listener);
  sem_init (&wake, 0, 0);
  if (thread_start (&thread, quit_thread, NULL) == -1)
    return -1;
  take_signals ();
  running = true;
  return 0;
}

void
plugin_quit_stop (void)
{
  unsigned i;

  if (!running)
    return;
  running = false;
  for (i = 0; i < NR_SIGNALS; ++i)
    sigaction (signals[i], &previous[i], NULL);
  stopping = true;
  sem_post (&wake);
  pthread_join (thread, NULL);
}
