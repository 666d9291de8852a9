# `make demo` and `make test` set up .venv by themselves: once, and again when pyproject.toml changes.
PYTHONS := python3 python3.13 python3.12 python3.11
FREE_GB := 8
PY := .venv/bin/python

.PHONY: help demo test test-long bench install

help:
	@echo 'make demo   train T4 on the drawn sample: two rows of recall and a page'
	@echo 'make test   ruff, then all tests'
	@echo 'make test-long   all kills, faults and fuzzed inputs: the table of tests/SURVIVED.md'
	@echo 'make bench  all benchmarks, on an idle machine: tests/SPEED.md (PARTS="loss recall": some)'

demo: install
	$(PY) -m cubslib run T4 -p margin 0.2 -p dataset sample
	@echo "Next, in this folder: . .venv/bin/activate, then"
	@echo "  python -m cubslib search data/sample/cars196/cars_test/00001.jpg"
	@echo "finds the cars nearest to a picture, and jupyter lab opens the notebooks."

test: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile

test-long: install
	CUBSLIB_LONG=1 CUBSLIB_FUZZ=500 $(PY) -m pytest tests/test_kills.py tests/test_faults.py \
	  tests/test_fuzzed.py tests/test_fuzzed_data.py

bench: install
	$(PY) -m pip install --disable-pip-version-check -q -e '.[bench]'
	$(PY) tests/benchmarks $(PARTS)

install: .venv/installed

# A .venv whose Python has gone since (upgraded, moved) does not count as installed.
$(shell test -e .venv/installed && ! $(PY) -c '' 2>/dev/null && rm .venv/installed)

# The first of the commands $(1) that runs, is of a version we support and has the module $(2).
first = $$(for python in $(1); do "$$python" -c 'import sys, $(2); \
  (3, 11) <= sys.version_info < (3, 14) and print(sys.executable)' 2>/dev/null | grep . && break; done)

# .venv/unfinished marks a first installation that did not end: it is begun anew.
.venv/installed: pyproject.toml
	@stop() { echo "make: $$1" >&2; exit 1; }; \
	if [ -e .venv/unfinished ] || [ -z "$(call first,$(PY),pip)" ]; then \
	  [ "$(call first,$(PYTHONS),os)" ] || stop \
	    "no Python 3.11, 3.12 or 3.13 was found: install one, or name it (make PYTHONS=/its/path ...)."; \
	  python="$(call first,$(PYTHONS),ensurepip)"; [ "$$python" ] || stop \
	    "Python's venv module is missing: install it (on Debian and Ubuntu: apt install python3-venv)."; \
	  free=$$(df -Pk . | awk 'match($$0, /[0-9]+ +[0-9]+%/) { print int(substr($$0, RSTART) / 1048576) }'); \
	  [ "$$free" -ge $(FREE_GB) ] || stop \
	    "$$free GB of disk are free, $(FREE_GB) are needed: make room (or FREE_GB=3, without CUDA)."; \
	  echo "Setting up .venv with $$python: this takes some minutes the first time."; \
	  rm -rf .venv && mkdir .venv && touch .venv/unfinished && "$$python" -m venv .venv || stop \
	    "$$python could not make .venv: its lines above say why."; \
	fi; \
	$(PY) -m pip install --disable-pip-version-check -e '.[test]' || stop \
	  "pip could not install what pyproject.toml lists: check the network and call make again."; \
	touch .venv/installed && rm -f .venv/unfinished
