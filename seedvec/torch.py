"""PyTorch datasets over a collection: vectors straight from its mapped segments, with their ids and metadata.

Both hold a snapshot (`snapshot.py`), so that every worker and epoch sees the same rows whatever is written meanwhile,
and both are handed to workers, forked or spawned, by its open files: nothing is copied.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from seedvec.folder import open as open_folder
from seedvec.order import Places
from seedvec.part import Vectors
from seedvec.snapshot import Snapshot
from seedvec.sparse import SparseRows
from seedvec.targets import read_targets

BLOCK_BYTES: Final = 512 << 10
"""What a stream reads from one place: enough that a cold disk reads it as fast as the whole file."""
BUFFER_BYTES: Final = 64 << 20
PIPED_BYTES: Final = 256 << 10
SAMPLES: Final = 256
"""Gathered at a time where samples are given one by one."""

Sample = tuple[Any, ...]
"""(vector, id, metadata), or with a target (vector, target). vector: (d,) tensor in the collection's dtype, sparse ones
expanded; metadata: the decoded object or None."""
Columns = tuple[Any, ...]
"""A batch of samples, column by column. vectors: (n, d) tensor; ids and targets: (n,) tensors, or lists of str;
metadata: a list."""
Source = str | os.PathLike[str] | Snapshot


class Batch(tuple[Any, ...]):
    """Columns on their way from a worker: a small tensor goes through the pipe with the rest. In shared memory, as
    torch sends tensors, each costs a file, a mapping and the passing of a descriptor: measured with two workers, a
    quarter of the batches a second at 256 × 128 float32, and twice as many at 256 × 768."""

    def __reduce__(self) -> tuple[Any, ...]:
        small = [isinstance(c, torch.Tensor) and c.nbytes <= PIPED_BYTES for c in self]
        return _arrived, tuple(c.numpy() if piped else c for c, piped in zip(self, small, strict=True))


def _arrived(*columns: Any) -> Batch:
    return Batch(torch.from_numpy(c) if isinstance(c, np.ndarray) else c for c in columns)


class Gathered(Sequence[Sample]):
    """Samples that were gathered together: `collate` takes their columns as they are, another collate function finds
    the samples one by one."""

    def __init__(self, columns: Batch) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, i: Any) -> Any:
        return tuple(column[i] for column in self.columns)


def collate(samples: Sequence[Sample]) -> Batch:
    """For a DataLoader over either dataset: the columns of a batch."""
    if isinstance(samples, Gathered):
        return samples.columns
    if isinstance(samples, Batch):
        return samples  # of a stream, which makes its batches itself
    vectors, *others = zip(*samples, strict=True)
    return Batch((torch.stack(vectors), *(_column(list(values)) for values in others)))


class _Rows:
    """What both datasets yield of the rows of a snapshot."""

    def __init__(
        self, source: Source, name: str | None, filter: Mapping[str, Any] | None, target: str | None, metadata: bool
    ) -> None:
        rows = _snapshot(source, name, metadata or target is not None or filter is not None)
        self.snapshot = rows if filter is None else rows.where(filter)
        self.targets = None if target is None else read_targets(self.snapshot, target)
        self.with_metadata = metadata

    def others(self, places: Places) -> Columns:
        """All columns but the vectors."""
        if isinstance(self.targets, list):
            return ([self.targets[place] for place in places.tolist()],)
        if self.targets is not None:
            return (torch.from_numpy(self.targets.take(places)),)
        ids = self.snapshot.ids_at(places)
        column = ids if isinstance(ids, list) else torch.from_numpy(ids)
        if not self.with_metadata:
            return (column,)
        return column, [None if raw is None else json.loads(raw) for raw in self.snapshot.metadata_at(places)]


class CollectionDataset(Dataset[Sample]):
    """Map style: `len`, and by number, slice, list or tensor of numbers. A number gives a sample, the others columns.

    source: a data folder with the collection's `name`, or a `Snapshot`; filter: as in docs/filters.md; target: a field
    of the metadata (a dotted path) that every row must have; metadata: False leaves it out, which spares its copying.
    A slice within one segment is no copy but the file's own pages: what is written to it changes nothing on disk, but
    stays in this process. A batch (`DataLoader(…, collate_fn=collate)`) is gathered in one go.
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        target: str | None = None,
        metadata: bool = True,
    ) -> None:
        """Raises FolderError, FilterError, and TargetError where a row lacks the target."""
        self._rows = _Rows(source, name, filter, target, metadata)

    @property
    def snapshot(self) -> Snapshot:
        return self._rows.snapshot

    def __len__(self) -> int:
        return len(self.snapshot)

    def __getitem__(self, rows: Any) -> Any:
        """Raises IndexError."""
        if isinstance(rows, int | np.integer):
            row = range(len(self))[int(rows)]
            return tuple(column[0] for column in self._columns(slice(row, row + 1)))
        return self._columns(rows if isinstance(rows, slice) else np.asarray(rows))

    def __getitems__(self, rows: Sequence[int]) -> Gathered:
        """What a DataLoader asks for a batch."""
        return Gathered(self._gathered(self.snapshot.places(np.fromiter(rows, np.int64, len(rows)))))

    def _columns(self, rows: slice | Places) -> Batch:
        snapshot = self.snapshot
        if not isinstance(rows, slice):
            return self._gathered(snapshot.places(rows))
        # Torch knows no strides below 0.
        forwards = rows.step is None or rows.step > 0
        view = snapshot.view(rows, writable=True) if forwards and not snapshot.sparse else None
        places = snapshot.places(rows)
        return Batch((_tensor(snapshot.vectors_at(places) if view is None else view), *self._rows.others(places)))

    def _gathered(self, places: Places) -> Batch:
        return Batch((_tensor(self.snapshot.vectors_at(places)), *self._rows.others(places)))


