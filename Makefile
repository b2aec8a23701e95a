# From a fresh clone: "make demo" runs the main job, "make test" the tests. Both set up .venv first (once).

# The first Python >= 3.11 found; another one: make test PYTHON=/path/to/python3.12
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# What pip is asked for first. The default on Linux brings CUDA along; a machine without a GPU is served faster by
#   make test TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch torchvision

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-cuda lint format soak audit clean

demo: $(VENV)/.installed
	$(BIN)/fna demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n logical --dist loadfile

# On a machine with an NVIDIA GPU, minutes; elsewhere every one of these is skipped.
test-cuda: $(VENV)/.installed
	$(BIN)/python -m pytest -m cuda -rsx tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# By hand: 200 kills at random moments of all tasks and stages, half an hour on two cores.
soak: $(VENV)/.installed
	$(BIN)/python benchmarks/resume.py 200

# By hand: known weaknesses and licences of what is installed, asked of PyPI; the tools have an environment of their own.
audit: $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit pip-licenses
	$(VENV)/audit/bin/pip-audit --strict --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(VENV)/audit/bin/pip-licenses --python $(BIN)/python --from=mixed --partial-match --fail-on GPL

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; give one: make test PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install --editable '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@
