# make demo: from a fresh clone to segmented cells.  make test: all tests.  make docs: the site.
# make test-newest: all tests with the newest versions that setup.cfg allows.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
NEWEST := .venv-newest

.PHONY: demo test test-newest docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@echo "== demo: synthetic cells, a small model, two CPU cores: about 5 minutes"
	$(VENV)/bin/his4mae all --config=demo --workdir=runs/demo
	@echo "== demo: done. Open runs/demo/report/index.html; scores and pictures are in runs/demo/volumes/cell_3/"

test: $(VENV)/installed-dev
	@echo "== test: all tests, those of the built wheel included"
	$(RUN) -m pytest -n 2 --dist loadfile

# Its environment is made anew each time, for versions go on.
test-newest:
	@echo "== test-newest: all tests with the newest versions that setup.cfg allows, in $(NEWEST)"
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip "setuptools>=77"
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[dev,docs]"
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile

docs: $(VENV)/installed-dev
	@echo "== docs: the documentation site, in site/index.html"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

$(VENV)/bin/python:
	@echo "== making a virtual environment in $(VENV)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# requirements.txt pins what was tested together; -e makes edits take effect at once.
$(VENV)/installed: requirements.txt setup.cfg setup.py pyproject.toml | $(VENV)/bin/python
	@echo "== installing (about a minute)"
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@echo "== installing what tests need"
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) $(NEWEST) runs build site *.egg-info
