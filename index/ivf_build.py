"""Building an IVF index: places the lists on a sample, then sorts the rows into them, a chunk at a time. An index of
most of the rows is extended instead: its lists stay where they are, and the codes of rows that stay are never made
again."""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import source, threads
from index.contract import Vectors
from index.ivf import Ivf, are_lists_of, padded
from index.making import CannotExtend, Made, costs, made, others, queries_among
from index.pacing import Phases, Progress, pieces
from index.parameters import POINTS_A_LIST as LEAST_A_LIST
from index.parameters import part_width

KMEANS_ITERATIONS = 10
POINTS_A_LIST = 64
"""Of the sample that places the lists; more gained no recall on photo-sift."""
CODE_SAMPLE = 4096
"""As many as Faiss takes to place 16 centroids a part."""
SAMPLE_BYTES = 512 << 20
CHUNK_BYTES = 32 << 20
PLACING_S, ROW_S, NUMBER_S, PART_S, SWEEP_S = 5e-11, 3e-6, 1.5e-8, 0.014, 0.032
"""Seconds on one core: a product of a row and a centroid, a number of it; a row that is added, a number of it; a part
of the code that is trained; a sweep over one row (it grows with the root of the rows). For progress alone."""
BLOCK_ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
"""Which of the first 16 codes of a block have the low halves of each 16 bytes; the high ones are the other 16's."""


