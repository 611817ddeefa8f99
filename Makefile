# seqkern's commands; `make help` lists them. All need only Python >= 3.10, a C++17 compiler and make:
# the first one creates .venv and installs torch into it.

PYTHON ?= python3
TORCH ?= torch==2.13.*
# The release that tests/triton_resources.json is of; beside another torch, what that one asks for.
TRITON ?= $(if $(findstring torch==2.13,$(TORCH)),triton==3.7.1,triton>=3.6)
VENV ?= .venv
ARGS ?=
BENCH ?=
JOBS ?= $(shell nproc)
OUT ?= build/bench-gpu.json

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.seqkern-installed
LINTERS := $(VENV)/.seqkern-linters
DOCUMENTERS := $(VENV)/.seqkern-documenters
# What runs the kernels in this process or a fork of it: torch.compile and DDP start others, which the runtime does not
# survive.
SANITIZED := tests/test_matmul.py tests/text \
	$(patsubst %,tests/recurrent/test_%.py,parity cells cell_operators prepack torch_cases pointwise) \
	$(patsubst %,tests/attention/test_%.py,parity robustness varlen dropout decode multi_head precision) \
	$(patsubst %,tests/embedding/test_%.py,parity operators bags update training training_calls sparse_adam)
# What the benchmark writes: build/bench.json, or build/bench-DOMAIN.json with BENCH=DOMAIN.
MEASURED = build/bench$(addprefix -,$(BENCH)).json
# In JOBS processes; what ARGS says comes later and holds, -n0 or -m '' too.
TESTS = $(PY) -m pytest -n $(JOBS) --dist loadgroup
CXX_SOURCES = $(shell find csrc tests/cuda_host -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test test-slow gpu-test gpu-bench resources bench docs lint format sanitize build wheel clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'ARGS="..." goes on to the program, e.g. make test ARGS="-k lstm" or make demo ARGS="--text FILE";'
	@echo 'make bench BENCH=attention (or recurrent) measures one domain'

demo: build ## train a language model and word vectors, with PyTorch or gensim beside seqkern
	$(PY) -m seqkern demo $(ARGS)

# Both halves run, whether the first passes or not; only an interrupt ends both.
test: build ## run the tests but the slow ones, in JOBS=... processes (default: all cores)
	@trap 'exit 130' INT; status=0; set -x; \
	$(TESTS) -m 'not slow' $(ARGS) || status=1; \
	TRITON_INTERPRET=1 $(TESTS) -m 'not slow' $(ARGS) || status=1; \
	{ set +x; } 2>/dev/null; exit $$status

test-slow: build ## run the slow tests: those that build a wheel, compile CUDA, or take minutes or gigabytes
	$(TESTS) -m slow $(ARGS)

gpu-test: build ## run the tests of the GPU kernels on the GPU
	$(PY) -m tests.gpu
	$(PY) -m tests.gpu run $(ARGS)
	@# memcheck and racecheck of one small case for each group of kernels, where the CUDA toolkit is installed
	if command -v compute-sanitizer; then for tool in memcheck racecheck; do SEQKERN_TEST_DEVICE=cuda compute-sanitizer --tool $$tool \
	    --error-exitcode 1 $(PY) -m pytest -k sanitizer || exit 1; done; else echo 'compute-sanitizer is not installed: left out'; fi

gpu-bench: build ## measure the GPU kernels against PyTorch and write OUT=FILE.json (default build/bench-gpu.json)
	$(PY) -m bench.gpu $(OUT) $(ARGS)

resources: $(INSTALLED) ## write the installed Triton's tests/triton_resources*.json anew, after a change to a Triton kernel that is meant
	$(PY) -m tests.triton_resources $(ARGS)

bench: build ## measure against PyTorch, print the table and draw the plots (minutes)
	$(PY) -m pytest bench/$(or $(BENCH),*)_bench.py --benchmark-enable --benchmark-json=$(MEASURED) $(ARGS)
	$(PY) -m bench.report $(MEASURED)

docs: build $(DOCUMENTERS) ## build the documentation into build/docs/index.html
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs

lint: $(LINTERS) ## check style and types: ruff, clang-format, mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(VENV)/bin/mypy

format: $(LINTERS) ## rewrite the sources in the style that lint checks
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

# Python itself is not sanitized, so the runtime has to be loaded before it; libstdc++ as well, because the runtime
# looks for the exception functions when it starts. Python never frees everything: leaks say nothing here. The
# runtime writes to the file descriptor, which pytest would swallow when the process ends.
sanitize: $(INSTALLED) ## run the kernels' parity tests and the text core's with ASAN and UBSAN
	built=$$($(PY) -m build_tools address,undefined) && \
	compiler=$${CXX:-c++} && \
	export LD_PRELOAD="$$($$compiler -print-file-name=libasan.so) $$($$compiler -print-file-name=libstdc++.so)" && \
	export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 SEQKERN_CPU_LIBRARY=$$built/_cpu.so && \
	export SEQKERN_TEXT_MODULE=$$built/_text.so && \
	$(PY) -m pytest -p no:xdist --capture=sys $(SANITIZED) $(ARGS)

build: $(INSTALLED) ## bring the compiled libraries up to date
	@$(PY) setup.py -q build_ext --inplace

wheel: $(INSTALLED) ## make dist/*.whl and dist/*.tar.gz
	rm -rf build/lib* build/bdist* dist
	$(PY) -m pip wheel . --no-build-isolation --no-deps -w dist
	$(PY) -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")'

clean: ## remove what was built; .venv stays
	rm -rf build dist *.egg-info seqkern/*.so
	rm -f $(INSTALLED) $(LINTERS) $(DOCUMENTERS)

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "seqkern needs Python >= 3.10; name one: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# Another TORCH than the one that was installed is installed too.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(TORCH))
.PHONY: $(INSTALLED)
endif

# Built before it is installed, so that the compiler's progress is seen.
$(INSTALLED): pyproject.toml setup.py | $(PY)
	$(PY) -m pip install '$(TORCH)' '$(TRITON)' 'setuptools>=77' 'ninja>=1.11' 'pybind11>=2.13'
	$(PY) setup.py -q build_ext --inplace
	$(PY) -m pip install --no-build-isolation -e '.[test]'
	@echo '$(TORCH)' > $@

$(LINTERS): $(INSTALLED)
	$(PY) -m pip install --no-build-isolation -e '.[dev]'
	@touch $@

$(DOCUMENTERS): $(INSTALLED)
	$(PY) -m pip install --no-build-isolation -e '.[docs]'
	@touch $@
