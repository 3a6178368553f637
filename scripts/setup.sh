#!/usr/bin/env bash
# Makes venv/ and installs into it what requirements*.txt name. `make` calls it when needed.
#
# Usage: scripts/setup.sh           venv/ with requirements.txt and requirements-data.txt
#        scripts/setup.sh check     adds requirements-check.txt: what `make check` runs
#        scripts/setup.sh demo      adds requirements-demo.txt: the demo's model server; without a wheel
#                                   for this platform that is told and is no failure
#   PYTHON=/path   the Python to make venv/ with (default: scripts/find_python.sh chooses)
# Exit: 0 done · 2 no suitable Python, or venv/ is something else · 3 packages could not be installed
#
# The stamp (venv/.stamp) is written last and holds the folder it is valid for, so an interrupted
# set-up, and a folder that was moved, are set up again.
set -euo pipefail
unset CDPATH PYTHONHOME PYTHONPATH
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly WHAT=${1:-base}
readonly UNFINISHED=venv/.unfinished
readonly LOG=venv/setup.log
uv=       # path of a uv that runs, or empty
why=      # why the last installation failed, in one line
dots_pid= # the process that shows that something goes on

say() { printf '%s\n' "$1" >&2; }

die() {
  say "error: $2"
  exit "$1"
}

# --- progress ---------------------------------------------------------------------------------

# with_dots COMMAND: runs it; on a terminal, dots show that something goes on.
with_dots() {
  local status=0
  if [[ -t 2 ]]; then
    (while sleep 2; do printf . >&2; done) &
    dots_pid=$!
  fi
  "$@" || status=$?
  stop_dots
  return "$status"
}

stop_dots() {
  [[ -n "$dots_pid" ]] || return 0
  kill "$dots_pid" 2>/dev/null || true
  wait "$dots_pid" 2>/dev/null || true
  dots_pid=
  printf '\r\033[K' >&2
}

trap stop_dots EXIT
trap 'stop_dots; say "interrupted; make setup starts afresh"; exit 130' INT TERM

# --- venv/ ------------------------------------------------------------------------------------

