"""Run as a program: opens an index file in a process of its own and prints what it answers."""

import json
import sys
from pathlib import Path

import numpy as np

from index.contract import Vectors
from index.distance import norms
from index.load import load


def main() -> None:
    folder = Path(sys.argv[1])
    meta = json.loads((folder / "meta.json").read_text())
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    index = load(folder / "index.faiss", meta, Vectors(rows, norms(rows), meta["metric"]))
    found = index.search(np.load(folder / "queries.npy"), 10, index.plan(10, 0.9))
    print(json.dumps({"rows": found.rows.tolist(), "distances": found.distances.tolist()}))


if __name__ == "__main__":
    main()
