# Two commands from a clone: `make train` and `make test`. Both set up what they need in .venv, once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
# Empty to try the newest versions that settings.ini allows.
PINNED ?= -c constraints.txt --build-constraint constraints.txt
SETUP := constraints.txt settings.ini setup.py
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export TF_CPP_MIN_LOG_LEVEL ?= 3
# TensorFlow reuses the memory of tensors instead of asking the system for it each time: much faster on a CPU.
export TF_CPU_ALLOCATOR_USE_BFC ?= 1
# The tests remember photos here and not in the user's own cache.
test durations: export XDG_CACHE_HOME = $(CURDIR)/$(VENV)/cache

.PHONY: help train test durations lint notebooks export save save-real readme clean

help:  ## this list
	@awk -F ':.*## +' '/^[a-z-]+:.*##/ {printf "%-10s %s\n", $$1, $$2}' Makefile

train: $(VENV)/.train  ## train a classifier offline and write it to runs/first, then runs/2, runs/3, ...
	@out=runs/first; n=2; while [ -e $$out ]; do out=runs/$$n; n=$$((n + 1)); done; \
	$(VENV)/bin/transfer_cvd train --offline --out $$out

# Notebooks and tests in one pool; tests/conftest.py hands them out in groups, the longest first.
test: lint  ## run every notebook and all tests, offline
	TRANSFER_CVD_OFFLINE=1 $(RUN) -c "from transfer_cvd.photos.catalogue import prepare; prepare('drawn_pets')"
	$(RUN) -m pytest -q -n $(JOBS) --no-loadscope-reorder --durations=25 tests

durations: export TRANSFER_CVD_DURATIONS = 1
durations: test  ## the same, and note how long each notebook and file takes, by which they are ordered

notebooks: $(VENV)/.test  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab nbs

export: $(VENV)/.test  ## write transfer_cvd/*.py from the notebooks, clean them, draw the map of rooms
	$(VENV)/bin/nbdev_export
	$(VENV)/bin/nbdev_clean
	$(RUN) tools/rooms.py write

lint: $(VENV)/.test  ## look for mistakes that a machine can see
	$(VENV)/bin/ruff check

save: $(VENV)/.test  ## run the notebooks in using and inside offline and save their outputs
	TRANSFER_CVD_OFFLINE=1 $(RUN) tools/notebooks.py save $$(find nbs/using nbs/inside -name "[a-z]*.ipynb" -not -path "*/.*")

save-real: $(VENV)/.test  ## run the chapters on the real photos and save their outputs
	env -u TRANSFER_CVD_OFFLINE $(RUN) tools/notebooks.py save nbs/0*.ipynb

readme: $(VENV)/.test  ## write README.md from nbs/index.ipynb
	TRANSFER_CVD_OFFLINE=1 $(RUN) tools/notebooks.py save nbs/index.ipynb
	$(RUN) tools/notebooks.py readme

clean:  ## remove what `make` made, the runs excepted
	rm -rf $(VENV) build dist *.egg-info

# One stamp for each set of packages: older than a requirement, the set is installed again, else there is nothing to do.
$(VENV)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	{ echo 'Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is not one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'The first time, almost 3 GB of packages are installed into $(VENV): a few minutes.'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt pip
	@touch $@

$(VENV)/.train: $(VENV)/.pip $(SETUP)
	$(PIP) install --quiet $(PINNED) -e '.[offline]'
	@touch $@

$(VENV)/.test: $(VENV)/.train
	$(PIP) install --quiet $(PINNED) -e '.[offline,heif,fast,tensorboard,export,mobile,dev]'
	@touch $@
