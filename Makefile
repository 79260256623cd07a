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
# The package index that has PyTorch's build for machines without a GPU, or a mirror of it. Where it
# cannot be reached, or the variable is empty, PyTorch comes from pip's own index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_PAGE = $(and $(filter cpu,$(DEVICE)),$(TORCH_INDEX),$(TORCH_INDEX:/=)/torch/)
# NVIDIA's bindings of both TensorRTs that plans are built with, for the tests: 1 MB each, no GPU needed.
BINDINGS := 10:tensorrt_cu12_bindings==10.16.1.11 11:tensorrt_cu13_bindings==11.1.0.106

# The files of the tests are shared out to one process more than there are cores, four at most: half of
# their time, tests wait for servers. They stay in the order of tests/conftest.py, the longest first.
SHARED_OUT = --numprocesses $(shell expr $$(nproc) + 1) --maxprocesses 4 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

# Makes the mutants of `make mutants`.
MUTMUT := mutmut==3.8.1

BIN := $(VENV)/bin
# pip would compile all with one core, tests included. compileall fails for files that Python 3.11 cannot
# compile, which nothing imports.
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
INSTALLED := $(VENV)/.installed
# The page's own environment: Gradio needs an older Pillow than the rest is tested with.
WEB := $(VENV)/web

# A real S3 server for the tests, beside the environment and not in it: moto needs an older python-dateutil.
MOTO := moto==5.2.5 boto3==1.44.8 botocore==1.44.8 s3transfer==0.19.3 jmespath==1.1.0 responses==0.26.3 xmltodict==1.0.4 \
  py-partiql-parser==0.6.3 werkzeug==3.1.9 flask==3.1.3 flask-cors==6.0.5 blinker==1.9.0 itsdangerous==2.2.0

# Ray for the tests, beside the environment too: 100 MB that nothing else needs. pandas 3 needs numpy 2.
RAY := ray==2.60.0 msgpack==1.2.4 pandas==2.3.3 pytz==2026.6 tzdata==2026.6 grpcio-reflection==1.78.0

.DEFAULT_GOAL := help
.PHONY: help install demo export export-gpu tensorrt-ngc serve serve-ngc classify web screenshots kserve perf-analyzer bench bench-cpu test test-environment test-elsewhere test-without-vectors test-avx2 test-gpu fuzz mutants lint docs format lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

install: $(INSTALLED) ## make .venv with everything in it, at the locked versions

# Prints why the page of an index cannot be read, or nothing.
define ASK_INDEX
import os, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
try:
    urllib.request.urlopen(sys.argv[1], timeout=15, context=context).close()
except (OSError, ValueError) as error:
    print(sys.argv[1], "cannot be read:", getattr(error, "reason", error) or type(error).__name__)
endef
export ASK_INDEX

$(INSTALLED): $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "error: $(PYTHON) is not Python 3.11; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo 'installing into $(VENV), for a $(DEVICE)'
	@$(PYTHON) -m venv $(VENV)
	@reason='TORCH_INDEX is empty'; \
	test -z '$(TORCH_PAGE)' || reason=$$($(PYTHON) -c "$$ASK_INDEX" '$(TORCH_PAGE)'); \
	if [ $(DEVICE) != cpu ]; then \
	  echo 'downloads: several GB, of which PyTorch with CUDA is about 3 GB'; \
	elif [ -z "$$reason" ]; then \
	  echo 'downloads: PyTorch for CPUs, 190 MB, from $(TORCH_INDEX); all other packages, 530 MB'; \
	  $(PIP) --index-url '$(TORCH_INDEX)' --no-deps $$(grep -E '^torch(vision)?==' $(LOCK)); \
	else \
	  echo "PyTorch comes from pip's own index, because $$reason"; \
	  echo 'downloads: PyTorch, about 3 GB unless that index has its build for CPUs (190 MB); all other packages, 530 MB'; \
	fi
	@$(PIP) --requirement $(LOCK)
	@$(PIP) --no-deps --editable .
	@for each in $(BINDINGS); do $(PIP) --no-deps --upgrade \
	  --target $(VENV)/tensorrt/$${each%%:*} $${each#*:} || exit; done
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing/_internal)/' $(VENV)/lib >/dev/null || true
	@touch $@

