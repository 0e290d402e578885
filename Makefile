# Every target sets up .venv by itself; `make demo` is the 60-second start of the README.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell getconf _NPROCESSORS_ONLN)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# python is started many times, and compiling torch and transformers anew takes it half a minute
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint bench torture matrix clean

demo: $(VENV)/.installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	  --num_cpu_threads_per_process $(CORES) recipes/dpo_caption.yaml  # accelerate gives a process one thread

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(CORES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(VENV)/.installed-test
	for file in tests/bench/[!_]*.py; do $(BIN)/python $$file || exit 1; done

# not compiled ahead, which saves the demo half a minute; the tests start python hundreds of times, so theirs is
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check obp==0.4.1  # for the click logs it carries
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

torture: $(VENV)/.installed-test
	$(BIN)/python -u -m tests.torture.torture --kills 100

matrix: $(VENV)/.installed-test
	MATRIX=all OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/matrix -s

clean:
	rm -rf runs build *.egg-info
