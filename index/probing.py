"""Which lists of an IVF index to look into when only some rows may be answered with.

Widening `nprobe` by 1/share is far too much where the filter has nothing to do with the vectors (at 10 % twice the
lists serve, not ten times), and too little where it has: with a cluster left out, the nearest lists hold no row that
matches. What serves in every case is to look at what was found. Measured on 1,000,000 × 128: every list whose centroid
lies no farther than the k-th match found so far and a constant (in squares: the reach) is worth a look, lists without
a match are not; with the one reach that unfiltered searches have, recall held at random shares from 100 % to 2 %, for
a cluster's rows only, and for all but a cluster's, from inside and from outside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from index.contract import Alive, Metric, Vectors

THIN = 0.07
"""Of the reach, that a list has to be nearer where e times fewer of its rows match: brings recall at random shares
down to what it is elsewhere, and spares a third of the lists at 5 %."""
DEEPER, MOST_REFINED = 4, 1000
"""Times as many codes are refined where one of the k nearest was far down among them; until they are so many."""
COUNTED_ROWS = 1 << 20
LARGEST = np.finfo(np.float32).max
TINY = np.finfo(np.float32).tiny

Near = NDArray[np.float32]
"""How near lists are, smaller nearer: squared Euclidean distance of the centroid, or its negative inner
product, brought to the rows' mean length."""


