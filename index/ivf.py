"""IVF with 4-bit product-quantiser codes (Faiss' fast scan), re-ranked from the mapped vectors.

Ids are row numbers. Under cosine it is trained on and holds codes of normalised vectors, compared by their Euclidean
distance, which orders them as the angle does. Measured on fashion-mnist, photo-sift and words: residual codes cost up
to twice the time of plain ones for at most 0.01 of recall, and lose at equal time.
"""

import math
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from index import mapped, source
from index.approximate import Approximate, Measured, in_order, replaced, spare
from index.calibration import Calibration
from index.contract import Alive, IndexFileError, Plan, Vectors
from index.halves import as_float32
from index.probing import Lists, Near, Probing, as_near, nearest_rows

NPROBE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
NPROBE_APART = 1.4
RERANK, RERANK_MANY, MANY = (2, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8, 16, 32), 100
"""From k = MANY on re-ranking is most of the price: where it was chosen in steps of 4, a search for 100 out of a
million cost half as much again."""
MOST_CANDIDATES = 8192
"""Re-ranked, at k that are calibrated for: more would cost more than another index."""
FULL_RERANK, FULL_SHARE = (64, 1024), 0.5
"""At the greatest effort. Never all rows: an index that names them wrongly would pass."""
MAX_CANDIDATES = 1 << 16
FEW_MISSING = 0.9
"""With a larger share matching the search is first tried as if all did."""
MISSING, MISSING_SPARE = 2, 8
"""It is done again properly where more than so many of those found do not match; so many more are asked for."""
AMONG_RERANK = 16
"""Under a filter at least, up to k = MANY: what matches may lie far off, where all is about equally far and codes
hardly tell what is nearest. Of the farthest third of 20,000 rows 8 times k found 0.72 to 0.78, 16 times 0.95."""
AMONG_US, AMONG_COST = 150.0, 2.0
"""What a search under a filter was measured to take: so many µs, and so many times what the plan costs."""
REACH_LISTS = 1.15
"""Times nprobe: rows of the segment have their neighbours nearer by than queries from elsewhere."""
REACH_QUERIES, REACH_FEW, REACH_MANY, REACH_RERANK = 64, 8, 100, 32
"""Rows asked for their neighbours to learn the reach; few of them for k above 100."""


