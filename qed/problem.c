/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The table of problems that a check can find. */

#include <config.h>

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

static const struct qed_problem_kind kinds[] = {
  [QED_PROBLEM_NEED_CHECK] = {
    "need-check", QED_SEVERITY_NOTE,
    "the header says that the image was not closed cleanly",
    "NEED_CHECK is set in the header's features (offset 16): whoever wrote to "
    "the image last did not close it. That alone is no damage. A repair that "
    "leaves at most leaks clears the bit.",
  },
  [QED_PROBLEM_L1_PAST_END] = {
    "l1-entry-past-end", QED_SEVERITY_CORRUPTION,
    "an L1 entry names a table beyond the end of the file",
    "The file is shorter than the entry says: it was cut, a copy of it is not "
    "complete, or power failed before a new table reached the disk. Everything "
    "that the table described is lost with it. Repair sets the entry to "
    "unallocated: that range of the disk then reads as zeros, or from the "
    "backing file. If a longer copy of the file exists, use that instead.",
  },
  [QED_PROBLEM_L1_MISALIGNED] = {
    "l1-entry-misaligned", QED_SEVERITY_CORRUPTION,
    "an L1 entry is not a multiple of the cluster size",
    "No table can lie there: the entry was overwritten. Repair sets it to "
    "unallocated; the tables and clusters that nothing refers to any more stay "
    "in the file until leaks are repaired. On a block device those behind the "
    "last cluster in use do not: nothing tells them from empty space.",
  },
  [QED_PROBLEM_L1_RESERVED_BITS] = {
    "l1-entry-reserved-bits", QED_SEVERITY_CORRUPTION,
    "an L1 entry has reserved bits set",
    "The low 12 bits of an entry are reserved: the entry was overwritten, or "
    "belongs to a version of the format that is not known. Repair sets it to "
    "unallocated.",
  },
  [QED_PROBLEM_L1_INTO_HEADER] = {
    "l1-entry-into-header", QED_SEVERITY_CORRUPTION,
    "an L1 entry names a place within the header",
    "No table can lie in the header clusters: the entry was overwritten. "
    "Repair sets it to unallocated.",
  },
  [QED_PROBLEM_TABLE_TRUNCATED] = {
    "table-truncated", QED_SEVERITY_CORRUPTION,
    "an L2 table reaches beyond the end of the file",
    "The file ends within the table. Repair copies the part that is there to "
    "a new table and drops the rest; of more than 16 L1 entries that name that "
    "place it sets those after them to unallocated.",
  },
  [QED_PROBLEM_TABLE_OVERLAP] = {
    "table-overlap", QED_SEVERITY_CORRUPTION,
    "an L2 table overlaps another table",
    "Two tables can't lie in the same clusters: one of the L1 entries is "
    "wrong. Repair copies what is valid of the later table to a new place, so "
    "that the two come apart, and unlinks it if nothing in it is valid; of more "
    "than 16 L1 entries that name that place it sets those after them to "
    "unallocated.",
  },
  [QED_PROBLEM_TABLE_SHARED] = {
    "table-shared", QED_SEVERITY_CORRUPTION,
    "two L1 entries name the same L2 table",
    "A table describes one range of the disk only. Repair gives every entry "
    "but the first a copy of the table, and then of the clusters that it "
    "names, so that both ranges keep what they read as.",
  },
  [QED_PROBLEM_TABLE_UNREADABLE] = {
    "table-unreadable", QED_SEVERITY_ERROR,
    "a part of a table cannot be read",
    "The storage reports an error there. What the table describes is not "
    "known, so nothing is repaired: copy the file to sound storage first "
    "(ddrescue), then check the copy.",
  },
  [QED_PROBLEM_L2_PAST_END] = {
    "l2-entry-past-end", QED_SEVERITY_CORRUPTION,
    "an L2 entry names a cluster beyond the end of the file",
    "The file is shorter than the entry says: it was cut, a copy of it is not "
    "complete, or power failed before the cluster reached the disk. Repair "
    "sets the entry to unallocated: the cluster then reads as zeros, or from "
    "the backing file.",
  },
  [QED_PROBLEM_L2_MISALIGNED] = {
    "l2-entry-misaligned", QED_SEVERITY_CORRUPTION,
    "an L2 entry is not a multiple of the cluster size",
    "No cluster can lie there: the entry was overwritten. Repair sets it to "
    "unallocated.",
  },
  [QED_PROBLEM_L2_RESERVED_BITS] = {
    "l2-entry-reserved-bits", QED_SEVERITY_CORRUPTION,
    "an L2 entry has reserved bits set",
    "The low 12 bits of an entry are reserved, and only the value 1, a zero "
    "cluster, has a meaning among them: the entry was overwritten. Repair sets "
    "it to unallocated.",
  },
  [QED_PROBLEM_ENTRY_INTO_HEADER] = {
    "entry-into-header", QED_SEVERITY_CORRUPTION,
    "an L2 entry names a cluster of the header",
    "A guest that wrote to this cluster would rewrite the header. The server "
    "never follows such an entry. Repair sets it to unallocated.",
  },
  [QED_PROBLEM_ENTRY_INTO_TABLE] = {
    "entry-into-table", QED_SEVERITY_CORRUPTION,
    "an L2 entry names a cluster of a table",
    "A guest that wrote to this cluster would rewrite the tables. The server "
    "never follows such an entry. Repair sets it to unallocated, unless "
    "nothing in the table is valid: then the cluster is data, and the table is "
    "unlinked.",
  },
  [QED_PROBLEM_CLUSTER_SHARED] = {
    "cluster-shared", QED_SEVERITY_CORRUPTION,
    "a data cluster is referenced more than once",
    "What is written in one place shows up in another. Which of the references "
    "is the right one can't be known. Repair gives every reference but the "
    "first its own copy, so that all read as before.",
  },
  [QED_PROBLEM_PAGE_DIFFERS] = {
    "page-differs", QED_SEVERITY_CORRUPTION,
    "a page of a table differs between memory and disk",
    "The image is being served, and a page that the server has not changed "
    "is not what the file holds: another program wrote to the file, or the "
    "storage or the memory is faulty. Find the cause, then stop the server "
    "and check the closed image.",
  },
  [QED_PROBLEM_DATA_UNREADABLE] = {
    "data-unreadable", QED_SEVERITY_ERROR,
    "a part of a data cluster cannot be read",
    "The storage reports an error there. A repair does not touch it: restore "
    "the range from a backup, or write to it anew.",
  },
  [QED_PROBLEM_LEAK] = {
    "leak", QED_SEVERITY_LEAK,
    "clusters that nothing refers to",
    "They take space in the file and hold nothing that the disk can reach, as "
    "a crash leaves them. While L1 or a table is wrong nothing counts as "
    "leaked, since it may be what the entry should name, and the repair of "
    "that damage leaves it in the file for the next one. Repair of a closed "
    "image moves the last clusters into the gaps and cuts the file; a server "
    "uses them for what is written next.",
  },
  [QED_PROBLEM_FREE] = {
    "free", QED_SEVERITY_NOTE,
    "clusters that nothing refers to, and that take no space",
    "They are holes of the file, left by what was trimmed, and are used for "
    "what is written next. qemu-img check counts them as leaks. A repair of "
    "leaks in a closed image closes them too.",
  },
};

