#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The manual pages are sound, each command and option is in its page and the
# other way round, links lead to pages, and the completion offers exactly the
# commands and options that there are.

. ./functions.sh
set -e

requires podchecker
requires pod2text
requires make --version

docs=$abs_top_srcdir/docs
cd "$tmpdir"
status=0

complain ()
{
  echo "$*" >&2
  status=1
}

# same WHAT FILE-A NAME-A FILE-B NAME-B: the lines of two files, as sets.
same ()
{
  local line

  while read -r line; do complain "$1: $line is in $3, not in $5"
  done < <(comm -23 <(sort -u "$2") <(sort -u "$4"))
  while read -r line; do complain "$1: $line is in $5, not in $3"
  done < <(comm -13 <(sort -u "$2") <(sort -u "$4"))
}

# ---- The pages ------------------------------------------------------------

unset MAKEFLAGS MAKELEVEL MFLAGS
make -s -C "$abs_top_builddir/docs" print-pages >pages
(cd "$docs" && ls ./*.pod) | sed 's,^\./\(.*\)\.pod$,\1,' >pods
sed 's/\..$//' pages >names
same "docs/Makefile.am" pods "the directory" names "the list"

# paragraphs PAGE: one a line.
paragraphs ()
{
  awk -v RS= '{ gsub (/\n/, " "); print }' "$docs/$1.pod"
}

while read -r page; do
  name=${page%.?} section=${page##*.}
  podchecker -warnings -warnings "$docs/$name.pod" >out 2>&1 &&
    ! grep -q WARNING out || { cat out >&2; complain "$name: podchecker"; }
  grep -q "^$name - " "$docs/$name.pod" || complain "$name: NAME is wrong"
  case $section in
    1) wanted=(EXAMPLES SYNOPSIS "EXIT STATUS") ;;
    5) wanted=(EXAMPLES) ;;
    *) wanted=() ;;
  esac
  for heading in NAME DESCRIPTION "${wanted[@]}" "SEE ALSO" AUTHORS LICENSE
  do
    grep -qx "=head1 $heading" "$docs/$name.pod" ||
      complain "$name: there is no $heading"
  done
  [ "$(grep -v '^=for test skip' "$docs/$name.pod" | wc -L)" -le 80 ] ||
    complain "$name: lines are too long"
done <pages

# ---- Links ----------------------------------------------------------------

# Pages of others that we may name.
cat >foreign <<'END'
nbd-client(8)
nbd_connect_uri(3)
nbdcopy(1)
nbdfuse(1)
nbdinfo(1)
nbdkit(1)
nbdkit-tls(1)
qemu-img(1)
qemu-nbd(8)
END
sed 's/\(.*\)\.\(.\)$/\1(\2)/' pages | cat - foreign | sort >known
while read -r name; do
  paragraphs "$name" | grep -o 'L<[^>]*>' | sed 's/^L<\(.*\)>$/\1/' |
    sort -u >links || :
  while read -r link; do
    case $link in
      /*) grep -qx "=head[12] ${link#/}" "$docs/$name.pod" ||
            complain "$name: there is no ${link#/}" ;;
      http*) ;;
      *) grep -qxF "$link" known || complain "$name: what is $link?" ;;
    esac
  done <links
done <names

# ---- Commands and options -------------------------------------------------

# What stands before options' descriptions, without their values.
help_options ()
{
  grep -o '^  \+-.*' | sed 's/   .*//' | grep -oE -- '(^|[ ,])--?[a-z-]+' |
    tr -d ' ,'
}
page_options ()
{
  grep '^=item ' "$docs/$1.pod" | grep -oE 'B<--?[a-z-]+' | sed 's/^B<//'
}

qedctl --help >help
sed -n 's/^  \([a-z]\+\)  .*/\1/p' help >commands
[ "$(wc -l <commands)" -ge 13 ] || fail "there are $(wc -l <commands) commands"
sed -n 's/^=item L<qedctl-\(.*\)(1)>$/\1/p' "$docs/qedctl.pod" >listed
same qedctl commands --help listed "the page"
sed -n 's/^qedctl-//p' names >command-pages
same docs commands --help command-pages "the pages"

while read -r command; do
  qedctl "$command" --help >help
  help_options <help >"$command.options"
  page_options "qedctl-$command" >page
  same "qedctl $command" "$command.options" --help page "its page"
done <commands