class CollectionStream(IterableDataset[Any]):
    """Iterable: blocks of neighbouring rows in an order drawn anew each epoch, and shuffled among as many rows as the
    buffer holds. Over all workers and ranks each row comes once an epoch; shares differ by one row at most.

    source … metadata: as in CollectionDataset. seed: None reads in key order. batch_size: batches of so many rows
    (columns; `DataLoader(stream, None, collate_fn=collate)`), the quick way; None: samples. buffer_bytes: of vectors,
    in each worker; nothing else of the collection is kept in memory. rank, world_size: torch.distributed's where it is
    initialised. All ranks must see the same rows: let nothing be written while they open, or open one snapshot.
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        target: str | None = None,
        metadata: bool = True,
        seed: int | None = 0,
        batch_size: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Raises as CollectionDataset."""
        self._rows = _Rows(source, name, filter, target, metadata)
        self._seed = seed
        self._batch_size = batch_size
        self._buffer_bytes = buffer_bytes
        self._rank, self._world_size = _place_among_ranks(rank, world_size)
        # In shared memory: workers that live on from epoch to epoch look here when the next begins.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def snapshot(self) -> Snapshot:
        return self._rows.snapshot

    def set_epoch(self, epoch: int) -> None:
        """From the next iteration on, in all workers: another order, the same for the same number."""
        self._epoch[0] = epoch

    def __iter__(self) -> Iterator[Any]:
        step = self._batch_size or SAMPLES
        for vectors, places in self._buffers():
            for start in range(0, len(places), step):
                rows = slice(start, start + step)
                columns = Batch((_tensor(vectors[rows]), *self._rows.others(places[rows])))
                if self._batch_size is None:
                    yield from Gathered(columns)
                else:
                    yield columns
            del vectors, columns  # before the next buffer is filled

    def _buffers(self) -> Iterator[tuple[Vectors, Places]]:
        """This worker's rows, a buffer at a time, in the order in which they are given."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share, shares = self._rank * workers + worker, self._world_size * workers
        epoch = None if self._seed is None else [self._seed, int(self._epoch[0])]
        width = _row_bytes(self.snapshot)
        batch = self._batch_size or 1
        size = max(1, self._buffer_bytes // width // batch) * batch
        blocks = _blocks(len(self.snapshot), max(1, BLOCK_BYTES // width), epoch)
        rng = None if epoch is None else np.random.default_rng([*epoch, share])
        for ranges in _filling(_within(blocks, len(self.snapshot), share, shares), size):
            n = sum(rows.stop - rows.start for rows in ranges)
            order = np.arange(n) if rng is None else rng.permutation(n)
            yield self._read(ranges, order)

    def _read(self, ranges: Sequence[slice], order: Places) -> tuple[Vectors, Places]:
        """The rows of these ranges, the i-th at place order[i]."""
        snapshot = self.snapshot
        places = np.concatenate([snapshot.places(rows) for rows in ranges])
        shuffled = np.empty_like(places)
        shuffled[order] = places
        if snapshot.sparse:
            return snapshot.vectors(shuffled), shuffled
        vectors = np.empty((len(places), snapshot.dimension), snapshot.dtype)
        at = 0
        for rows in ranges:
            n = rows.stop - rows.start
            vectors[order[at : at + n]] = snapshot.vectors(rows)
            snapshot.forget(rows.start, rows.stop)
            at += n
        return vectors, shuffled


def _snapshot(source: Source, name: str | None, metadata: bool) -> Snapshot:
    if isinstance(source, Snapshot):
        return source
    if name is None:
        raise TypeError("a data folder is given with the name of a collection in it")
    return open_folder(source).snapshot(name, metadata=metadata)


def _place_among_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Raises ValueError where only one of them is given, or they do not fit."""
    if rank is None and world_size is None:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    return rank, world_size


def _blocks(rows: int, block_rows: int, seed: Sequence[int] | None) -> Iterator[slice]:
    """All rows in blocks, in the order that every worker and rank draws alike."""
    count = -(-rows // block_rows)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    for block in order.tolist():
        yield slice(block * block_rows, min((block + 1) * block_rows, rows))


def _within(blocks: Iterator[slice], rows: int, share: int, shares: int) -> Iterator[slice]:
    """Of the rows in the order of the blocks, the part that is one worker's."""
    low, high = rows * share // shares, rows * (share + 1) // shares
    at = 0
    for block in blocks:
        start, stop = block.start + max(0, low - at), min(block.stop, block.start + high - at)
        if start < stop:
            yield slice(start, stop)
        at += block.stop - block.start


def _filling(ranges: Iterator[slice], size: int) -> Iterator[list[slice]]:
    """Ranges in lists of `size` rows each; the last may have fewer."""
    held: list[slice] = []
    room = size
    for rows in ranges:
        start = rows.start
        while rows.stop - start >= room:
            yield [*held, slice(start, start + room)]
            held, start, room = [], start + room, size
        if start < rows.stop:
            held.append(slice(start, rows.stop))
            room -= rows.stop - start
    if held:
        yield held


def _row_bytes(snapshot: Snapshot) -> int:
    if not snapshot.sparse:
        return snapshot.dimension * snapshot.dtype.itemsize
    return max(1, sum(part.vectors.nbytes for part in snapshot.parts) // max(1, len(snapshot)))


def _tensor(vectors: Vectors) -> torch.Tensor:
    """Sparse ones expanded."""
    return torch.from_numpy(vectors.dense() if isinstance(vectors, SparseRows) else vectors)


def _column(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(values[0], int | float) else values