demo: $(INSTALLED) ## export, prove, serve and classify: all of it, on this machine
	@$(BIN)/python -m export --weights ngc --repository $(REPOSITORY) --image-input || { \
	  code=$$?; test $$code -eq 69 || exit $$code; \
	  echo 'NVIDIA'"'"'s weights cannot be fetched here: the demo goes on with UNTRAINED ones.' >&2; \
	  $(BIN)/python -m export --weights seeded --repository $(REPOSITORY) --image-input; }
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

# URL=HOST:PORT asks a server that runs already. MODELS="a b" are the models that the page offers.
web: $(WEB)/.installed ## serve model_repository and a page to try it in a browser
	@$(if $(URL),TRITON_URL='$(URL)',$(BIN)/python -m server --repository $(REPOSITORY) \
	  --grpc-port 0 --http-port 0 --metrics-port 0 $(MODELS:%=--model %) --) \
	  $(WEB)/bin/python -m client web $(MODELS:%=--model %) $(if $(PORT),--port $(PORT))

screenshots: $(WEB)/.installed ## draw the pictures of the page in docs/, with Chromium
	@$(BIN)/python -m tests.client.page.screenshots docs

$(WEB)/.installed: requirements-web.lock $(INSTALLED)
	@echo 'installing the page into $(WEB); downloads: 100 MB'
	@$(BIN)/python -m venv $(WEB)
	@$(WEB)/bin/pip install --quiet --disable-pip-version-check --no-compile --requirement requirements-web.lock
	@$(WEB)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# kserve needs other versions of some packages than the rest.
kserve: $(VENV)/kserve/.installed ## send PHOTOGRAPHS with kserve's SDK to the ONNX model of model_repository
	@$(BIN)/python -m server --repository $(REPOSITORY) --model $(NAME)_onnx_image -- $(VENV)/kserve/bin/python \
	  tests/stock/kserve_sdk.py -m $(NAME)_onnx_image $(PHOTOGRAPHS)

$(VENV)/kserve/.installed: $(INSTALLED)
	@$(BIN)/python -m venv $(VENV)/kserve
	@$(VENV)/kserve/bin/pip install --quiet --disable-pip-version-check kserve==0.21.0
	@touch $@

perf-analyzer: $(VENV)/perf_analyzer/perf_analyzer ## fetch NVIDIA's perf_analyzer

$(VENV)/perf_analyzer/perf_analyzer: $(INSTALLED)
	@$(BIN)/python -m perf install

