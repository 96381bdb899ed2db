# Needs Python 3.11 or newer, git and make, nothing else. Everything that is made stays in this folder.
# Settings: PYTHON=… the Python to use, ARGS=… more arguments for the command, WORKERS=… test processes.
# Tests mostly wait for other processes: one more than there are processors, eight at most.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 7 ? n + 1 : 8)))
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo test check bench compat schema-diff crashloop fleet-proof figures proof fmt lock clean setup-demo setup-dev

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

demo: setup-demo ## Run a real Codex through codexd, kill codexd in mid-turn, see nothing lost (no account needed)
	@$(BIN)/baa demo $(ARGS)

test: setup-dev ## Check, then every other test: contract, fault, end to end (as root on Debian: installs what they need)
	@$(BIN)/python scripts/system.py
	@$(MAKE) --no-print-directory check
	$(PYTEST) --ignore=tests/unit $(ARGS)

check: setup-dev ## Format, lint, types, import contract, dependencies, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry src
	$(PYTEST) tests/unit

crashloop: N ?= 200
crashloop: setup-dev ## Kill codexd N=200 times, its keeper and child in turn: what was lost, done twice, left (SEED=…)
	@$(BIN)/python -m tests.proof.crashloop --kills $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

fleet-proof: N ?= 60
fleet-proof: setup-dev ## N=60 tasks on 3 nodes whose processes are killed, stopped, restarted for 60 s: lost, ended twice (SEED=…)
	@$(BIN)/python -m tests.proof.fleet --tasks $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

figures: setup-dev ## Every figure of the proof, measured here: name, value, unit, of how many, seed (about half an hour)
	@$(BIN)/python scripts/system.py
	@$(BIN)/python -m tests.proof.whole $(ARGS)

proof: setup-dev ## The same in a few lines: faults survived, events lost, acks before fsync, orphans, recovery, bad input, the guard
	@$(BIN)/python scripts/system.py
	@$(BIN)/python -m tests.proof.whole --lines $(ARGS)

bench: setup-dev ## Every figure beside the bare app-server, the peers and its target, on this machine (ARGS=--short; five minutes)
	@$(BIN)/python -m bench --json .bench/figures.json --plots .bench $(ARGS)

compat: setup-dev ## The tests of what Codex does for codexd, on other releases of it (ARGS=VERSION…; all: gigabytes and half an hour)
	@$(BIN)/python -m tests.proof.compat $(ARGS)

schema-diff: setup-dev ## Two releases of Codex, A=… B=… (versions or paths), compared in the part of the app-server that codexd uses
	@$(BIN)/python -m tests.proof.schema $(A) $(B)

fmt: setup-dev ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# No configuration and no cache of the user's: a lock file must not depend on the machine that made it.
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra codex --group build \
	--generate-hashes --no-emit-index-url --no-python-downloads --no-config --no-cache --quiet --custom-compile-command 'make lock'

lock: setup-dev ## Renew requirements/ from pyproject.toml (ARGS=--upgrade takes the newest versions)
	$(LOCK) -o requirements/demo.txt $(ARGS)
	$(LOCK) -o requirements/dev.txt --group dev -c requirements/demo.txt $(ARGS)

clean: ## Remove the virtual environment and every cache
	rm -rf .venv .venv.lock .codex-releases .bench dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -prune -exec rm -rf {} +

setup-demo setup-dev: setup-%:
	@python=$$(scripts/find-python) && "$$python" scripts/setup.py $*
