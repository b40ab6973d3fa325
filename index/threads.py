"""How many OpenMP threads Faiss takes. `omp_set_num_threads` holds for the calling thread only, and a single query
gains nothing from a second one while its spinning hurts everybody on a busy machine: one for single queries, the
setting for batches and builds."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import faiss

T = TypeVar("T")

_local = threading.local()
_batch = 1


def set_threads(n: int) -> None:
    """Threads a batch of queries may use in this process, from every calling thread. n ≥ 1; 1 at the start."""
    global _batch
    if n < 1:
        raise ValueError(f"{n} threads: at least one is needed")
    _batch = n


def batch_threads() -> int:
    return _batch


def use(n: int) -> None:
    """From here on Faiss calls of this thread take n OpenMP threads."""
    if getattr(_local, "threads", 0) != n:
        faiss.omp_set_num_threads(n)
        _local.threads = n


def use_for(queries: int) -> None:
    use(1 if queries == 1 else _batch)


def each(act: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
    """`act` of every part, by as many threads as a batch may use. It must spend its time outside of Python."""
    if _batch == 1 or len(parts) < 2:
        return [act(part) for part in parts]
    with ThreadPoolExecutor(_batch, "batch") as pool:
        return list(pool.map(act, parts))
