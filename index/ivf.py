"""IVF with 4-bit product-quantiser codes (Faiss' fast scan), re-ranked from the mapped vectors.

Ids are row numbers. Under cosine it is trained on and holds codes of normalised vectors, compared by their Euclidean
distance, which orders them as the angle does. Measured on fashion-mnist, photo-sift and words: residual codes cost up
to twice the time of plain ones for at most 0.01 of recall, and lose at equal time.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import mapped, source, threads
from index.approximate import Approximate
from index.calibration import Calibration, calibrate, held_out, true_kth
from index.contract import IndexFileError, Vectors
from index.pacing import Progress, pieces, within
from index.parameters import part_width

NPROBE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
RERANK = (2, 4, 8, 16, 32)
MAX_CANDIDATES = 1 << 16
KMEANS_ITERATIONS = 10
POINTS_A_LIST = 64
"""Of the sample that places the lists; more gained no recall on photo-sift."""
CODE_SAMPLE = 4096
"""As many as Faiss takes to place 16 centroids a part."""
SAMPLE_BYTES = 512 << 20
TRAINED, ADDED = 0.3, 0.6


class Ivf(Approximate):
    kind = "ivf"

    def __init__(self, vectors: Vectors, codes: Any, calibration: Calibration | None) -> None:
        super().__init__(vectors, calibration, None)
        self._codes = codes
        self._cached: dict[tuple[int, int], Any] = {}
        d = vectors.rows.shape[1]
        self._padded = codes.d != d
        # Faiss re-ranks in one call, but only what can be compared as it is stored.
        self._refined: Any = None
        if not self._padded and (vectors.metric != "cosine" or source.are_unit(vectors)):
            self._stored = mapped.view(vectors.rows, codes.metric_type)
            # It insists on as many rows as codes, which is not so while the calibration's rows are left out.
            self._stored.ntotal = codes.ntotal
            self._refined = faiss.IndexRefine(codes, self._stored)
            self._stored.ntotal = self._refined.ntotal = len(vectors.rows)

    def propose(
        self, queries: NDArray[np.float32], m: int, params: dict[str, int], selector: Any | None
    ) -> NDArray[np.int64]:
        if self.vectors.metric == "cosine":
            squares = np.vecdot(queries, queries)
            queries = queries / np.sqrt(np.maximum(squares, np.float32(1e-38)))[:, None]
        if self._padded:
            queries = padded(queries, self._codes.d)
        wide = self._rerank(m, params)
        wanted = self._params(params["nprobe"], wide, selector)
        if self._refined is not None:
            slots: NDArray[np.int64] = self._refined.search(queries, m, params=wanted)[1]
        else:
            slots = self._codes.search(queries, m * wide, params=wanted)[1]
        return slots

    def _params(self, nprobe: int, rerank: int, selector: Any | None) -> Any:
        if selector is not None:
            return self._made(nprobe, rerank, selector)
        key = (nprobe, rerank)
        return self._cached.get(key) or self._cached.setdefault(key, self._made(nprobe, rerank, None))

    def _made(self, nprobe: int, rerank: int, selector: Any | None) -> Any:
        lists = faiss.SearchParametersIVF(nprobe=min(nprobe, self._codes.nlist), sel=selector)
        if self._refined is None:
            return lists
        return faiss.IndexRefineSearchParameters(k_factor=float(rerank), base_index_params=lists)

    def _rerank(self, m: int, params: dict[str, int]) -> int:
        return max(1, min(params["rerank"], MAX_CANDIDATES // m, len(self.vectors.rows) // m))

    def candidates(self, m: int, params: dict[str, int]) -> int:
        return m if self._refined is not None else m * self._rerank(m, params)

    def widened(self, params: dict[str, int], factor: float) -> dict[str, int]:
        return {"nprobe": min(self._codes.nlist, round(params["nprobe"] * factor)), "rerank": params["rerank"]}


def padded(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Zeros behind: they change neither distance nor inner product."""
    out = np.zeros((len(rows), width), np.float32)
    out[:, : rows.shape[1]] = rows
    return out


def build(vectors: Vectors, params: dict[str, int], progress: Progress) -> tuple[Any, Calibration]:
    n = len(vectors.rows)
    asked = held_out(*vectors.rows.shape)
    in_lists = np.setdiff1d(np.arange(n), asked, assume_unique=True)
    codes = _trained(vectors, in_lists, params, within(progress, 0.0, TRAINED))
    _add(codes, vectors, in_lists, within(progress, TRAINED, ADDED))
    queries = source.taken(vectors, asked)
    kth = true_kth(vectors, queries, in_lists, within(progress, ADDED, 0.75))
    grid = [
        [{"nprobe": p, "rerank": r} for p in NPROBE if p < params["nlist"]] + [{"nprobe": params["nlist"], "rerank": r}]
        for r in RERANK
    ]
    calibration = calibrate(Ivf(vectors, codes, None), queries, kth, grid, within(progress, 0.75, 0.95))
    _add(codes, vectors, asked, within(progress, 0.95, 0.99))
    return codes, calibration


def _trained(vectors: Vectors, rows: NDArray[np.int64], params: dict[str, int], progress: Progress) -> Any:
    d, nlist, pq_m = vectors.rows.shape[1], params["nlist"], params["pq_m"]
    width = part_width(d, pq_m) * pq_m
    metric = faiss.METRIC_INNER_PRODUCT if vectors.metric == "dot" else faiss.METRIC_L2
    threads.use(threads.batch_threads())
    rng = np.random.default_rng(22)
    most = max(POINTS_A_LIST * nlist, CODE_SAMPLE)
    count = min(len(rows), most, max(nlist * 39, SAMPLE_BYTES // (4 * width)))
    sample = source.taken(vectors, np.sort(rng.choice(rows, count, replace=False)))
    if width != d:
        sample = padded(sample, width)
    spherical = vectors.metric == "dot"  # by inner product the longest centroids would draw everything
    centroids: Any = None
    for i in range(KMEANS_ITERATIONS):
        # One iteration a call: the whole of a large training would be silent for many seconds.
        means = faiss.Kmeans(width, nlist, niter=1, seed=23 + i, max_points_per_centroid=most, spherical=spherical)
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


def _add(codes: Any, vectors: Vectors, rows: NDArray[np.int64], progress: Progress) -> None:
    threads.use(threads.batch_threads())
    for piece in pieces(len(rows), first=4000, largest=200_000):
        block = source.taken(vectors, rows[piece])
        codes.add_with_ids(padded(block, codes.d) if codes.d != block.shape[1] else block, rows[piece])
        progress(piece.stop / len(rows))


def opened(codes: Any, vectors: Vectors, calibration: Calibration | None) -> Ivf:
    """From what was read to what searches. Raises IndexFileError where it does not belong to these vectors."""
    n, d = vectors.rows.shape
    if not isinstance(codes, faiss.IndexIVFPQFastScan) or codes.ntotal != n:
        raise IndexFileError(f"not the lists of {n} × {d}")
    metric = faiss.METRIC_INNER_PRODUCT if vectors.metric == "dot" else faiss.METRIC_L2
    if not d <= codes.d < d + codes.pq.dsub:
        raise IndexFileError(f"made for {codes.d} dimensions, not {d}")
    if codes.metric_type != metric or codes.invlists.compute_ntotal() != n:
        raise IndexFileError("the lists do not fit together")
    return Ivf(vectors, codes, calibration)