class Lists:
    """The coarse side of an IVF index. Thread-safe: what is made on first use may be made twice."""

    def __init__(self, codes: Any, vectors: Vectors) -> None:
        self._codes = codes
        self._rows = len(vectors.rows)
        quantizer = faiss.downcast_index(codes.quantizer)
        self._centroids = faiss.rev_swig_ptr(quantizer.get_xb(), codes.nlist * codes.d)
        self._product = codes.metric_type == faiss.METRIC_INNER_PRODUCT
        # By inner product centroids have norm 1, whatever the vectors have.
        self._scale = np.float32(-vectors.norms.mean()) if self._product and len(vectors.norms) else np.float32(-1)
        self._list_of: NDArray[np.uint16] | None = None
        self._sizes = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        return int(self._codes.nlist)

    def near(self, queries: NDArray[np.float32]) -> Near:
        """(q, lists) for queries (q, d); the same for a query alone and in a batch."""
        kernel = faiss.fvec_inner_products_ny if self._product else faiss.fvec_L2sqr_ny
        out = np.empty((len(queries), self.count), np.float32)
        for i, query in enumerate(queries):
            kernel(
                faiss.swig_ptr(out[i]),
                faiss.swig_ptr(query),
                faiss.swig_ptr(self._centroids),
                self._codes.d,
                self.count,
            )
        return np.multiply(out, self._scale, out=out) if self._product else out

    def thinness(self, alive: Alive) -> NDArray[np.float32]:
        """(lists,): minus the logarithm of the share of its rows that may be answered with; +inf where it is 0."""
        return alive.derive("lists", self, lambda: self._thinness(alive))

    def _thinness(self, alive: Alive) -> NDArray[np.float32]:
        list_of = self._assigned()
        counts = np.zeros(self.count, np.int64)
        for start in range(0, self._rows, COUNTED_ROWS):  # NumPy counts copies of 8 bytes a row
            part = slice(start, start + COUNTED_ROWS)
            counts += np.bincount(list_of[part][alive.mask[part]], minlength=self.count)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.maximum(self._sizes, 1)) - np.log(counts), np.float32)

    def _assigned(self) -> NDArray[np.uint16]:
        """(rows,): each row's list."""
        if self._list_of is None:
            list_of = np.zeros(self._rows, np.uint16)
            sizes = np.zeros(self.count, np.int64)
            lists = self._codes.invlists
            for number in range(self.count):
                size = sizes[number] = lists.list_size(number)
                if size:
                    list_of[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
            self._sizes = sizes
            self._list_of = list_of
        return self._list_of

    def scan(
        self, queries: NDArray[np.float32], numbers: NDArray[np.int64], m: int, selector: Any
    ) -> NDArray[np.int64]:
        """Rows of the m nearest codes in the lists of each query, (q, m), -1 where there are fewer.

        numbers: (q, w) lists, -1 for none."""
        numbers = np.ascontiguousarray(numbers)
        params = faiss.SearchParametersIVF(nprobe=numbers.shape[1], sel=selector)
        rows = np.empty((len(queries), m), np.int64)
        scores, unused = np.empty(rows.shape, np.float32), np.empty(numbers.shape, np.float32)
        # Codes are not of residuals, so Faiss has no use for the distances of the centroids.
        self._codes.search_preassigned_c(
            len(queries),
            faiss.swig_ptr(queries),
            m,
            faiss.swig_ptr(numbers),
            faiss.swig_ptr(unused),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            False,
            params,
        )
        return rows


class Looked(NamedTuple):
    """Candidates of q queries. rows: (q, w), -1 where there are fewer; near: (q, w), how near they are, +inf there;
    lists: the most that were looked into for any query."""

    rows: NDArray[np.int64]
    near: Near
    lists: int


class Probing:
    """The lists of one index searched under filters. refine: queries (q, d) and rows (q, w) → how near those rows are,
    by their vectors."""

    def __init__(self, lists: Lists, refine: Callable[[NDArray[np.float32], NDArray[np.int64]], Near]) -> None:
        self._lists = lists
        self._refine = refine

    def search(
        self, queries: NDArray[np.float32], k: int, wide: int, nprobe: int, reach: NDArray[np.float32], alive: Alive
    ) -> Looked:
        """queries: (q, d) as the codes are compared; wide: codes of each look that are refined; reach: (q,)."""
        # Faiss keeps pointers only: `alive` holds the bits, this frame holds the selector until the search is done.
        selector = faiss.IDSelectorBitmap(alive.bits)
        near = self._lists.near(queries)
        # Never 0 or less, so that lists without a match stay infinitely far.
        near += np.maximum(THIN * reach, TINY)[:, None] * self._lists.thinness(alive)
        first = nearest_lists(near, max(1, nprobe // 2))
        nothing = np.empty((len(queries), 0), np.float32)
        found = self._look(queries, first, wide, k, nothing, selector)
        near[_each(near), np.maximum(first, 0)] = np.inf
        worth = near <= (kth(found.near, k) + reach)[:, None]
        most = int(np.count_nonzero(worth, axis=1).max())
        if not most:
            return found
        near[~worth] = np.inf
        more = self._look(queries, nearest_lists(near, most), wide, k, found.near, selector)
        rows = np.concatenate([found.rows, more.rows], axis=1)
        return Looked(rows, np.concatenate([found.near, more.near], axis=1), found.lists + more.lists)

    def _look(
        self, queries: NDArray[np.float32], numbers: NDArray[np.int64], wide: int, k: int, before: Near, selector: Any
    ) -> Looked:
        """Where one of the k nearest so far (before: of earlier looks) was far down among the codes, others are
        farther down still: there the look is repeated, deeper."""
        rows = self._lists.scan(queries, numbers, wide, selector)
        near = self._refine(queries, rows)
        bound = np.minimum(kth(np.concatenate([before, near], axis=1), k), LARGEST)
        low = (near[:, wide // 2 :] < bound[:, None]).any(axis=1)
        while low.any() and wide < MOST_REFINED:
            wide *= DEEPER
            deeper = self._lists.scan(queries[low], numbers[low], wide, selector)
            missing = ((0, 0), (0, wide - rows.shape[1]))
            rows = np.pad(rows, missing, constant_values=-1)
            near = np.pad(near, missing, constant_values=np.inf)
            rows[low], near[low] = deeper, self._refine(queries[low], deeper)
            low &= (near[:, wide // 2 :] < bound[:, None]).any(axis=1)
        return Looked(rows, near, numbers.shape[1])


def nearest_lists(near: Near, count: int) -> NDArray[np.int64]:
    """(q, count) numbers of the nearest lists of near (q, lists), in no order; -1 for those out of the question
    (+inf)."""
    if count >= near.shape[1]:
        numbers = np.broadcast_to(np.arange(near.shape[1]), near.shape)
    else:
        numbers = np.argpartition(near, count - 1, axis=1)[:, :count]
    return np.where(near[_each(near), numbers] < np.inf, numbers, -1)


def nearest_rows(looked: Looked, m: int) -> NDArray[np.int64]:
    """(q, ≤ m) rows of the nearest candidates, in no order."""
    if looked.near.shape[1] <= m:
        return looked.rows
    return looked.rows[_each(looked.near), np.argpartition(looked.near, m - 1, axis=1)[:, :m]]


def kth(near: Near, k: int) -> NDArray[np.float32]:
    """(q,) the k-th smallest; +inf where there are fewer."""
    if near.shape[1] < k:
        return np.full(len(near), np.inf, np.float32)
    return np.asarray(np.partition(near, k - 1, axis=1)[:, k - 1])


def _each(array: NDArray[Any]) -> NDArray[np.int64]:
    """(q, 1): each query's number, to index with: several times faster than `take_along_axis` where they are few."""
    return np.arange(len(array))[:, None]


def as_near(metric: Metric, distances: NDArray[np.float32]) -> Near:
    """Distances of the contract as nearness of lists (under cosine queries and codes are of norm 1)."""
    if metric == "l2":
        return np.square(distances)
    return 2 * distances if metric == "cosine" else distances
