# Everything runs in .venv, which the first command makes. Needs python3 (3.11 or newer) and make.
# OPTIONS are pytest's, such as --cov.
PYTHON ?= python3
BIN := .venv/bin
OF_NUMBERS := $(addprefix tests/test_,backbones.py evaluate.py fidelity.py method.py models.py parity.py streams.py teacher.py train.py views.py)

.PHONY: demo docs test lint types tests elsewhere slow whole faults cluster-test cluster-smoke bench audit oldest

demo: .venv/installed
	$(BIN)/python sweeps/alpha_sweep.py --task hidden-digits --re-longer 4
	$(BIN)/python -m rekd audit --task hidden-digits

# The site of docs/, into build/site: README, tutorial, reference and pages; a link that leads nowhere is an error.
docs: .venv/installed
	$(BIN)/python docs/site_sources.py build/site-sources
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs build/site-sources build/site
	@echo "The site is build/site/index.html."

test: lint types tests elsewhere

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright

tests: .venv/installed
	$(BIN)/pytest -n 2 -q -m "not slow and not long" $(OPTIONS)

# Training and models once more with the instructions that every x86-64 processor has: another machine's numbers.
elsewhere: .venv/installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/pytest -n 2 -q -m "not slow and not long" $(OF_NUMBERS)

# Pretrained weights, two sweeps on one store, too little memory: minutes. Much of them is waiting, so three at a time.
slow: .venv/installed
	$(BIN)/pytest -n 3 --dist loadfile -q -m "slow and not long"

# The paper on stand-ins, from nothing to its report, and through ten kills: a quarter of an hour.
whole: .venv/installed
	$(BIN)/pytest -s tests/whole

# Processes, nodes, disks and an S3 that fail; the table of docs/faults.md: a quarter of an hour. Some need root.
faults: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[faults]'
	REKD_FAULT_REPORT=faults.md $(BIN)/pytest -s tests/faults

# Three hosts of this machine, and a pretended AWS: `ray up`, faults and intruders: half an hour. Needs root, iproute2,
# openssh-server, rsync and sudo.
cluster-test: .venv/cluster
	$(BIN)/pytest -s tests/cluster

# `ray up cluster.yaml`, one trial and down: two minutes.
cluster-smoke: .venv/cluster
	$(BIN)/pytest -s tests/cluster/test_smoke.py

.venv/cluster: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cluster-test]'
	touch $@

# The lowest versions that pyproject.toml admits, in an environment of their own, and the fast tests with them.
oldest:
	$(PYTHON) .ci/oldest

# Known vulnerabilities of what constraints.txt pins; says so where the advisories cannot be reached.
audit: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[audit]'
	$(BIN)/python .ci/audit

# The figures of docs/performance.md: an hour of a machine that does nothing else.
bench: .venv/installed
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.snapshots
	$(BIN)/python -m benchmarks.sweep startup
	$(BIN)/python -m benchmarks.sweep driver
	$(BIN)/python -m benchmarks.sweep again
	$(BIN)/python -m benchmarks.sweep efficiency
	$(BIN)/python -m benchmarks.makespan simulate
	$(BIN)/python -m benchmarks.makespan run
	$(BIN)/python -m benchmarks.large_ledger

# constraints.txt pins what was tested; the same command takes the CUDA build of torch where pip finds that one.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