# The help is true: of all options that there are, a command takes those that
# it tells of.
cat ./*.options | sort -u >all-options
while read -r command; do
  while read -r option; do
    case $option in -h | --help) continue ;; esac
    if qedctl "$command" "$option" </dev/null 2>&1 |
         grep -q 'is unknown or cannot have a value: \|unknown option'; then
      r=unknown
    else
      r=known
    fi
    if grep -qx -- "$option" "$command.options"; then wanted=known
    else wanted=unknown; fi
    [ $r = $wanted ] || complain "qedctl $command: $option is $r"
  done <all-options
done <commands

"$abs_top_builddir/nbdkit" qed --help >help
sed -n '/^\[file=\]/,$p' help | grep -oE '^\[?[a-z-]+=' | tr -d '[]' \
    >parameters || :
[ "$(wc -l <parameters)" -ge 11 ] || fail "nbdkit qed --help: $(cat help)"
sed -n '/^=head1 PARAMETERS/,/^=head1 [^P]/p' "$docs/nbdkit-qed-plugin.pod" |
  grep '^=item' | grep -oE 'B<[a-z-]+=' | sed 's/^B<//' >page
same "nbdkit qed" parameters --help page "its page"

# ---- The list of codes ----------------------------------------------------

qedctl explain | grep -v '^ ' >codes
bash "$docs/insert-codes" "$(type -P qedctl)" <"$docs/qedctl-check.pod" \
     >qedctl-check.pod
podchecker qedctl-check.pod >/dev/null 2>&1 || complain "insert-codes: no POD"
pod2text qedctl-check.pod | tr -s ' \n' ' ' >text
while read -r code; do
  qedctl explain "$code" | tail -n +3 | tr -s ' \n' ' ' >paragraph
  grep -qF -- " $code " text && grep -qF -- "$(cat paragraph)" text ||
    complain "qedctl-check(1) does not explain $code"
done <codes
# And the page that was made, if pages are made.
for page in "$abs_top_builddir" "$abs_top_srcdir"; do
  page=$page/docs/qedctl-check.1
  [ -e "$page" ] || continue
  while read -r code; do
    sed 's/\\-/-/g' "$page" | grep -qF -- "$code" ||
      complain "$page does not list $code"
  done <codes
  break
done

# ---- Metrics --------------------------------------------------------------

qedctl create disk.qed 1M >/dev/null
start_nbdkit -P pid -U sock qed disk.qed control="$tmpdir/ctl"
qedctl check --control ctl >/dev/null
qedctl metrics --control ctl | sed -n 's/^# TYPE \([^ ]*\) .*/\1/p' >metrics
grep '^=item B<nbdkit_qed' "$docs/qedctl-metrics.pod" |
  sed 's/.*B<\(.*\)>/\1/' >page
while read -r name; do
  grep -qx "$name" page || complain "qedctl-metrics(1) does not tell of $name"
done <metrics

# ---- Completion -----------------------------------------------------------

. "$docs/bash-completion/qedctl"

# offers WORD...: what is offered for the last one.
offers ()
{
  COMP_WORDS=(qedctl "$@") COMP_CWORD=$#
  COMPREPLY=()
  _qedctl 2>err
  [ ! -s err ] || fail "completion of $*: $(cat err)"
  [ ${#COMPREPLY[@]} -eq 0 ] || printf '%s\n' "${COMPREPLY[@]}"
}

offers "" >offered
{ cat commands; printf '%s\n' -h --help --version; } >wanted
same completion offered "what is offered" wanted --help
[ "$(offers stat)" = status ] || complain "completion: stat -> $(offers stat)"
while read -r command; do
  offers "$command" - | sed 's/=.*//' >offered
  same "completion of qedctl $command" offered "what is offered" \
       "$command.options" --help
done <commands
offers explain "" >offered
same "completion of explain" offered "what is offered" codes "the list"
: >a-file.qed
for words in "info a-f" "create x 1G --backing a-f" "check --undo a-f" \
             "status --control a-f"; do
  [ "$(offers $words)" = a-file.qed ] || complain "completion of $words"
done
[ "$(offers check --repair = l)" = leaks ] || complain "completion of =leaks"
[ "$(offers create --backing-format r)" = raw ] || complain "completion of raw"
[ -z "$(offers check --limit "")" ] || complain "completion of --limit"
# An option that is offered values has one.
while read -r option; do
  if [ -n "$(offers create "$option" "" | grep -v '^a-file.qed$')" ]; then
    qedctl create "$option" 2>&1 | grep -q 'needs a value' ||
      complain "completion: $option has no value"
  fi
done < <(grep -- '^--[btc]' create.options)

exit $status
