# The front door. `make` alone lists what is behind it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
REPOSITORY ?= model_repository
BENCH ?= perf/results/models
PHOTOGRAPHS ?= client/photographs/*.jpg
NAME := seresnext101
DEMO_MODELS := --model $(NAME)_torchscript --model $(NAME)_onnx

# What ONNX Runtime and PyTorch are installed for: `gpu` where an NVIDIA driver is, else `cpu`.
DEVICE ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
LOCK := requirements$(if $(filter gpu,$(DEVICE)),-gpu).lock
# NVIDIA's bindings of both TensorRTs that plans are built with, for the tests: 1 MB each, no GPU needed.
BINDINGS := 10:tensorrt_cu12_bindings==10.16.1.11 11:tensorrt_cu13_bindings==11.1.0.106

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo export export-gpu tensorrt-ngc serve serve-ngc classify perf-analyzer bench bench-cpu test test-gpu lint format lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

install: $(INSTALLED) ## make .venv with everything in it, at the locked versions

$(INSTALLED): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "error: $(PYTHON) is not Python 3.11; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo 'installing into $(VENV), for a $(DEVICE): one to three minutes'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r $(LOCK)
	@for each in $(BINDINGS); do $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/tensorrt/$${each%%:*} $${each#*:} || exit; done
	@touch $@

demo: $(INSTALLED) ## export, prove, serve and classify: all of it, on this machine
	@$(BIN)/python -m export --weights ngc --repository $(REPOSITORY) || { \
	  code=$$?; test $$code -eq 69 || exit $$code; \
	  echo 'NVIDIA'"'"'s weights cannot be fetched here: the demo goes on with UNTRAINED ones.' >&2; \
	  $(BIN)/python -m export --weights seeded --repository $(REPOSITORY); }
	@$(BIN)/python -m server --repository $(REPOSITORY) $(DEMO_MODELS) --grpc-port 0 --http-port 0 --metrics-port 0 -- \
	  $(BIN)/python -m client classify $(PHOTOGRAPHS) $(DEMO_MODELS)

export: $(INSTALLED) ## publish NVIDIA's weights, or WEIGHTS=...
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),ngc) --repository $(REPOSITORY)

export-gpu: $(INSTALLED) ## publish all that a GPU serves, in FP16; without a GPU what can be, and exit code 3
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),ngc) --repository $(REPOSITORY) --partial \
	  --formats torchscript,onnx,onnx_trt,tensorrt --precision fp16 --device gpu --max-batch 32

tensorrt-ngc: $(INSTALLED) ## publish a TensorRT plan built inside NVIDIA's image, in Docker
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),ngc) --repository $(REPOSITORY) \
	  --formats tensorrt --in-image --max-batch 32

serve: $(INSTALLED) ## serve model_repository until Ctrl-C
	@$(BIN)/python -m server --repository $(REPOSITORY)

serve-ngc: $(INSTALLED) ## the same with NVIDIA's image, in Docker
	@$(BIN)/python -m server --repository $(REPOSITORY) --ngc

classify: $(INSTALLED) ## classify IMAGES="a.jpg b.jpg" with MODEL=seresnext101_onnx of a running server
	@$(BIN)/python -m client classify $(or $(IMAGES),$(PHOTOGRAPHS)) --model $(or $(MODEL),$(NAME)_onnx)

perf-analyzer: $(VENV)/perf_analyzer/perf_analyzer ## fetch NVIDIA's perf_analyzer

$(VENV)/perf_analyzer/perf_analyzer: $(INSTALLED)
	@$(BIN)/python -m perf install

bench: perf-analyzer ## measure both models, served and raw, and write a report: about ten minutes
	@test -e $(REPOSITORY)/$(NAME)_onnx/1 || $(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(REPOSITORY)
	@$(BIN)/python -m perf sweep $(DEMO_MODELS) --repository $(REPOSITORY)
	@$(BIN)/python -m perf compare raw:$(NAME)_torchscript $(NAME)_torchscript raw:$(NAME)_onnx $(NAME)_onnx --repository $(REPOSITORY) \
	  --batch 8 --concurrency 2
	@$(BIN)/python -m perf report

bench-cpu: perf-analyzer ## measure all that serves on a CPU, INT8 included, by turns: about 20 minutes
	@test -e perf/results/calibration || $(BIN)/python -m perf crops perf/results/calibration
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats torchscript,onnx,openvino
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats openvino --precision bf16
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats openvino --precision int8 \
	  --calibration $(or $(CALIBRATION),perf/results/calibration) --min-agreement $(if $(WEIGHTS),0.95,0)
	@$(BIN)/python -m perf cpu --repository $(BENCH)

test: $(INSTALLED) $(VENV)/perf_analyzer/perf_analyzer ## prove it: the tests, with the real tritonserver
	$(BIN)/python -m pytest

test-gpu: $(INSTALLED) ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -rs

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy client server export perf tests

format: $(INSTALLED) ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## write both requirements files anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet pip-tools
	for each in cpu:requirements.lock cuda:requirements-gpu.lock; do \
	  $(VENV)-lock/bin/pip-compile --quiet --upgrade --extra dev --extra $${each%:*} --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-options --output-file $${each#*:} pyproject.toml || exit; done
	@sed -i 's/\(==[0-9.]*\)+cpu/\1/; /^seresnext101-triton @/,+1d' requirements*.lock # not the project itself, by its path here
	@grep -o 'tensorrt==[0-9.]*' pyproject.toml >> requirements-gpu.lock # it pins its own parts
	@rm -rf $(VENV)-lock

clean: ## remove .venv and what tools left; exported models stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
