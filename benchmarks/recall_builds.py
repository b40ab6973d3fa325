"""How long a build takes and what memory it wants, beside plain Faiss building the same index from the same file.

Each build is a process of its own, which maps the vectors, so that its memory can be told apart:

    python -m benchmarks.recall_builds ours|plain KIND VECTORS.npy OUT '{"nlist": 1000, "pq_m": 64}'
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from index.build import build, resolve
from index.contract import Vectors
from index.distance import norms
from tests.harness import ROOT

RECALL = 0.95
THREADS = 2
SAMPLE_S = 0.02
PHASES = {"truth": "exact answers", "sweep": "calibrating", "calibration": "calibrating", "checking": "checking"}
"""Modules of `index` → what a build does in them; what is left is the index itself."""


class Phases:
    """`with Phases() as phases:` looks at the calling thread's stack every SAMPLE_S; `seconds` by phase.

    From outside, so that what is measured is the build as it is."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Phases":
        self._begun = time.perf_counter()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()
        self._elapsed = time.perf_counter() - self._begun

    @property
    def seconds(self) -> dict[str, float]:
        total = sum(self._counts.values()) or 1
        return {name: self._elapsed * count / total for name, count in self._counts.items()}

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._counts[self._phase(sys._current_frames().get(self._thread))] += 1

    @staticmethod
    def _phase(frame: FrameType | None) -> str:
        while frame is not None:
            package, _, module = str(frame.f_globals.get("__name__", "")).rpartition(".")
            if package == "index" and module in PHASES:
                return PHASES[module]
            frame = frame.f_back
        return "index"


def builds(vectors: Path, kind: str, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Ours and plain Faiss in turn. A row each, medians over the rounds. vectors: (n, d) float32, compared by l2."""
    n, d = np.load(vectors, mmap_mode="r").shape
    _, params = resolve(kind, {}, n, d, "l2", RECALL)
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for _ in range(rounds):
        for who, done in runs.items():
            done.append(_one(who, kind, vectors, folder / f"{kind}-{who}.faiss", params))
    about = {"kind": kind, "rows": n, "params": " ".join(f"{name} {value}" for name, value in params.items())}
    for who, done in runs.items():
        yield about | {"who": who} | {name: median(run[name] for run in done) for name in done[0]}


def _one(who: str, kind: str, vectors: Path, out: Path, params: dict[str, int]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.recall_builds", who, kind, str(vectors), str(out), json.dumps(params)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with memory.Peak(lambda: [process.pid]) as peak:
        text = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{who} {kind}: the build failed")
    told: dict[str, Any] = json.loads(text.splitlines()[-1])
    own = peak.memory.anonymous - told.pop("before_bytes")
    told |= {"peak_own_mib": own / 2**20, "file_mib": out.stat().st_size / 2**20}
    out.unlink()
    return told


def _ours(kind: str, rows: NDArray[np.float32], out: Path, params: dict[str, int]) -> dict[str, float]:
    lengths = norms(rows)
    begun = time.perf_counter()
    with Phases() as phases:
        build(Vectors(rows, lengths, "l2"), (kind, params), out, recall=RECALL, threads=THREADS)
    return {"seconds": time.perf_counter() - begun} | {name: phases.seconds.get(name, 0.0) for name in _NAMES}


_NAMES = tuple(dict.fromkeys(("index", *PHASES.values())))


def _plain(kind: str, rows: NDArray[np.float32], out: Path, params: dict[str, int]) -> dict[str, float]:
    """As a user of Faiss writes it."""
    faiss.omp_set_num_threads(THREADS)
    begun = time.perf_counter()
    d = rows.shape[1]
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, params["m"])
        index.hnsw.efConstruction = params["ef_construction"]
    else:
        quantizer = faiss.IndexFlatL2(d)
        index = faiss.IndexIVFPQFastScan(quantizer, d, params["nlist"], params["pq_m"], 4)
        index.by_residual = False
        index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(out))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds} | dict.fromkeys(_NAMES, 0.0) | {"index": seconds}


def main() -> None:
    who, kind, vectors, out, params = sys.argv[1:]
    rows: NDArray[np.float32] = np.load(vectors, mmap_mode="r")
    before = memory.measure_self().anonymous
    make = _ours if who == "ours" else _plain
    cpu = time.process_time()
    told = make(kind, rows, Path(out), json.loads(params))
    print(json.dumps(told | {"cpu_s": time.process_time() - cpu, "before_bytes": before}))


if __name__ == "__main__":
    main()
