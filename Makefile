# Two verbs for a newcomer: `make demo` and `make test`. Both set up everything they need in $(VENV).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin
STAMP = $(VENV)/.edgeprune-installed
SOURCES = pyproject.toml constraints.txt Makefile $(shell find edgeprune converters -type f -not -name '*.pyc')

# An environment that forbids byte code would have each of the many processes compile all of TensorFlow again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test test-backends test-browser fuzz lint typecheck docs bench profiles format clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

demo: $(STAMP)  ## set up, then prune, fine-tune, quantize, export and measure the Fashion-MNIST sample
	$(BIN)/edgeprune run sample_models/fashion/recipe.toml -o demo-output --overwrite

# On two processes the tests of a file stay together: what they share is made once. Those that time something or send
# signals run by themselves at the end.
test: $(STAMP) lint typecheck docs  ## set up, then lint, type check, the guide and all tests, quick ones first
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not alone"
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow and not alone"
	$(BIN)/pytest -m alone $(shell grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)

# Keras, JAX and torch without TensorFlow, in an environment of their own.
test-backends:  ## pruning in one's own training on the JAX and torch backends (several GB, ten minutes)
	@test -x $(VENV)-backends/bin/python || $(PYTHON) -m venv $(VENV)-backends
	@$(VENV)-backends/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  keras "jax[cpu]" torch pytest hypothesis jsonschema .
	@for backend in jax torch; do KERAS_BACKEND=$$backend $(VENV)-backends/bin/pytest tests/backends || exit 1; done

test-browser: $(STAMP)  ## pages in Chromium, which must be there (apt-get install chromium)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	$(BIN)/pytest -m browser tests/report

fuzz: $(STAMP)  ## 20,000 spoilt model files (half an hour); a part of them is read by `make test`
	$(BIN)/python tests/hostile/fuzz.py --count 20000 --seed 1

lint: $(STAMP)  ## formatting and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

typecheck: $(STAMP)  ## types of the installed wheel
	cd $(VENV) && bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir .mypy_cache -p edgeprune

docs: $(STAMP)  ## build the guide into build/site; a broken link is an error
	@$(BIN)/python docs/generate.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## ratios measured on this machine, one after the other
	@for script in $(filter-out benchmarks/fit_profiles.py,$(shell grep -l __main__ benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

profiles: $(STAMP)  ## fit the device profiles again from the published measurements
	$(BIN)/python benchmarks/fit_profiles.py

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove everything that was made here
	rm -rf $(VENV) $(VENV)-backends build dist demo-output edgeprune.egg-info

# The wheel is built and installed, never the source tree. uv installs in about a minute what takes pip several.
$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "edgeprune: make needs Python 3.11, 3.12 or 3.13 (TensorFlow has no wheels for others); set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) (about 2 GB; one to eight minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv is not to be had; using pip"
	@rm -rf build dist edgeprune.egg-info
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@rm -rf build edgeprune.egg-info
	@wheel=$$(ls dist/edgeprune-*.whl); \
	if test -x $(BIN)/uv; then \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --reinstall-package edgeprune -c constraints.txt "$$wheel[all,dev,docs]"; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$wheel[all,dev,docs]" && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$$wheel"; \
	fi
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib/python3*/site-packages/coremltools  # confined children cannot
	@touch $(STAMP)
