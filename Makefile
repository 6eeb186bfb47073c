# Everything runs in .venv, which the first command makes. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types tests whole cluster-test

demo: .venv/installed
	$(BIN)/python sweeps/alpha_sweep.py --task digits

test: lint types tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright

tests: .venv/installed
	$(BIN)/pytest -n 2 -q -m "not slow"

# The paper on stand-ins, from nothing to its report, and through ten kills: a quarter of an hour.
whole: .venv/installed
	$(BIN)/pytest -s tests/whole

# Three hosts of this machine, `ray up`, faults and intruders: ten minutes. Needs root, iproute2, openssh-server and rsync.
cluster-test: .venv/installed
	$(BIN)/pytest -s tests/cluster

# constraints.txt pins what was tested; the same command takes the CUDA build of torch where pip finds that one.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