class Ivf(Approximate):
    kind = "ivf"
    defaults: ClassVar[dict[str, int]] = {"nprobe": 32, "rerank": 16}

    def __init__(self, vectors: Vectors, codes: Any, calibration: Calibration | None) -> None:
        super().__init__(vectors, calibration, None)
        self._codes = codes
        self._cached: dict[tuple[int, int], Any] = {}
        self._lists = Lists(codes, vectors)
        self._probing = Probing(self._lists, self._refine)
        self._reach: dict[tuple[int, int], np.float32] = {}
        d = vectors.rows.shape[1]
        self._padded = codes.d != d
        # Faiss re-ranks in one call, but only what can be compared as it is stored, and one row after the other: where
        # they come from the disk, they are to be asked for all at once.
        self._refined: Any = None
        if not (self._padded or vectors.ahead) and (vectors.metric != "cosine" or source.are_unit(vectors)):
            self._stored = mapped.view(vectors.rows, codes.metric_type)
            # It insists on as many rows as codes, which is not so while the calibration's rows are left out.
            self._stored.ntotal = codes.ntotal
            self._refined = faiss.IndexRefine(codes, self._stored)
            self._stored.ntotal = self._refined.ntotal = len(vectors.rows)

    def propose(
        self, queries: NDArray[np.float32], m: int, params: dict[str, int], k: int | None = None
    ) -> NDArray[np.int64]:
        queries = self._as_codes(queries)
        wide = self._rerank(m, params)
        wanted = self._params(params["nprobe"], wide)
        if self._refined is not None:
            near, slots = self._refined.search(queries, m, params=wanted)
            if k is not None:
                # To measure them takes a quarter as long as all that Faiss did.
                slots[self.exact.surely_farther(queries, near, k)] = -1
        else:
            slots = self._codes.search(queries, m * wide, params=wanted)[1]
        found: NDArray[np.int64] = slots
        return found

    def _as_codes(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries as the codes are compared: of norm 1 under cosine, padded where the codes are."""
        if self.vectors.metric == "cosine":
            queries = queries / _lengths(queries)[:, None]
        return padded(queries, self._codes.d) if self._padded else queries

    def _params(self, nprobe: int, rerank: int) -> Any:
        # Making the parameters costs as much as the call itself (4 µs).
        key = (nprobe, rerank)
        return self._cached.get(key) or self._cached.setdefault(key, self._made(nprobe, rerank))

    def _made(self, nprobe: int, rerank: int) -> Any:
        lists = faiss.SearchParametersIVF(nprobe=min(nprobe, self._codes.nlist))
        if self._refined is None:
            return lists
        return faiss.IndexRefineSearchParameters(k_factor=float(rerank), base_index_params=lists)

    def _rerank(self, m: int, params: dict[str, int]) -> int:
        return max(1, min(params["rerank"], MAX_CANDIDATES // m, len(self.vectors.rows) // m))

    def candidates(self, m: int, params: dict[str, int]) -> int:
        return m if self._refined is not None else m * self._rerank(m, params)

    def widened(self, params: dict[str, int], factor: float) -> dict[str, int]:
        return {"nprobe": min(self._codes.nlist, round(params["nprobe"] * factor)), "rerank": params["rerank"]}

    def same_effort(self, params: dict[str, int], measured_k: int, k: int) -> dict[str, int]:
        # As many candidates are re-ranked; the setting counts them in multiples of k and its spare.
        candidates = params["rerank"] * (measured_k + spare(measured_k))
        return {"nprobe": params["nprobe"], "rerank": math.ceil(candidates / (k + spare(k)))}

    def families(self, k: int) -> list[list[dict[str, int]]]:
        m = k + spare(k)
        probes = [p for p in NPROBE if NPROBE_APART * p < self._codes.nlist] + [self._codes.nlist]
        depths = [r for r in (RERANK if k < MANY else RERANK_MANY) if r * m <= MOST_CANDIDATES]
        return [[{"nprobe": p, "rerank": r} for p in probes] for r in depths]

    def efforts(self, k: int) -> list[dict[str, int]]:
        most = max(1, int(FULL_SHARE * len(self.vectors.rows) / (k + spare(k))))
        return [{"nprobe": self._codes.nlist, "rerank": min(rerank, most)} for rerank in FULL_RERANK]

    def among(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        if alive.count < FEW_MISSING * len(self.vectors.rows):
            return self._among(queries, k, m, params, alive)
        # Where next to nothing is missing, the nearest of all mostly match, and cost less to find.
        rows, measured = self.proposed(queries, m + MISSING_SPARE, params)
        dead = (rows < 0) | ~alive.mask[rows]
        few = np.count_nonzero(dead[:, : m + MISSING], axis=1) > MISSING
        measured[dead] = np.inf
        rows[dead] = -1
        found, used = in_order(rows, measured), params
        if few.any():
            again, used = self._among(queries[few], k, m, params, alive)
            found = replaced(found, few, again)
        return found, used

    def _among(
        self, queries: NDArray[np.float32], k: int, m: int, params: dict[str, int], alive: Alive
    ) -> tuple[Measured, dict[str, int]]:
        asked, nprobe = self._as_codes(queries), params["nprobe"]
        if k < MANY:
            params = params | {"rerank": max(params["rerank"], AMONG_RERANK)}
        wide = m * self._rerank(m, params)
        found = self._probing.search(asked, k, wide, nprobe, self._reach_of(asked, nprobe, k), alive)
        used = {"nprobe": max(nprobe, found.lists), "rerank": params["rerank"]}
        return self.measured(queries, nearest_rows(found, m)), used

    def _refine(self, asked: NDArray[np.float32], rows: NDArray[np.int64]) -> Near:
        """How near rows (q, w) are to queries as the codes see them; +inf for -1."""
        near = np.empty(rows.shape, np.float32)
        if self.vectors.ahead is not None:
            self.vectors.ahead(rows)
        if self._refined is not None and isinstance(self._stored, faiss.IndexFlat):
            # In C++, and by Faiss' own measure: good enough to choose by.
            self._stored.compute_distance_subset(
                len(asked), faiss.swig_ptr(asked), rows.shape[1], faiss.swig_ptr(near), faiss.swig_ptr(rows)
            )
            if self.vectors.metric == "dot":
                np.negative(near, out=near)
        else:
            queries = asked[:, None, : self.vectors.rows.shape[1]]
            block = as_float32(self.vectors.rows.take(rows, axis=0, mode="clip"))
            if self.vectors.metric == "l2":
                block = block - queries
                near = np.vecdot(block, block)
            elif self.vectors.metric == "cosine":
                near = 2 - 2 * np.vecdot(block, queries) / np.maximum(self.vectors.norms[rows], np.float32(1e-38))
            else:
                near = -np.vecdot(block, queries)
        near[rows < 0] = np.inf
        return near

    def among_us(self, plan: Plan, alive: Alive) -> float:
        return AMONG_US + AMONG_COST * plan.cost_us

    def _reach_of(self, asked: NDArray[np.float32], nprobe: int, k: int) -> NDArray[np.float32]:
        """How much farther than its k-th match a list may lie to be worth a look, (q,)."""
        reach = self._reach.get((nprobe, k))
        if reach is None:
            reach = self._reach.setdefault((nprobe, k), self._measured_reach(nprobe, k))
        scale = _lengths(asked) if self.vectors.metric == "dot" else np.ones(len(asked), np.float32)
        return reach * scale

    def _measured_reach(self, nprobe: int, k: int) -> np.float32:
        """By how much the last of nprobe lists lies farther than the k-th nearest row: the median of some rows of
        the segment, asked for their neighbours."""
        n = len(self.vectors.rows)
        picked = np.unique(np.linspace(0, n - 1, REACH_QUERIES if k <= REACH_MANY else REACH_FEW, dtype=np.int64))
        queries = as_float32(self.vectors.rows[picked])
        params = {"nprobe": nprobe, "rerank": REACH_RERANK}
        kth = self.proposed(queries, k + 1, params)[1][:, min(k, n - 1)]
        asked = self._as_codes(queries)
        last = min(round(REACH_LISTS * nprobe), self._lists.count) - 1
        farthest = np.partition(self._lists.near(asked), last, axis=1)[:, last]
        reach = farthest - as_near(self.vectors.metric, kth)
        if self.vectors.metric == "dot":
            reach = reach / _lengths(asked)
        return np.float32(np.median(reach[np.isfinite(reach)])) if np.isfinite(reach).any() else np.float32(0)


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.maximum(np.vecdot(rows, rows), np.float32(1e-38))))


def padded(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Zeros behind: they change neither distance nor inner product."""
    out = np.zeros((len(rows), width), np.float32)
    out[:, : rows.shape[1]] = rows
    return out


def opened(codes: Any, vectors: Vectors, calibration: Calibration | None) -> Ivf:
    """From what was read to what searches. Raises IndexFileError where it does not belong to these vectors."""
    n, d = vectors.rows.shape
    if not are_lists_of(codes, vectors) or codes.ntotal != n or codes.invlists.compute_ntotal() != n:
        raise IndexFileError(f"not the lists of {n} × {d} under {vectors.metric}")
    return Ivf(vectors, codes, calibration)


def are_lists_of(codes: Any, vectors: Vectors) -> bool:
    """Whether what was read is such an index, for such vectors (however many)."""
    metric = faiss.METRIC_INNER_PRODUCT if vectors.metric == "dot" else faiss.METRIC_L2
    if not isinstance(codes, faiss.IndexIVFPQFastScan) or codes.metric_type != metric:
        return False
    d = vectors.rows.shape[1]
    # Padded to parts of equal width.
    return bool(d <= codes.d < d + codes.pq.dsub)