# Whether venv/ runs, was made in this folder, was not left half-made, and is of a version that suits.
venv_is_sound() {
  local version wanted='3.11|3.12|3.13'
  [[ -x venv/bin/python && ! -e "$UNFINISHED" ]] || return 1
  grep -qF "$PWD/venv" venv/bin/activate 2>/dev/null || return 1
  if [[ -n "${PYTHON:-}" ]]; then
    wanted=$(bash scripts/find_python.sh 2>/dev/null) || return 1
    wanted=$("$wanted" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  fi
  version=$(venv/bin/python -c 'import sys, pip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  [[ "|$wanted|" == *"|$version|"* ]]
}

# Removes what stands in venv/'s place, if it is ours to remove.
remove_broken_venv() {
  if [[ -L venv ]]; then
    rm venv
  elif [[ -e venv/pyvenv.cfg || -e "$UNFINISHED" || -e venv/bin/activate ]]; then
    rm -rf venv
  elif [[ -e venv ]] && ! rmdir venv 2>/dev/null; then
    die 2 "venv: is there, but is no virtual environment; move it away, then make setup"
  fi
}

make_venv() {
  local python
  python=$(bash scripts/find_python.sh) || exit 2
  [[ ! -e venv && ! -L venv ]] || say 'venv/ is unfinished, moved, broken or of another Python: made anew'
  remove_broken_venv
  mkdir venv
  touch "$UNFINISHED"
  say "Python $("$python" -c 'import platform; print(platform.python_version())') ($python)"
  if [[ -z "$uv" ]] || ! "$uv" venv -q --seed --allow-existing --python "$python" venv >"$LOG" 2>&1; then
    "$python" -m venv venv >>"$LOG" 2>&1 || die 2 "venv: $(reason); log: $LOG"
  fi
}

# --- packages ---------------------------------------------------------------------------------

find_uv() {
  local candidate
  for candidate in uv venv/bin/uv; do
    if "$candidate" --version >/dev/null 2>&1; then
      uv=$candidate
      return 0
    fi
  done
}

pip() { PIP_USER=0 venv/bin/python -m pip --disable-pip-version-check "$@"; }

# uv does not read pip's configuration. Who has set another index there wants it to be used.
hand_pip_index_to_uv() {
  local index=${PIP_INDEX_URL:-}
  [[ -n "$uv" && -z "${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-}${UV_INDEX:-}" ]] || return 0
  [[ -n "$index" ]] || index=$(pip config list 2>/dev/null |
    sed -n "s/^[a-z]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1) || true
  [[ -z "$index" ]] || export UV_INDEX_URL="$index"
}

# install ARGUMENTS: with uv, else with pip, which knows proxies, certificates and mirrors that uv may not.
install() {
  if [[ -n "$uv" ]]; then
    if "$uv" pip install -q --python venv/bin/python "$@" >>"$LOG" 2>&1; then return 0; fi
    why=$(reason)
  fi
  if pip install -q "$@" >>"$LOG" 2>&1; then return 0; fi
  why=${why:-$(reason)}
  return 1
}

# What the log gives as the reason, in one line and without the password of an index address.
reason() {
  local what cause
  what=$(grep -iE 'error|×|no space' "$LOG" | head -n 1 | tidy) || true
  cause=$(grep -iE 'cause: |╰' "$LOG" | tail -n 1 | tidy) || true
  printf '%s' "${what:-no reason was given}${cause:+: $cause}" | cut -c 1-250
}

tidy() { sed -E -e 's#//[^/@ ]*@#//***@#g' -e 's/^[^A-Za-z]*//' -e 's/^([Ee][Rr][Rr][Oo][Rr]|cause): //' -e 's/\.$//'; }

install_base() {
  install -r requirements.txt && install --no-deps -r requirements-data.txt
}

write_stamp() {
  pwd -P >"$1.new"
  mv "$1.new" "$1"
}

# --- what is asked for ------------------------------------------------------------------------

set_up_base() {
  find_uv
  venv_is_sound || make_venv
  rm -f venv/.stamp
  touch "$UNFINISHED"
  : >"$LOG"
  [[ -n "$uv" ]] || pip install -q uv >>"$LOG" 2>&1 || : >"$LOG" # pip will do
  find_uv
  say "Installing packages into venv/ (the first time this can take minutes)"
  hand_pip_index_to_uv
  if ! with_dots install_base; then
    rm -f "$UNFINISHED" # whole as far as it goes: the next set-up goes on from here
    die 3 "packages: $why; mend the network or the index (pip config list), then make setup (log: $LOG)"
  fi
  rm -f "$UNFINISHED"
  write_stamp venv/.stamp
  say "Ready after $SECONDS s"
  [[ -z "${NEXT:-}" ]] || say 'Next: make demo (needs no key and no server), or cp .env.example .env, fill it in, make smoke'
}

# loads: whether what was installed finds the system's libraries (libgomp is not on every Linux).
loads() {
  [[ "$WHAT" = demo ]] || return 0
  why=$(venv/bin/python -c 'import xllamacpp' 2>&1) && return 0
  why=$(printf '%s' "$why" | tail -n 1)
  case "$why" in *libgomp*) why="$why; install libgomp1 (Debian, Ubuntu) or libgomp (RHEL)" ;; esac
  return 1
}

# has_no_wheel: whether the index answered that there is none. A network that failed may come back.
has_no_wheel() {
  if grep -qiE 'no (usable )?wheels' "$LOG"; then return 0; fi
  grep -q 'No matching distribution' "$LOG" &&
    ! grep -qiE 'connect|retry|network|could not fetch|certificate' "$LOG"
}

# Wheels only: nobody wants to compile a model server by surprise.
set_up_extra() {
  local file=requirements-$WHAT.txt
  say "Installing what make $WHAT needs"
  : >"$LOG"
  find_uv
  hand_pip_index_to_uv
  if with_dots install --only-binary :all: -r "$file" && loads; then
    write_stamp "venv/.stamp-$WHAT"
  elif [[ "$WHAT" = demo ]]; then
    if has_no_wheel; then # else each make demo, test and bench would ask the network again
      write_stamp venv/.stamp-demo
      printf 'not installed: %s\ntouch %s, and make asks again\n' "$why" "$file" >>venv/.stamp-demo
    fi
    say "note: the demo's model server cannot be used here ($why); the simulator takes its place"
  else
    die 3 "$file: $why; mend the network or the index (pip config list) and try again (log: $LOG)"
  fi
}

case "$WHAT" in
  base) set_up_base ;;
  check | demo) set_up_extra ;;
  *) die 2 "setup.sh: $WHAT is unknown; leave it out, or give check or demo" ;;
esac
