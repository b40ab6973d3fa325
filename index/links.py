"""A graph's links as arrays, and how nodes are taken out of them, so that a graph can lose rows without being built
again.

Faiss keeps, node after node, its neighbours in layer after layer, each layer of fixed width, with -1 behind the last
neighbour. What remains when nodes are taken out is numbered in the same order from 0, without gaps.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

NODES = 1 << 16
"""Handled at once: some 20 MiB of neighbours."""
CANDIDATES = 48
"""Neighbours of lost neighbours that a node looks at, about, drawn from all of them. One lost of 32 brings some 20."""

Nearness = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""How near nodes (p,) are to other nodes (p,), pair by pair; smaller nearer, comparable among pairs of one node."""


class Links(NamedTuple):
    """levels: (n,) int32, in how many layers a node is; offsets: (n + 1,) int64, where its neighbours begin;
    neighbors: int32; layers: int64, where those of each layer begin among those of a node, and where the last end."""

    levels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    neighbors: NDArray[np.int32]
    layers: NDArray[np.int64]

    def places(self, nodes: NDArray[Any], layer: int) -> NDArray[np.int64]:
        """Where in `neighbors` those of nodes (m,) in a layer stand, (m, width)."""
        reach = np.arange(self.layers[layer], self.layers[layer + 1])
        return np.asarray(self.offsets[nodes][:, None] + reach)

    def around(self, nodes: NDArray[Any], layer: int) -> NDArray[np.int32]:
        """Neighbours of nodes (m,), all of them in this layer: (m, width), -1 behind the last."""
        return self.neighbors[self.places(nodes, layer)]


def of(hnsw: Any) -> Links:
    """The graph's own memory: the graph must outlive them and stay as it is."""
    layers = [hnsw.cum_nb_neighbors(layer) for layer in range(hnsw.max_level + 2)]
    return Links(
        faiss.rev_swig_ptr(hnsw.levels.data(), int(hnsw.levels.size())),
        faiss.rev_swig_ptr(hnsw.offsets.data(), int(hnsw.offsets.size())).view(np.int64),
        faiss.rev_swig_ptr(hnsw.neighbors.data(), int(hnsw.neighbors.size())),
        np.array(layers, np.int64),
    )


def put(links: Links, entry: int, hnsw: Any) -> None:
    """Into a graph of the same widths that has no nodes. entry: a node of the highest layer there is."""
    faiss.copy_array_to_vector(links.levels, hnsw.levels)
    faiss.copy_array_to_vector(links.offsets.view(np.uint64), hnsw.offsets)
    hnsw.neighbors.resize(len(links.neighbors))
    faiss.rev_swig_ptr(hnsw.neighbors.data(), len(links.neighbors))[:] = links.neighbors
    hnsw.entry_point, hnsw.max_level = entry, int(links.levels[entry]) - 1


def share_lost(links: Links, lost: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n,) of each node's neighbours in the lowest layer, how many are lost. lost: (n,)."""
    shares = np.zeros(len(lost), np.float32)
    lost = np.append(lost, False)
    for part in _parts(np.arange(len(shares))):
        around = links.around(part, 0)
        count = np.count_nonzero(lost[around], axis=1)
        shares[part] = count / np.maximum(np.count_nonzero(around >= 0, axis=1), 1)
    return shares


def without(links: Links, gone: NDArray[np.bool_], bridged: NDArray[np.bool_], near: Nearness, pairs: int) -> Links:
    """The links of the nodes that stay. gone: (n,) those that do not; bridged: those of them in whose place their
    neighbours are linked to each other, the nearest first, each to as many as it lost. near is asked about so many
    pairs at once, by the old numbers."""
    kept = np.flatnonzero(~gone)
    # -1 (no neighbour) looks up the last entry, and stays -1.
    names = np.full(len(gone) + 1, -1, np.int32)
    names[kept] = np.arange(len(kept), dtype=np.int32)
    bridges = _Bridges(links, names, np.append(bridged & gone, False), near, max(1, pairs // CANDIDATES))
    offsets = np.concatenate([[0], np.cumsum(np.diff(links.offsets)[kept])]).astype(np.int64)
    out = Links(links.levels[kept], offsets, np.empty(int(offsets[-1]), np.int32), links.layers)
    for layer in range(len(links.layers) - 1):
        for part in _parts(kept[out.levels > layer]):
            left = _closed(names[links.around(part, layer)])
            bridges.fill(part, layer, left)
            out.neighbors[out.places(names[part], layer)] = left
    return out


def _parts(nodes: NDArray[np.int64], size: int = NODES) -> Iterator[NDArray[np.int64]]:
    return (nodes[start : start + size] for start in range(0, len(nodes), size))


def _closed(neighbors: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each row's -1 moved behind the others: Faiss looks no farther than the first."""
    gaps = np.flatnonzero(((neighbors[:, :-1] < 0) & (neighbors[:, 1:] >= 0)).any(axis=1))
    part = neighbors[gaps]
    neighbors[gaps] = np.take_along_axis(part, np.argsort(part < 0, axis=1, kind="stable"), 1)
    return neighbors


class _Bridges:
    """names: (n + 1,) old node → new, -1: gone; lost: (n + 1,) gone and to be bridged; at_once: nodes."""

    def __init__(
        self, links: Links, names: NDArray[np.int32], lost: NDArray[np.bool_], near: Nearness, at_once: int
    ) -> None:
        self._links = links
        self._names = names
        self._lost = lost
        self._near = near
        self._at_once = at_once
        self._random = np.random.default_rng(24)

    def fill(self, nodes: NDArray[np.int64], layer: int, left: NDArray[np.int32]) -> None:
        """left: (m, width) the new numbers of the neighbours that nodes (m,) keep; what is added comes behind them."""
        around = self._links.around(nodes, layer)
        counts = np.count_nonzero(self._lost[around], axis=1)
        for rows in _parts(np.flatnonzero(counts), self._at_once):
            owners, others = self._candidates(nodes[rows], around[rows], counts[rows], layer)
            order = np.lexsort((self._near(nodes[rows][owners], others), owners))
            owners, others = owners[order], others[order]
            rank = np.arange(len(owners)) - np.searchsorted(owners, owners)
            chosen = rank < counts[rows][owners]
            owners, others, rank = owners[chosen], others[chosen], rank[chosen]
            behind = np.count_nonzero(left[rows] >= 0, axis=1)[owners] + rank
            left[rows[owners], behind] = self._names[others]

    def _candidates(
        self, nodes: NDArray[np.int64], around: NDArray[np.int32], counts: NDArray[np.int64], layer: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Neighbours that stay of the lost neighbours of nodes, each pair once and new: places among nodes, ascending,
        and old numbers."""
        n = len(self._names)
        owners = np.nonzero(self._lost[around])[0]
        behind = self._links.around(around[self._lost[around]], layer)
        drawn = self._random.random(behind.shape, np.float32) < (CANDIDATES / around.shape[1] / counts[owners])[:, None]
        drawn &= self._names[behind] >= 0
        pairs = (owners[:, None] * n + behind)[drawn]
        each = np.arange(len(nodes))
        known = np.concatenate([(each[:, None] * n + around)[around >= 0], each * n + nodes])
        found = np.divmod(np.setdiff1d(pairs, known), n)
        return found[0].astype(np.int64), found[1].astype(np.int64)
