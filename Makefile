PYTHON ?= python3
.PHONY: run test check bench bench-engine docs clean

run:  ; @$(PYTHON) tools/setup.py && exec .venv/bin/sagellm up --demo
test: ; @$(PYTHON) tools/setup.py --dev && .venv/bin/python tools/check.py
check: ; @$(PYTHON) tools/setup.py --dev && .venv/bin/python tools/check.py --no-tests
bench: ; @$(PYTHON) tools/setup.py --dev && .venv/bin/python -m benchmarks
bench-engine: ; @$(PYTHON) tools/setup.py --dev && .venv/bin/python -m benchmarks.engine $(ARGS)
docs: ; @$(PYTHON) tools/setup.py --dev && for f in tools/make_*.py; do .venv/bin/python -m tools.$$(basename $$f .py) || exit 1; done
clean: ; rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