class Making:
    """Satisfies `making.Making`."""

    def __init__(self, vectors: Vectors, codes: Any) -> None:
        self._vectors = vectors
        self._codes = codes

    def add(self, rows: NDArray[np.int64], progress: Progress) -> None:
        threads.use(threads.batch_threads())
        largest = max(4000, CHUNK_BYTES // (4 * self._codes.d))
        for piece in pieces(len(rows), first=4000, largest=largest):
            block = source.taken(self._vectors, rows[piece])
            if self._codes.d != block.shape[1]:
                block = padded(block, self._codes.d)
            self._codes.add_with_ids(block, rows[piece])
            progress(piece.stop / len(rows))

    def opened(self) -> Ivf:
        return Ivf(self._vectors, self._codes, None)

    def finished(self) -> Any:
        return self._codes


def build(vectors: Vectors, params: dict[str, int], queries: NDArray[np.float32] | None, progress: Progress) -> Made:
    last = queries_among(vectors, queries)
    rows = others(len(vectors.rows), last)
    sample = sample_rows(len(rows), params["nlist"], vectors.rows.shape[1])
    phases = Phases(progress, _costs(vectors, params, sample, len(rows), len(last), queries))
    codes = _trained(vectors, rows, params, phases.part("train"))
    return made(Making(vectors, codes), vectors, rows, last, queries, phases)


def extend(
    vectors: Vectors, path: Path, rows: NDArray[np.int64], queries: NDArray[np.float32] | None, progress: Progress
) -> Made:
    """path: the old index; rows: (old rows,) the new row of each old one, -1: dropped. Raises CannotExtend."""
    codes = _old(path, vectors, len(rows))
    last = queries_among(vectors, queries)
    n = len(vectors.rows)
    gone = np.zeros(n + 1, bool)
    gone[last] = gone[-1] = True
    there = np.zeros(n, bool)
    there[rows[~gone[rows]]] = True
    remove(codes, gone[rows])
    rename(codes, rows)
    there[last] = True
    missing = np.flatnonzero(~there)
    params = {"nlist": codes.nlist, "pq_m": codes.pq.M}
    phases = Phases(progress, _costs(vectors, params, 0, len(missing), len(last), queries))
    return made(Making(vectors, codes), vectors, missing, last, queries, phases)


def _costs(
    vectors: Vectors, params: dict[str, int], sample: int, add: int, last: int, queries: NDArray[np.float32] | None
) -> dict[str, float]:
    """Seconds of the phases, about. sample, add, last: rows that train, that are added, and added last."""
    n, d = vectors.rows.shape
    nlist, cores = params["nlist"], threads.batch_threads()
    train = PLACING_S * KMEANS_ITERATIONS * sample * nlist * d / cores
    train += PART_S * params["pq_m"] * min(1.0, sample / CODE_SAMPLE)
    row = ROW_S + d * (NUMBER_S + PLACING_S * nlist)
    asked = last if queries is None else len(queries)
    return {"train": train} | costs(vectors, add * row, SWEEP_S * math.sqrt(n) * (1 + d / 512), last * row, asked)


def _old(path: Path, vectors: Vectors, rows: int) -> Any:
    """The index of so many other rows, read whole: what is mapped cannot be changed."""
    try:
        codes = faiss.read_index(str(path))
    except RuntimeError as e:
        raise CannotExtend(str(e)) from e
    if not are_lists_of(codes, vectors) or codes.ntotal != rows or codes.invlists.compute_ntotal() != rows:
        raise CannotExtend(f"{path.name} is not made of {rows} such rows")
    return codes


def remove(codes: Any, gone: NDArray[np.bool_]) -> None:
    """Takes out the codes whose id is marked.

    Faiss moves a list's last codes into the holes, but leaves them standing behind its end too, and lays what is
    added later over them by a bitwise or (1.15: of 20,000 codes 484 came out wrong): so that has to be wiped."""
    bits = np.packbits(gone, bitorder="little")
    threads.use(threads.batch_threads())
    codes.remove_ids(faiss.IDSelectorBitmap(bits))
    lists = faiss.downcast_InvertedLists(codes.invlists)
    for number in range(codes.nlist):
        size = lists.list_size(number)
        used = size % lists.n_per_block
        if used:
            codes_of = faiss.rev_swig_ptr(lists.get_codes(number), -(-size // lists.n_per_block) * lists.block_size)
            codes_of[-lists.block_size :].reshape(-1, len(BLOCK_ORDER))[:] &= _mask(used)


def _mask(used: int) -> NDArray[np.uint8]:
    """(16,): which bits of 16 bytes in a block belong to its first `used` codes."""
    low, high = BLOCK_ORDER < used, BLOCK_ORDER + len(BLOCK_ORDER) < used
    return (low * 0x0F | high * 0xF0).astype(np.uint8)


def rename(codes: Any, names: NDArray[np.int64]) -> None:
    """Id i becomes names[i], in place. Raises CannotExtend for an id that has no name."""
    lists = codes.invlists
    for number in range(codes.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= len(names):
                raise CannotExtend("there are ids of no row in it")
            ids[:] = names[ids]


def sample_rows(rows: int, nlist: int, width: int) -> int:
    """How many of the rows place the lists. width: numbers a row has as it is compared."""
    most = max(POINTS_A_LIST * nlist, CODE_SAMPLE)
    return min(rows, most, max(LEAST_A_LIST * nlist, SAMPLE_BYTES // (4 * width)))


def _trained(vectors: Vectors, rows: NDArray[np.int64], params: dict[str, int], progress: Progress) -> Any:
    d, nlist, pq_m = vectors.rows.shape[1], params["nlist"], params["pq_m"]
    width = part_width(d, pq_m) * pq_m
    metric = faiss.METRIC_INNER_PRODUCT if vectors.metric == "dot" else faiss.METRIC_L2
    threads.use(threads.batch_threads())
    rng = np.random.default_rng(22)
    count = sample_rows(len(rows), nlist, width)
    sample = source.taken(vectors, np.sort(rng.choice(rows, count, replace=False)))
    if width != d:
        sample = padded(sample, width)
    spherical = vectors.metric == "dot"  # by inner product the longest centroids would draw everything
    centroids: Any = None
    for i in range(KMEANS_ITERATIONS):
        # One iteration a call: the whole of a large training would be silent for many seconds.
        means = faiss.Kmeans(width, nlist, niter=1, seed=23 + i, max_points_per_centroid=count, spherical=spherical)
        means.train(sample, init_centroids=centroids)
        centroids = means.centroids
        progress((i + 1) / (KMEANS_ITERATIONS + 2))
    quantizer = faiss.IndexFlat(width, metric)
    quantizer.add(centroids)
    codes = faiss.IndexIVFPQFastScan(quantizer, width, nlist, pq_m, 4, metric)
    codes.by_residual = False
    picked = np.sort(rng.choice(len(sample), min(len(sample), CODE_SAMPLE), replace=False))
    # Hundreds of trainings with 16 centroids each: with two threads on busy cores they took 16 s instead of 0.7.
    threads.use(1)
    codes.train(sample[picked])
    progress(1.0)
    return codes
