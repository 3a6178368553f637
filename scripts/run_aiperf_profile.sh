#!/usr/bin/env bash
# Measure an OpenAI-compatible chat endpoint with AIPerf, as set in .env and the environment.
#
# Usage:  run_aiperf_profile.sh MODE        MODE: warmup, profile, sweep, or sweep_<concurrency>
#         DRY_RUN=1 run_aiperf_profile.sh MODE    print the environment and the command, run nothing
#
# Finds the Python that `make setup` prepared. Settings, the service time-outs among them, are read
# and exported by Python: .env is never sourced, so nothing in it is ever run.
#
# Exit: 0 done, 1 the result is INVALID or a point of a sweep failed, 2 usage or configuration,
#       3 the endpoint or AIPerf failed, 4 unreadable data, 130 interrupted.
set -euo pipefail

unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -x venv/bin/python ]; then
  python=venv/bin/python
elif python3 -c 'import importlib.util as u; u.find_spec("aiperf") or exit(1)' 2>/dev/null; then
  python=python3 # where somebody installed the requirements without a venv
else
  printf 'error: venv: not set up; run: make setup\n' >&2
  exit 2
fi

exec "$python" scripts/run_profile.py "$@"
