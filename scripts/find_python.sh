#!/usr/bin/env bash
# Prints the path of a Python that runs and suits AIPerf (3.12 first, then 3.13, 3.11).
#
# Usage: scripts/find_python.sh
#   PYTHON=/path or name     take this one and no other
#   PYTHON_PLACES=dir:dir    folders looked into beside PATH, pyenv and uv (default: the usual ones)
# Exit: 0 found · 2 none, with one line that says what to install
#
# A Python counts only if it can be run: a pyenv shim may exist and fail, and a link may dangle.
set -euo pipefail

readonly VERSIONS='3.12 3.13 3.11'
readonly USUAL_PLACES=/opt/homebrew/bin:/usr/local/bin:/home/linuxbrew/.linuxbrew/bin:/opt/local/bin:/usr/bin
# The base interpreter is printed, so that an active virtual environment, maybe our own, is seen through.
readonly PROBE='
import sys
try:
    import venv, ensurepip
    complete = "yes"
except ImportError:
    complete = "no"
print("%d.%d" % sys.version_info[:2], complete, getattr(sys, "_base_executable", sys.executable))'

without_venv= # a good version seen that cannot make a virtual environment by itself
seen=         # other versions seen, for the message

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

has_uv() { uv --version >/dev/null 2>&1; }

# candidates VERSION: paths worth trying, best first; they may not exist.
candidates() {
  local version=$1 dir places="${PYTHON_PLACES-$USUAL_PLACES}"
  type -a -p "python$version" 2>/dev/null || true
  for dir in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version"[.-]* \
    "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}/cpython-$version"[.-]* \
    "$HOME/.local/share/mise/installs/python/$version"[.-]* "$HOME/.asdf/installs/python/$version"[.-]*; do
    printf '%s\n' "$dir/bin/python$version"
  done
  while [[ -n "$places" ]]; do
    printf '%s\n' "${places%%:*}/python$version"
    case "$places" in *:*) places=${places#*:} ;; *) places= ;; esac
  done
  printf '%s\n' "/opt/homebrew/opt/python@$version/bin/python$version"
  printf '%s\n' "/Library/Frameworks/Python.framework/Versions/$version/bin/python$version"
  type -a -p python3 python 2>/dev/null || true
}

# probe CANDIDATE: sets version, complete, base; fails if it does not run.
probe() {
  local told
  [[ -x "$1" ]] || return 1
  told=$("$1" -I -c "$PROBE" 2>/dev/null </dev/null) || return 1
  read -r version complete base <<<"$told"
  [[ -n "${base:-}" ]]
}

# can_make_venv: whether the Python just probed can, alone or with uv's help.
can_make_venv() { [[ "$complete" = yes ]] || has_uv; }

forced() {
  local path
  path=$(type -P "$PYTHON") || true
  probe "$path" || die "PYTHON=$PYTHON: does not run; give the path of a Python 3.11, 3.12 or 3.13"
  case " $VERSIONS " in
    *" $version "*) ;;
    *) die "PYTHON=$PYTHON: is Python $version; AIPerf needs 3.11, 3.12 or 3.13" ;;
  esac
  can_make_venv || die "PYTHON=$PYTHON: has no venv module; run sudo apt install python$version-venv, or install uv"
  printf '%s\n' "$base"
}

search() {
  local wanted candidate
  for wanted in $VERSIONS; do
    while IFS= read -r candidate; do
      probe "$candidate" || continue
      if [[ "$version" != "$wanted" ]]; then
        case " $seen " in *" $version "*) ;; *) seen="$seen $version" ;; esac
      elif can_make_venv; then
        printf '%s\n' "$base"
        return 0
      elif [[ -z "$without_venv" ]]; then
        without_venv=$version
      fi
    done < <(candidates "$wanted")
  done
  return 1
}

if [[ -n "${PYTHON:-}" ]]; then
  forced
elif ! search; then
  [[ -z "$without_venv" ]] ||
    die "Python: $without_venv is there, but not its venv module; run sudo apt install python$without_venv-venv, then make setup"
  die "Python: none of 3.11, 3.12, 3.13 runs here${seen:+ (found:$seen)}; install one (macOS: brew install python@3.12 · Debian/Ubuntu: sudo apt install python3.12-venv, or bash scripts/linux-setup.sh · RHEL: sudo dnf install python3.12 · anywhere: uv python install 3.12), then make setup"
fi
