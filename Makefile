PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: help demo dev test slow chaos chaos-tau check tau lint protos protos-baseline stubs bench hammer guarantees interop fuzz \
  mutation clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv-protos/.stamp: Makefile
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.76.0 mypy-protobuf==5.1.0
	@touch $@

demo: $(STAMP) ## seven scenes on a real PostgreSQL, OpenBao and four services; leaves build/demo/ledger
	$(BIN)/counterseal demo

dev: $(STAMP) ## the whole suite on this machine, until Ctrl-C
	$(BIN)/counterseal dev

test: $(STAMP) ## unit, model, contract, store and end-to-end tests on real servers
	$(BIN)/pytest -n 3 --dist loadgroup -m 'not slow'

slow: $(STAMP) ## the tests that take too long for `make test` (SLOW=paths for some of them)
	$(BIN)/pytest -n 3 --dist loadgroup -m slow $(SLOW)

tau: $(STAMP) ## the retail workload through the four services: DATA=dir TASKS=file[,file] OUT=file
	$(BIN)/python -m examples.retail.run $(if $(DATA),--data "$$DATA",--skip-if-absent) \
	  $(if $(TASKS),--tasks "$$TASKS") $(if $(OUT),--out "$$OUT")

chaos: $(STAMP) ## seeded SIGKILLs of every service under load, judged by a checker: LOAD_SECONDS= SEED= EACH=
	PYTHONPATH=.:tests $(BIN)/python -m chaos.run $(if $(LOAD_SECONDS),--seconds $(LOAD_SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(EACH),--each $(EACH))

chaos-tau: $(STAMP) ## the same under the retail workload: DATA=dir TASKS=file[,file] SEED= EACH=
	PYTHONPATH=.:tests $(BIN)/python -m chaos.tau $(if $(DATA),--data '$(DATA)') $(if $(TASKS),--tasks '$(TASKS)') \
	  $(if $(SEED),--seed $(SEED)) $(if $(EACH),--each $(EACH))

check: lint test slow ## everything static, then every test

lint: $(STAMP) ## ruff, mypy, import contracts, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

protos: .venv-protos/.stamp ## regenerate the committed Python stubs
	bash tools/protos.sh .venv-protos/bin/python

stubs: $(STAMP) ## TypeScript, Go and Java stubs and descriptor.binpb in build/stubs
	$(BIN)/python tools/stubs/generate.py --buf $(BIN)/buf

bench: $(STAMP) ## speed and memory beside their floors; table and JSON in build/bench (BENCH=--quick for a trial)
	PYTHONPATH=.:tests $(BIN)/python -m bench $(BENCH)

hammer: $(STAMP) ## load and correctness together on several audit replicas: HAMMER="--goal N --kills N" (--help)
	PYTHONPATH=.:tests $(BIN)/python -m bench.hammer $(HAMMER)

guarantees: $(STAMP) ## docs/reference/guarantees.md from tests/requirements.toml and the tests that name its ids
	cd tests && ../$(BIN)/python -m support.requirements

protos-baseline: $(STAMP) ## accept today's contract as the one to stay compatible with; in the commit that closes an issue
	$(BIN)/buf build -o protos/baseline.binpb

.venv-interop/.stamp: Makefile
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/pip install --quiet --disable-pip-version-check tlog-scales==0.0.3 sigstore==4.5.1
	if command -v npm >/dev/null; then npm install --prefix .venv-interop/node --ignore-scripts --no-audit --no-fund \
	  --loglevel=error @sigstore/verify@4.1.3; else echo "npm is not installed: @sigstore/verify is left out"; fi
	@touch $@

interop: $(STAMP) .venv-interop/.stamp ## exports read by verifiers of other people, in an environment of their own
	$(BIN)/pytest -rs tests/interop/test_foreign_verifiers.py

fuzz: $(STAMP) ## a million mutated inputs into every reader of the ledger library (COUNT=, SEED=)
	PYTHONPATH=tests $(BIN)/python -m support.fuzz $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED))

mutation: $(STAMP) ## change the ledger's code one place at a time; every change must fail a test (docs/evidence/mutation.md)
	$(BIN)/python -m tools.mutation $(MUTATION)

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-protos .venv-interop build
