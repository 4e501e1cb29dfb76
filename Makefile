# Two commands do everything on a machine with Python 3.11 or newer, pip, git and make:
#
#   make demo    install, then super-resolve a real image into demo-output/
#   make test    install what the developers use, then run the whole suite, GUI included
#
# `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# TORCH_INDEX=URL takes another index for PyTorch, such as the one of CPU-only builds that
# its installation page names.
TORCH_INDEX ?=
PYTEST_ARGS ?=

BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
SOURCES = $(shell find src -name '*.py')
ON_LINUX := $(filter Linux,$(shell uname -s))
# Qt needs a screen; on Linux a virtual one, so that no window disturbs anybody.
DISPLAY_RUN := $(if $(ON_LINUX),xvfb-run --auto-servernum --server-args="-screen 0 1920x1080x24",)
export NO_MKDOCS_2_WARNING := 1
DISPLAY_PACKAGES := xvfb xauth libegl1 libgl1 libglx-mesa0 libgl1-mesa-dri libopengl0 \
  libglib2.0-0 libfontconfig1 libfreetype6 libdbus-1-3 libx11-6 libx11-xcb1 \
  libxkbcommon0 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 \
  libxcb-keysyms1 libxcb-randr0 libxcb-render0 libxcb-render-util0 libxcb-shape0 \
  libxcb-shm0 libxcb-sync1 libxcb-util1 libxcb-xfixes0 libxcb-xkb1
# The pages are tried in a real browser; where it cannot be had, those tests are skipped.
BROWSER_PACKAGES := chromium chromium-driver

.PHONY: help demo test lowest lint docs format hooks display browser wheel try-wheel clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.installed  ## super-resolve a real image with the embedded model
	$(BIN)/napari-swin2sr demo demo-output

test: $(VENV)/.installed-dev display browser  ## run the whole test suite
	$(DISPLAY_RUN) $(BIN)/python -m pytest $(PYTEST_ARGS)

lowest: display  ## run the suite with the oldest dependencies we allow (needs uv)
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)-lowest
	uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct \
	  --editable . --group test --group test-qt --group test-io
	$(DISPLAY_RUN) $(VENV)-lowest/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## style, spelling, types, docstrings, layers, manifest, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports
	$(BIN)/numpydoc lint $(SOURCES)
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/npe2 validate napari-swin2sr
	$(BIN)/mkdocs build --strict --quiet

hooks: $(VENV)/.installed-dev  ## run the checks of style before every commit
	$(BIN)/pre-commit install

format: $(VENV)/.installed-dev  ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.installed-dev  ## build source archive and wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# Runs in a folder of its own, where nothing of the repository can be imported.
FRESH := build/fresh
FRESH_BIN := env/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
try-wheel: wheel display  ## install the wheel into a fresh environment and use it there
	rm -rf $(FRESH) && mkdir -p $(FRESH) && $(PYTHON) -m venv $(FRESH)/env
	cd $(FRESH) && $(FRESH_BIN)/python -m pip install --quiet --constraint ../../constraints.txt \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	cd $(FRESH) && $(FRESH_BIN)/python -m pip install --quiet "$$(ls ../../dist/*.whl)[all]" npe2
	cd $(FRESH) && $(FRESH_BIN)/npe2 validate napari-swin2sr
	cd $(FRESH) && $(FRESH_BIN)/napari-swin2sr demo demo-output
	cd $(FRESH) && $(DISPLAY_RUN) $(FRESH_BIN)/python -I ../../.ci/try_wheel.py

clean:  ## remove everything that these commands made
	rm -rf $(VENV) $(VENV)-lowest build dist site demo-output

# The editable install copies napari.yaml, so a change there installs again.
$(VENV)/.installed: pyproject.toml constraints.txt napari.yaml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable . --group dev
	touch $@

display:
ifneq ($(ON_LINUX),)
	@if command -v xvfb-run >/dev/null && PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q libxcb-cursor; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(DISPLAY_PACKAGES) >/dev/null; \
	else \
	  echo "The GUI tests need a virtual screen and Qt's system libraries. Install them with:" >&2; \
	  echo "  sudo apt-get update && sudo apt-get install --no-install-recommends $(DISPLAY_PACKAGES)" >&2; \
	  echo "(or your system's packages of these names), then run make test again." >&2; exit 1; \
	fi
endif

browser:
ifneq ($(ON_LINUX),)
	@if command -v chromedriver >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -qq -y --no-install-recommends $(BROWSER_PACKAGES) >/dev/null || true; \
	fi
endif