bench: perf-analyzer ## measure both models, served and raw, and write a report: about ten minutes
	@test -e $(REPOSITORY)/$(NAME)_onnx/1 || $(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(REPOSITORY)
	@$(BIN)/python -m perf sweep $(DEMO_MODELS) --repository $(REPOSITORY)
	@$(BIN)/python -m perf compare raw:$(NAME)_torchscript $(NAME)_torchscript raw:$(NAME)_onnx $(NAME)_onnx --repository $(REPOSITORY) \
	  --batch 8 --concurrency 2
	@$(BIN)/python -m perf report

bench-cpu: perf-analyzer ## measure all that serves on a CPU, INT8 included, by turns: about 25 minutes
	@test -e perf/results/calibration || $(BIN)/python -m perf crops perf/results/calibration
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats torchscript,pt2,onnx,openvino
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats openvino --precision bf16
	@$(BIN)/python -m export --weights $(or $(WEIGHTS),seeded) --repository $(BENCH) --formats openvino --precision int8 \
	  --calibration $(or $(CALIBRATION),perf/results/calibration) --min-agreement $(if $(WEIGHTS),0.95,0)
	@$(BIN)/python -m perf cpu --repository $(BENCH)

test: test-environment ## prove it: the tests, with the real tritonserver; COVERAGE=1 says which lines they ran
	$(BIN)/python -m $(if $(COVERAGE),coverage run -m) pytest $(SHARED_OUT)
	$(if $(COVERAGE),@$(BIN)/coverage combine --quiet && $(BIN)/coverage report)

test-environment: $(INSTALLED) $(WEB)/.installed $(VENV)/perf_analyzer/perf_analyzer $(VENV)/$(MUTMUT) $(VENV)/moto $(VENV)/ray ## install what the tests need besides

# What computes, as on machines with fewer instructions and cores. With --jobs 2, both halves run at the same
# time: one on the first core, one on the others, with a process more than those.
test-elsewhere: test-without-vectors test-avx2 ## the tests that compute, as on two other machines

CORES := import os; first, *others = map(str, sorted(os.sched_getaffinity(0)));

test-without-vectors: $(INSTALLED) ## on one core, PyTorch without vector instructions
	ATEN_CPU_CAPABILITY=default taskset --cpu-list $$($(BIN)/python -c '$(CORES) print(first)') \
	  $(BIN)/python -m pytest -m numeric

test-avx2: $(INSTALLED) ## on the other cores, with AVX2 only
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
	  taskset --cpu-list $$($(BIN)/python -c '$(CORES) print(*others or first, sep=",")') \
	  $(BIN)/python -m pytest -m numeric $(SHARED_OUT) --numprocesses $$(nproc)

test-gpu: $(INSTALLED) ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -rs

fuzz: $(INSTALLED) ## look for inputs that break a property of the tests, for MINUTES=10
	@end=$$(( $$(date +%s) + 60 * $(or $(MINUTES),10) )); while [ $$(date +%s) -lt $$end ]; do \
	  HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis || exit; done

mutants: $(VENV)/$(MUTMUT) perf-analyzer ## see which small bugs no test notices: ONLY="perf/turns.py" TESTS="tests/perf/test_compare.py" SAMPLE=60 SEED=0 JOBS=1 MINUTES=20
	PYTHONPATH=$(abspath $(VENV)/$(MUTMUT)) $(BIN)/python -m tests.mutants $(ONLY) $(if $(TESTS),--tests $(TESTS)) $(if $(SAMPLE),--sample $(SAMPLE)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES))

# Its operators and what they need, beside the environment and not in it.
$(VENV)/$(MUTMUT): $(INSTALLED)
	@$(PIP) --no-deps --upgrade --target $@ $(MUTMUT) libcst==1.9.0

$(VENV)/moto: $(INSTALLED)
	@$(PIP) --no-deps --upgrade --target $@ $(MOTO)

$(VENV)/ray: $(INSTALLED)
	@$(PIP) --no-deps --upgrade --target $@ $(RAY)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy seresnext101_triton tests
	$(BIN)/mypy --python-version 3.10 -p seresnext101_triton.client -p seresnext101_triton.server -m seresnext101_triton.__main__

docs: $(INSTALLED) ## build README.md and docs/ as a site in site/; every link in them is checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(INSTALLED) ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## write both requirements files anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet pip-tools
	for each in dev,cpu:requirements.lock dev,cuda:requirements-gpu.lock web:requirements-web.lock; do \
	  $(VENV)-lock/bin/pip-compile --quiet --upgrade --extra $${each%:*} --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-options --output-file $${each#*:} pyproject.toml || exit; done
	@sed -i 's/\(==[0-9.]*\)+cpu/\1/; /^seresnext101-triton @/,+1d' requirements*.lock # not the project itself, by its path here
	@grep -o 'tensorrt==[0-9.]*' pyproject.toml >> requirements-gpu.lock # it pins its own parts
	@rm -rf $(VENV)-lock

clean: ## remove .venv and what tools left; exported models stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build site *.egg-info