static_assert (sizeof kinds / sizeof kinds[0] == QED_PROBLEM_CODES,
               "each code has its kind");

const struct qed_problem_kind *
qed_problem_kind (enum qed_problem_code code)
{
  return &kinds[code];
}

bool
qed_problem_find (const char *name, enum qed_problem_code *code)
{
  unsigned i;

  for (i = 0; i < QED_PROBLEM_CODES; i++)
    if (strcmp (kinds[i].code, name) == 0) {
      *code = (enum qed_problem_code) i;
      return true;
    }
  return false;
}

/* Which of the fields tell something. */
void
qed_problem_to_text (const struct qed_problem *p,
                     char text[QED_PROBLEM_TEXT_SIZE])
{
  const struct qed_problem_kind *kind = &kinds[p->code];
  size_t size = QED_PROBLEM_TEXT_SIZE;

  switch (p->code) {
  case QED_PROBLEM_NEED_CHECK:
    snprintf (text, size, "%s: %s", kind->code, kind->summary);
    break;
  case QED_PROBLEM_LEAK:
  case QED_PROBLEM_FREE:
    snprintf (text, size, "%s: %" PRIu64 " bytes at file offset 0x%" PRIx64,
              kind->code, p->bytes, p->where);
    break;
  case QED_PROBLEM_TABLE_UNREADABLE:
    snprintf (text, size, "%s: file offset 0x%" PRIx64 ": %s (guest offset 0x%"
              PRIx64 ")", kind->code, p->where, strerror (-p->error),
              p->guest);
    break;
  case QED_PROBLEM_DATA_UNREADABLE:     /* it was read by the guest's address */
    snprintf (text, size, "%s: guest offset 0x%" PRIx64 ": %s", kind->code,
              p->guest, strerror (-p->error));
    break;
  case QED_PROBLEM_PAGE_DIFFERS:
    snprintf (text, size, "%s: file offset 0x%" PRIx64 " (guest offset 0x%"
              PRIx64 "+0x%" PRIx64 ")", kind->code, p->where, p->guest,
              p->guest_bytes);
    break;
  case QED_PROBLEM_CLUSTER_SHARED:
  case QED_PROBLEM_TABLE_SHARED:
  case QED_PROBLEM_TABLE_OVERLAP:
    if (p->other == UINT64_MAX) {
      snprintf (text, size, "%s: entry at file offset 0x%" PRIx64 ", value 0x%"
                PRIx64 ": guest offset 0x%" PRIx64 "+0x%" PRIx64 ", and "
                "another", kind->code, p->where, p->value, p->guest,
                p->guest_bytes);
      break;
    }
    snprintf (text, size, "%s: entry at file offset 0x%" PRIx64 ", value 0x%"
              PRIx64 ": guest offsets 0x%" PRIx64 "+0x%" PRIx64 " and 0x%"
              PRIx64, kind->code, p->where, p->value, p->guest,
              p->guest_bytes, p->other);
    break;
  default:
    snprintf (text, size, "%s: entry at file offset 0x%" PRIx64 ", value 0x%"
              PRIx64 ": guest offset 0x%" PRIx64 "+0x%" PRIx64, kind->code,
              p->where, p->value, p->guest, p->guest_bytes);
    break;
  }
}
