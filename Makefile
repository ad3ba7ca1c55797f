# Each target sets up its own environment in .venv, once; pick the Python with PYTHON=python3.12.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

DEMO_SLIDE := demo/rings_P1_D5_9_13.tif
DEMO_MPP := 0.93
DEMO_OUT ?= demo-out

REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

.PHONY: help demo test lint format bench clean distclean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | while IFS="$$(printf '\t')" read -r target text; do printf '  make %-10s %s\n' "$$target" "$$text"; done

demo: $(VENV)/.installed ## segment the real slide in demo/, write its mask and a picture of it
	@$(BIN)/wsi-magnet run $(DEMO_SLIDE) --mpp $(DEMO_MPP) -o $(DEMO_OUT)
	@$(BIN)/wsi-magnet overlay $(DEMO_OUT)/rings_P1_D5_9_13

test: $(VENV)/.installed ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.installed-dev ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed ## print the memory and compression figures again
	@$(BIN)/python -m tests.benchmarks

clean: ## delete results and caches
	rm -rf $(DEMO_OUT) bench-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and delete the environment
	rm -rf $(VENV)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else \
	"$(PYTHON) is Python %d.%d, and wsi-magnet is tested on 3.11 and 3.12; name another one: make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV) (once; a few minutes, most of it PyTorch) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the developers' tools into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev,train]'
	@touch $@
