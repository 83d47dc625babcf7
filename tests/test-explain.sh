#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl explain lists every code that a check can report, tells of each, in
# lines as wide as the terminal, and names what is near to a wrong one.

. ./functions.sh
set -e

cd "$tmpdir"

# Codes stand at the margin, their summaries do not.
qedctl explain >list 2>err
test ! -s err
grep -v '^ ' list >codes
test "$(sort -u codes | wc -l)" -eq "$(wc -l <codes)"
if grep -v '^[a-z0-9]\+\(-[a-z0-9]\+\)\+$' codes | grep -v '^leak$\|^free$'
then
  fail "these are no codes"
fi
# Those that are written down in scripts by now.
for code in need-check l1-entry-past-end l1-entry-misaligned \
            l1-entry-reserved-bits l1-entry-into-header table-truncated \
            table-overlap table-shared table-unreadable l2-entry-past-end \
            l2-entry-misaligned l2-entry-reserved-bits entry-into-header \
            entry-into-table cluster-shared page-differs data-unreadable \
            leak free; do
  grep -qx -- "$code" codes || fail "$code is not listed"
done

while read -r code; do
  qedctl explain "$code" >text 2>err
  test ! -s err
  head -n 1 text | grep -q "^$code: ." || fail "$code: no summary"
  # The same words as in the list, which may break them otherwise.
  summary=$(head -n 1 text | sed "s/^$code: //")
  tr -s ' \n' ' ' <list | grep -qF "$code $summary" ||
    fail "$code: the list says something else"
  test "$(tail -n +3 text | wc -w)" -ge 12 || fail "$code: says too little"
  test "$(tail -n +3 text | wc -L)" -le 79 || fail "$code: lines are too wide"
done <codes

# The same as JSON.
requires jq --version
qedctl explain --json >json
test "$(jq -r '.codes[].code' json)" = "$(cat codes)"
while read -r code; do
  test "$(qedctl explain --json "$code" | jq -r '.summary')" = \
       "$(jq -r --arg c "$code" '.codes[] | select (.code == $c).summary' \
             json)"
  test "$(qedctl explain --json "$code" | jq -r '.explanation')" = \
       "$(qedctl explain "$code" | tail -n +3 | tr '\n' ' ' | sed 's/ $//')"
done <codes

# As wide as a terminal is.
if type script stty >/dev/null 2>&1; then
  script -qec 'stty cols 40; qedctl explain l2-entry-past-end' /dev/null \
         </dev/null | tr -d '\r' | tail -n +3 >narrow
  test "$(wc -L <narrow)" -le 40
  test "$(wc -L <narrow)" -gt 30
  qedctl explain l2-entry-past-end | tail -n +3 >wide
  test "$(tr -s '\n ' '  ' <narrow)" = "$(tr -s '\n ' '  ' <wide)"
fi

# wrong PATTERN ARGUMENT...: exit 1, nothing on stdout, one line that has it.
wrong ()
{
  local r=0

  qedctl explain "${@:2}" >out 2>err || r=$?
  if [ $r -ne 1 ] || [ -s out ] || [ "$(wc -l <err)" -ne 1 ] ||
       ! grep -q "$1" err; then
    cat out err
    fail "explain ${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

wrong 'near to it: l1-entry-past-end, l2-entry-past-end' past-end
wrong 'near to it: .*l2-entry-past-end' l2-entry-past-ends
wrong 'near to it: cluster-shared' clustershared
wrong 'near to it: leak (qedctl explain lists all)$' leaks
wrong 'no code nope: qedctl explain lists them$' nope
wrong 'near to it: .*table-shared' tabel-shared
wrong 'no code xyzzy: .* lists' xyzzy
wrong 'lists' ''
wrong 'lists' e
wrong 'lists' "$(printf 'a%.0s' {1..100000})"
wrong '?\[31m' $'\e[31m\n'
wrong 'too many arguments' leak free
wrong 'unknown' --nonsense
qedctl explain --help | grep -q CODE
qedctl --help | grep -q '^  explain '
if [ -w /dev/full ]; then
  if qedctl explain >/dev/full 2>err; then fail "/dev/full took it"; fi
  test "$(wc -l <err)" -eq 1
fi
