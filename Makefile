# Every verb prepares venv/ by itself when needed. `make help` lists the verbs.
# Settings: .env, the environment, or `make profile CONCURRENCY=20` (make exports what is typed there).
# Runs on GNU Make 3.81 (macOS).

PY := venv/bin/python
STAMP := venv/.stamp
CHECK := venv/.stamp-check
DEMO := venv/.stamp-demo
SHELL_FILES := .ci/run $(wildcard scripts/*.sh docker/*.sh tests/*.sh tests/bench/*.sh)

# A venv/ that came along in a moved folder, whose Python is gone, or for which another Python is
# asked, is none: `stale` then makes the stamp out of date.
STALE := $(shell [ -x venv/bin/python ] && [ "$$(cat venv/.stamp 2>/dev/null)" = "$$(pwd -P)" ] || echo stale)
ifeq ($(origin PYTHON),command line)
STALE := stale
endif

# Another Python's modules must not leak into venv/.
unexport PYTHONHOME PYTHONPATH

.PHONY: help help-env setup demo serve-demo simulate doctor smoke quick warmup profile sweep capacity rerun summary calibrate
.PHONY: test check check-python check-shell check-files format golden bench clean stale

##@ Help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2} \
	  END {print "\n  Settings: make profile CONCURRENCY=20"; print "  Arguments of calibrate, demo, doctor, serve-demo, simulate, rerun, smoke, summary: ARGS=\"--help\""}' Makefile

help-env: $(STAMP) ## All settings: meaning, default, unit
	@$(PY) scripts/help_env.py $(ARGS)

##@ Try
setup: $(STAMP) ## Prepare venv/ (every verb does this by itself when needed)
	@:

demo: $(STAMP) $(DEMO) ## Measure a small real model on this machine, from nothing to the table
	@$(PY) scripts/demo.py $(ARGS)

serve-demo: $(STAMP) $(DEMO) ## Leave that model running, to point your .env at (PORT=…)
	@$(PY) scripts/serve_demo.py $(ARGS)

simulate: $(STAMP) ## A chat endpoint with known delays
	@$(PY) scripts/simulate_endpoint.py $(ARGS)

##@ Measure
doctor: $(STAMP) ## Check this machine, the settings and the endpoint before a run
	@$(PY) scripts/doctor.py $(ARGS)

smoke: $(STAMP) ## One streamed request: does the endpoint of .env answer?
	@$(PY) scripts/smoke_stream.py $(ARGS)

quick: $(STAMP) ## A minute, no .env: what one user sees of a server on this machine, how many it serves
	@$(PY) scripts/quick.py $(ARGS)

warmup: $(STAMP) ## A small run (3 users, 9 requests)
	@bash scripts/run_aiperf_profile.sh warmup $(ARGS)

profile: $(STAMP) ## Measure as set in .env (DRY_RUN=1 only shows the command)
	@bash scripts/run_aiperf_profile.sh profile $(ARGS)

sweep: $(STAMP) ## Measure at each of SWEEP_CONCURRENCIES, what is missing only (FRESH=1: all)
	@bash scripts/run_aiperf_profile.sh sweep $(ARGS)

rerun: $(STAMP) ## The latest run again, and what differs today (RUN=folder)
	@$(PY) scripts/rerun.py $${RUN:+"$$RUN"} $(ARGS)

capacity: $(STAMP) ## Find the most users that meet the objectives (SLO_TTFT_P95_MS=500 …)
	@$(PY) scripts/capacity.py $(ARGS)

summary: $(STAMP) ## Table of the latest run (RUN=folder, OUTPUT_DIR=folder)
	@$(PY) scripts/summarize_export.py $${RUN:+"$$RUN"} $${OUTPUT_DIR:+--output-dir "$$OUTPUT_DIR"} $(ARGS)

calibrate: $(STAMP) ## What this machine's client adds to the figures, and the load it can drive
	@$(PY) scripts/calibrate.py $(ARGS)

##@ Develop
test: $(STAMP) $(DEMO) ## Run the tests (ARGS="-k word")
	@$(PY) -m pytest $(ARGS)

check: check-python check-shell check-files ## Lint and type-check everything

check-python: $(STAMP) $(CHECK)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

check-shell: $(STAMP) $(CHECK)
	@PATH="$$PWD/venv/bin:$$PATH" && shellcheck $(SHELL_FILES) && shfmt -d -i 2 -ci $(SHELL_FILES)

check-files: $(STAMP) $(CHECK)
	@venv/bin/hadolint docker/Dockerfile
	@$(PY) -m check_jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	@$(PY) -m check_jsonschema -q --builtin-schema vendor.compose-spec docker/docker-compose.yml

format: $(STAMP) $(CHECK) ## Format Python and shell
	@$(PY) -m ruff check -q --fix .
	@$(PY) -m ruff format .
	@venv/bin/shfmt -w -i 2 -ci $(SHELL_FILES)

golden: $(STAMP) ## Make the golden files anew from real AIPerf runs
	@PYTHONPATH=scripts:. $(PY) tests/make_golden.py $(ARGS)

bench: $(STAMP) $(DEMO) ## Measure the harness itself (BENCH=name of one)
	@for file in tests/bench/bench_$${BENCH:-*}.py; do echo "== $$file"; PYTHONPATH=scripts:. $(PY) "$$file" || exit 1; done

clean: ## Remove venv/ and caches; artifacts/ and .env stay
	@rm -rf venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

stale:

$(STAMP): requirements.txt requirements-data.txt scripts/setup.sh scripts/find_python.sh $(STALE)
	@$(if $(filter setup,$(MAKECMDGOALS)),NEXT=1) bash scripts/setup.sh

$(CHECK) $(DEMO): venv/.stamp-%: requirements-%.txt $(STAMP)
	@bash scripts/setup.sh $*
