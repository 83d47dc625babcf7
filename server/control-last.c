/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What is known of the last checks of images that are served, or were: see
 * control-command.h.
 *
 * A check that was canceled or has failed says nothing of the image, so the
 * last one that has read all of it stays known beside it.  What another program
 * may have made of the file since isn't known any more.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "check.h"
#include "control-command.h"

/* So many images. */
#define RECORDS_MAX 256u

struct record {
  struct record *next;
  struct qed_file_id id;
  struct control_check last;
  bool completed;               /* ever, then: */
  struct control_check complete;
  struct timespec written;      /* the file, when it was closed */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct record *records;  /* the latest first */

/* ---- The list (with the lock) ------------------------------------------ */

static struct record **
find_link (const struct qed_file_id *id)
{
  struct record **link;

  for (link = &records; *link != NULL; link = &(*link)->next)
    if ((*link)->id.device == id->device && (*link)->id.inode == id->inode)
      break;
  return link;
}

static void
drop (struct record **link)
{
  struct record *record = *link;

  if (record == NULL)
    return;
  *link = record->next;
  free (record);
}

/* The oldest one's place is taken if there are many. */
static struct record *
make_record (const struct qed_file_id *id)
{
  struct record **link = &records, *record;
  unsigned n;

  for (n = 1; *link != NULL && n < RECORDS_MAX; n++)
    link = &(*link)->next;
  drop (link);
  record = calloc (1, sizeof *record);
  if (record == NULL)
    return NULL;
  record->id = *id;
  record->next = records;
  records = record;
  return record;
}

void
last_checks_add (const struct qed_file_id *id,
                 const struct control_check *check)
{
  struct record *record;

  pthread_mutex_lock (&lock);
  record = *find_link (id);
  if (record == NULL)
    record = make_record (id);
  if (record != NULL) {
    record->last = *check;
    if (check->r >= 0) {
      record->complete = *check;
      record->completed = true;
    }
  }
  pthread_mutex_unlock (&lock);
}

/* ---- What becomes of the file ------------------------------------------ */

void
last_checks_forget (const struct qed_file_id *id)
{
  pthread_mutex_lock (&lock);
  drop (find_link (id));
  pthread_mutex_unlock (&lock);
}

void
last_checks_closed (const struct qed_file_id *id, const char *path)
{
  struct record *record;
  struct stat st;

  pthread_mutex_lock (&lock);
  record = *find_link (id);
  if (record != NULL && stat (path, &st) == 0)
    record->written = st.st_mtim;
  pthread_mutex_unlock (&lock);
}

void
last_checks_opens (const struct qed_file_id *id, const char *path)
{
  struct record **link;
  struct stat st;

  pthread_mutex_lock (&lock);
  link = find_link (id);
  if (*link != NULL &&
      (stat (path, &st) == -1 ||
       st.st_mtim.tv_sec != (*link)->written.tv_sec ||
       st.st_mtim.tv_nsec != (*link)->written.tv_nsec))
    drop (link);
  pthread_mutex_unlock (&lock);
}

void
last_checks_forget_all (void)
{
  while (records != NULL)
    drop (&records);
}

/* ---- Telling ----------------------------------------------------------- */

const char *
control_check_name (enum qed_repair repair)
{
  switch (repair) {
  case QED_REPAIR_NONE:  return "check";
  case QED_REPAIR_LEAKS: return "repair-leaks";
  case QED_REPAIR_ALL:   return "repair-all";
  }
  return "unknown";
}

static const char *
verdict (const struct control_check *check)
{
  if (check->r == -ECANCELED)
    return "canceled";
  switch (qed_check_exit_code (check->r, &check->result)) {
  case 0:  return "clean";
  case 2:  return "corruptions";
  case 3:  return "leaks";
  default: return "failed";
  }
}

static json_t *
describe (const struct control_check *check)
{
  json_t *object = json_object ();

  json_object_set_new (object, "what",
                       json_string (control_check_name (check->repair)));
  json_object_set_new (object, "started", control_time (check->started));
  json_object_set_new (object, "ended", control_time (check->ended));
  json_object_set_new (object, "verdict", json_string (verdict (check)));
  json_object_set_new (object, "exit-code", json_integer
                       (qed_check_exit_code (check->r, &check->result)));
  control_set_number (object, "corruptions", check->result.corruptions);
  control_set_number (object, "leaks", check->result.leaks);
  control_set_number (object, "check-errors", check->result.errors);
  return object;
}

void
last_checks_describe (json_t *status, const struct qed_file_id *id)
{
  const struct record *record;

  pthread_mutex_lock (&lock);
  record = *find_link (id);
  if (record != NULL) {
    json_object_set_new (status, "last-check", describe (&record->last));
    if (record->last.r < 0 && record->completed)
      json_object_set_new (status, "last-complete-check",
                           describe (&record->complete));
  }
  pthread_mutex_unlock (&lock);
}

/* That it was canceled is nobody's concern. */
static void
look_at (struct control_check_look *look, const struct record *record)
{
  const struct control_check *check = record->last.r != -ECANCELED
    ? &record->last : &record->complete;

  look->known = check == &record->last || record->completed;
  if (!look->known)
    return;
  look->ended = check->ended;
  look->exit_code = qed_check_exit_code (check->r, &check->result);
  look->completed = record->completed;
  look->corruptions = record->complete.result.corruptions;
  look->leaks = record->complete.result.leaks;
}

void
last_checks_look (struct control_check_look *look,
                  const struct qed_file_id *id)
{
  const struct record *record;

  pthread_mutex_lock (&lock);
  record = *find_link (id);
  if (record != NULL)
    look_at (look, record);
  pthread_mutex_unlock (&lock);
}
