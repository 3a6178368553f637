#!/usr/bin/env bash
# Installs the system packages that are missing (make, a suitable Python with venv, libgomp for the
# demo's model server), then sets up venv/.
#
# Usage: bash scripts/linux-setup.sh        on Debian, Ubuntu, RHEL and their kin; again does no harm
#   OS_RELEASE=file   where the distribution is named (default /etc/os-release)
# Exit: 0 done · 2 another system, or no right to install · else what the package manager or make gave
#
# sudo is used only for the package manager, only when something is missing and one is not root.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# family: debian or rhel
family() {
  local words
  words=$(sed -n -E 's/^(ID|ID_LIKE)=//p' "${OS_RELEASE:-/etc/os-release}" 2>/dev/null | tr -d "\"'" | tr '\n' ' ')
  case " $words " in
    *' debian '* | *' ubuntu '*) echo debian ;;
    *' rhel '* | *' fedora '* | *' centos '*) echo rhel ;;
    *) die "${words:-this system}: neither Debian, Ubuntu nor RHEL; install make and Python 3.12 yourself, then make setup" ;;
  esac
}

as_root() {
  if [[ "$(id -u)" = 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "$1: needs root, and there is no sudo; run this script as root"
  fi
}

has_python() { bash scripts/find_python.sh >/dev/null 2>&1; }

# has_compiler: one package of AIPerf's comes as a wheel for x86_64 only, elsewhere as C source.
has_compiler() { [[ "$(uname -m)" = x86_64 ]] || command -v cc >/dev/null; }

has_gomp() { PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep -q 'libgomp\.so\.1'; }

# is_offered PACKAGE: whether the distribution has it.
is_offered() {
  case "$manager" in
    apt-get) [[ -n "$(apt-cache show "$1" 2>/dev/null)" ]] ;;
    *) "$manager" -q info "$1" >/dev/null 2>&1 ;;
  esac
}

# python_packages: prints the packages of the best Python offered.
python_packages() {
  local version
  for version in 3.12 3.13 3.11; do
    if is_offered "python$version"; then
      printf 'python%s\n' "$version"
      [[ "$manager" != apt-get ]] || printf 'python%s-venv\n' "$version"
      if ! has_compiler; then
        case "$manager" in apt-get) printf 'python%s-dev\n' "$version" ;; *) printf 'python%s-devel\n' "$version" ;; esac
      fi
      return 0
    fi
  done
  die 'Python: none of 3.11, 3.12, 3.13 is offered here; install uv, run uv python install 3.12, then make setup'
}

install_missing() {
  local wanted=() found package
  [[ "$manager" != apt-get ]] || as_root apt-get update -q
  command -v make >/dev/null || wanted+=(make)
  if ! has_python; then
    found=$(python_packages) || exit 2
    while IFS= read -r package; do wanted+=("$package"); done <<<"$found"
  fi
  if ! has_gomp; then
    case "$manager" in apt-get) wanted+=(libgomp1) ;; *) wanted+=(libgomp) ;; esac
  fi
  has_compiler || wanted+=(gcc)
  printf 'Installing %s\n' "${wanted[*]}" >&2
  if [[ "$manager" = apt-get ]]; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${wanted[@]}"
  else
    as_root "$manager" install -y -q "${wanted[@]}"
  fi
}

kin=$(family) || exit 2
if [[ "$kin" = debian ]]; then
  manager=apt-get
elif command -v dnf >/dev/null; then
  manager=dnf
else
  manager=yum
fi

if command -v make >/dev/null && has_python && has_gomp && has_compiler; then
  echo 'System packages: all there' >&2
else
  install_missing
fi
exec make setup
