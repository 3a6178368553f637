#!/usr/bin/env bash
# The Makefile's verbs inside the container.
#
# Usage: entrypoint.sh VERB [KEY=value ...] [ARGUMENT ...]
#   KEY=value outranks .env, as on make's command line; arguments go to calibrate, demo, doctor, simulate, rerun, smoke, summary
# Exit: the verb's own · 2 unknown verb, no .env, or artifacts/ not writable
#
# The verb replaces this shell, so that Ctrl-C and the stop signal reach it.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly VERBS='help help-env demo simulate doctor smoke warmup profile sweep capacity rerun summary calibrate'
readonly PY=venv/bin/python

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

usage() {
  cat <<'TEXT'
Usage: VERB [KEY=value ...] [ARGUMENT ...]     calibrate, demo, doctor, simulate, rerun, smoke, summary take arguments: --help

Try
  demo        Measure a small real model inside the container
  simulate    A chat endpoint with known delays

Measure
  doctor      Check this machine, the settings and the endpoint before a run
  smoke       One streamed request: does the endpoint of .env answer?
  warmup      A small run (3 users, 9 requests)
  profile     Measure as set in .env (DRY_RUN=1 only shows the command)
  sweep       Measure at each of SWEEP_CONCURRENCIES, what is missing only (FRESH=1: all)
  capacity    Find the most users that meet the objectives (SLO_TTFT_P95_MS=500 …)
  rerun       The latest run again, and what differs today (RUN=folder)
  summary     Table of the latest run (RUN=folder), written to artifacts/
  calibrate   What this machine's client adds to the figures, and the load it can drive

Help
  help        This list
  help-env    All settings

A server on the machine that runs the container: AIPERF_URL=http://host.docker.internal:8000
TEXT
}

need_env_file() {
  local mount="mount it with -v \"\$PWD/.env:/app/.env:ro\""
  if [[ -d .env ]]; then
    die ".env: not found in the container, only a folder that docker made in its place; on the host: rmdir .env && cp .env.example .env, then $mount"
  fi
  [[ -e .env || -n "${MODEL:-}" ]] || die ".env: not found in the container; $mount"
  [[ ! -e .env || -r .env ]] || die ".env: not readable by user $(id -u); run with --user \"\$(id -u):\$(id -g)\""
}

need_artifacts() {
  [[ -d artifacts && -w artifacts ]] ||
    die "artifacts: not writable by user $(id -u); on the host: mkdir -p artifacts, and run with --user \"\$(id -u):\$(id -g)\""
}

# Takes KEY=value words into the environment. Their names go where make would list them, so that a
# misspelt one is found.
arguments=()
take_words() {
  local word names=
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Z][A-Z0-9_]*= ]]; then
      export "${word?}"
      names="$names ${word%%=*}="
    else
      arguments+=("$word")
    fi
  done
  [[ -z "$names" ]] || export MAKEFLAGS="--$names"
}

verb=${1:-help}
[[ $# -eq 0 ]] || shift
take_words "$@"
case "$verb" in
  calibrate | demo | doctor | simulate | rerun | smoke | summary) ;;
  *)
    [[ ${#arguments[@]} -eq 0 ]] ||
      die "$verb: ${arguments[0]} is no KEY=value; write settings as CONCURRENCY=20"
    ;;
esac
export OUTPUT_DIR=${OUTPUT_DIR:-artifacts} # all else is lost with the container

case "$verb" in
  help | --help | -h) usage ;;
  help-env) exec "$PY" scripts/help_env.py ;;
  doctor)
    need_env_file
    exec "$PY" scripts/doctor.py ${arguments[@]+"${arguments[@]}"}
    ;;
  smoke)
    need_env_file
    exec "$PY" scripts/smoke_stream.py ${arguments[@]+"${arguments[@]}"}
    ;;
  warmup | profile | sweep)
    need_env_file
    need_artifacts
    exec bash scripts/run_aiperf_profile.sh "$verb"
    ;;
  capacity)
    need_env_file
    need_artifacts
    exec "$PY" scripts/capacity.py
    ;;
  rerun)
    need_artifacts
    exec "$PY" scripts/rerun.py ${RUN:+"$RUN"} ${arguments[@]+"${arguments[@]}"}
    ;;
  summary)
    need_artifacts
    exec "$PY" scripts/summarize_export.py ${RUN:+"$RUN"} --output-dir "$OUTPUT_DIR" ${arguments[@]+"${arguments[@]}"}
    ;;
  demo)
    need_artifacts
    exec "$PY" scripts/demo.py ${arguments[@]+"${arguments[@]}"}
    ;;
  calibrate)
    need_artifacts
    exec "$PY" scripts/calibrate.py ${arguments[@]+"${arguments[@]}"}
    ;;
  simulate) exec "$PY" scripts/simulate_endpoint.py ${arguments[@]+"${arguments[@]}"} ;;
  *) die "$verb: no such verb; use one of $VERBS" ;;
esac
