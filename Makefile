# `make help` lists the targets. Each one sets up what it needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# The book's stored outputs and the tests use the embedded data, so that they are the same everywhere.
BOOK_DATA ?= shapes10

# A thread that waits for the others sleeps and does not spin, also where a notebook imports torch before the package.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help book pdf compare runs lint test test-all lab notebooks lock clean

help:  ## Show this list
	@echo "Fifty-Six Layers: plain-56 against ResNet-56"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo "Variables: STEPS= EPOCHS= DEPTH= SEED= DATA= DEVICE= (compare), SUITE= DATA= DEVICE= (runs), REPOSITORY= (book), PYTHON=, TORCH_INDEX= (see README)"

book: $(READY)  ## Build the book: _build/html/index.html
	$(BIN)/python book/build.py $(if $(REPOSITORY),'$(REPOSITORY)')
	@echo "The book: $(CURDIR)/_build/html/index.html"

pdf: book  ## Print the book: _build/fifty-six-layers.pdf (needs Chromium)
	$(BIN)/python book/pdf.py

COMPARE_FLAGS = $(strip $(if $(STEPS),--steps $(STEPS)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DEPTH),--depth $(DEPTH)) \
    $(if $(SEED),--seed $(SEED)) $(if $(DATA),--data $(DATA)) $(if $(DEVICE),--device $(DEVICE)))

SUITE ?= laptop
SUITE_FLAGS = $(strip $(if $(DATA),--data $(DATA)) $(if $(DEVICE),--device $(DEVICE)))

compare: $(READY)  ## Train plain-56 and ResNet-56 side by side on this machine
	$(BIN)/python -m resnet56 compare $(COMPARE_FLAGS)

runs: $(READY)  ## Train, measure and record a suite: SUITE=laptop, fast or paper; goes on where it stopped
	$(BIN)/python -m resnet56 reproduce $(SUITE) $(SUITE_FLAGS)
	$(BIN)/python -m resnet56 measure $(SUITE) $(SUITE_FLAGS)

lint: $(READY)  ## Check style and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

test: export RESNET56_DATA = $(BOOK_DATA)
test: lint book  ## Build the book, run the tests, then re-execute every notebook and compare its outputs
	$(BIN)/python -m pytest tests
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 book

test-all: export RESNET56_DATA = $(BOOK_DATA)
test-all: lint book  ## The same, with the tests that take minutes (kills, compilers, a browser)
	$(BIN)/python -m pytest -m "" tests
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 book

lab: $(READY)  ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=book

notebooks: export RESNET56_DATA = $(BOOK_DATA)
notebooks: $(READY)  ## Execute the notebooks in place, so that their stored outputs are fresh
	$(BIN)/python book/execute.py

lock: $(READY)  ## Work out requirements.lock anew, after a change of requirements.txt or pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock' \
	    --output-file requirements.lock requirements.txt pyproject.toml

clean:  ## Remove what was built; data sets, checkpoints, records and .venv stay
	rm -rf _build .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment: requirements.txt in the versions of requirements.lock, which holds for GPU and CPU builds on all systems.
# TORCH_INDEX names another package index to take torch and torchvision from.
$(READY): requirements.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and \
	    "The pinned packages have wheels for Python 3.11 to 3.14 only: set PYTHON=, say to python3.14")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install --no-deps --index-url $(TORCH_INDEX) $(shell grep -E '^torch(vision)?==' requirements.txt))
	$(BIN)/pip install -r requirements.txt -c requirements.lock
	$(BIN)/pip install --no-deps -e .
	@touch $@
