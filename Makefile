# One-word commands. `make serve` and `make test` work on a fresh clone: each makes .venv first where it is absent.
#
#   make serve DATA=/srv/vectors PORT=8080 WORKERS=4    without DATA=: a demo folder with the collection `words`
#   make faults                                         every kill, power cut, full disk and flipped bit (`make test`: a share)
#   make soak MINUTES=20                                mixed load, every answer judged, everything bounded; docs/soak.png
#   make setup PYTHON=python3.12 TORCH_INDEX=URL        URL of an index that has only the CPU builds of torch

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV = .venv
PORT ?= 8080
TORCH = torch==2.13.0
DEMO = demo-data
PEERS_VENV = build/peers-venv
ASKED_PEERS = $(shell echo '$(BENCH)' | sed -n 's/.*--peers[ =]*\([a-z,]*\).*/\1/p')
SERVE = $(VENV)/bin/seedvec serve --port $(PORT) $(if $(WORKERS),--workers $(WORKERS))

.PHONY: setup serve demo test faults soak fuzz overload check format bench bench-batch bench-busy bench-dataloader bench-filtered bench-ingest bench-metadata bench-recall bench-restart bench-scale bench-snapshots bench-sparse bench-transfer clean

setup: $(VENV)/.installed

# torch comes by itself, so that an index of its own (TORCH_INDEX) concerns nothing else, and after it what needs it.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed (make setup PYTHON=...)" >&2; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[server,tracing,dev]'
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[dev-torch]'
	@touch $@

ifeq ($(DATA),)
serve: setup
	@$(VENV)/bin/python -m demo.prepare $(DEMO)
	@exec $(SERVE) --data $(DEMO)
else
serve: setup
	@exec $(SERVE) --data '$(DATA)'
endif

# The three requests of the README with their answers, on a server of its own.
demo: setup
	@$(VENV)/bin/python -m demo.prepare $(DEMO)
	@$(VENV)/bin/python -m demo.tour $(DEMO)

# Two at a time: each waits half of its time for servers of its own. A file's tests stay together and share theirs; in the
# order of the files, since the longest of all is a file of one test. Hundreds of servers are started, six processes each:
# without bytecode every one compiles the whole source.
test: setup
	env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder $(TESTS)

faults: setup
	$(VENV)/bin/python -m pytest tests/faults --faults=whole --timeout=3600 $(FAULTS)

soak: setup
	$(VENV)/bin/python -m benchmarks.soak --minutes $(or $(MINUTES),20) $(SOAK)

# 10,000 requests of schemathesis' making, and every decoder with bytes that are nearly right; FUZZ='--seed 2 --cases 500'.
fuzz: setup
	$(VENV)/bin/python -m benchmarks.fuzz $(FUZZ)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

# Beside chromadb, lancedb, milvus-lite, qdrant-edge-py and plain Faiss, all on the same data in the same run; the peers
# have an environment of their own, made at the first run that asks for another than plain.
#   make bench BENCH='--quick --peers plain'            two minutes, nothing to install
#   make bench BENCH='--data FILE.hdf5 --keep DIR'      any ann-benchmarks file; the second run is shorter
bench: setup $(if $(filter plain,$(ASKED_PEERS)),,$(PEERS_VENV)/.installed)
	$(VENV)/bin/python -m benchmarks.compare --python $(PEERS_VENV)/bin/python $(BENCH)

$(PEERS_VENV)/.installed: benchmarks/peers/requirements.txt
	@test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# Adding by kind of index: until acknowledged and until indexed, memory meanwhile, recall, a restart.
bench-ingest: setup
	$(VENV)/bin/python -m benchmarks.ingest $(BENCH)

# From a stop, kill -9 and with an empty page cache to the first right answer, and the 1,000 queries that follow, with
# 1,000,000 × 128 stored.
bench-restart: setup
	$(VENV)/bin/python -m benchmarks.restart $(BENCH)

# Columns, filters, and delete and patch by filter over 1,000,000 rows with five fields.
bench-metadata: setup
	$(VENV)/bin/python -m benchmarks.metadata $(BENCH)

# Filtered search inside an index; BENCH='--data FILE --rows N --kinds ivf,hnsw' for other data.
bench-filtered: setup
	$(VENV)/bin/python -m benchmarks.filtered $(BENCH)

# A thousand queries in one request, and exact searches that wait for each other, beside plain Faiss in process.
bench-batch: setup
	$(VENV)/bin/python -m benchmarks.batches $(BENCH)

# Latency of searches beside builds, calibrations and ingest: BENCH='--data FILE --rows N --beside ivf,json --clients 1,8'.
bench-busy: setup
	$(VENV)/bin/python -m benchmarks.busy $(BENCH)

# Batches for training from a collection, beside bare memory maps; BENCH='--cold --tmp DIR' also with an empty page cache.
bench-dataloader: setup
	$(VENV)/bin/python -m benchmarks.dataloader $(BENCH)

# Recall requested and measured, its cost beside the cheapest that would do, growth, queries unlike the data, builds and
# speed beside plain Faiss: docs/recall-figures.md. BENCH='--data SMALL.hdf5 LARGE.hdf5 --tmp DIR'; half an hour or more.
bench-recall: setup
	$(VENV)/bin/python -m benchmarks.recall $(BENCH)

# Sparse search over 100,000 rows of 100 numbers: BENCH='--rows N --numbers M --metric cosine'.
bench-sparse: setup
	$(VENV)/bin/python -m benchmarks.sparse $(BENCH)

# Snapshots of 1,000,000 × 128 taken, sent, received and restored while writes go on: what the writes wait.
bench-snapshots: setup
	$(VENV)/bin/python -m benchmarks.snapshots $(BENCH)

# 1,000,000 × 128 imported and exported beside cp, by format: BENCH='--rows N --formats npy,hdf5'.
bench-transfer: setup
	$(VENV)/bin/python -m benchmarks.transfer $(BENCH)

# 10,000,000 × 128 imported, built and served: BENCH='--rows N --data FILE'. Wants 15 GB of disk.
bench-scale: setup
	$(VENV)/bin/python -m benchmarks.scale $(BENCH)

# Four times what the server can answer, for a minute each of cheap and of dear searches; OVERLOAD='--seconds 15'.
overload: setup
	$(VENV)/bin/python -m benchmarks.overload $(OVERLOAD)

# A data folder is never touched; the demo's can be made again.
clean:
	rm -rf $(VENV) $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
