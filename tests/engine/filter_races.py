"""Rows of a rig that match or not, what may happen to them, and the places where it can be made to happen."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from app.engine.collection import Collection, Limits, Pools
from app.engine.merge_patch import merge_patch
from tests.engine.filter_judge import at_rest, judge
from tests.engine.rig import MANY, Held, Inline, Rig

T = TypeVar("T")
ODD = {"odd": True}
"""The filter; rows match by what `doc` gave them, and by patches."""
PATCH = {"odd": None, "seen": 1}


def doc(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def put(rig: Rig, ids: list[int], *, directly: bool = False, **fields: Any) -> None:
    """Upserts; odd ids are odd, unless `fields` says otherwise."""
    described = iter([doc(**{"n": id_, "odd": id_ % 2 == 1, **fields}) for id_ in ids])
    rig.describe = lambda: next(described)
    (rig.upsert_directly if directly else rig.upsert)(ids)


def check(rig: Rig, *workers: Collection) -> None:
    filters = (ODD, {"seen": 1}, {"n": {"$gte": 3}}, {"odd": {"$exists": False}}, {"$not": ODD})
    for worker in (*workers, rig.worker()):
        for filter in filters:
            at_rest(judge(rig, worker, filter))


class Between(Executor):
    """Runs at once, after what was put in its way (before) or before it (after)."""

    def __init__(
        self, *, before: list[Callable[[], None]] | None = None, after: list[Callable[[], None]] | None = None
    ):
        self.before, self.after = before or [], after or []
        self.submitted = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        self.submitted += 1
        if self.before:
            self.before.pop(0)()
        future = Inline().submit(fn, *args, **kwargs)
        if self.after:
            self.after.pop(0)()
        return future


def worker_with(rig: Rig, **pools: Executor) -> Collection:
    inline = Inline()
    all_pools = {name: pools.get(name, inline) for name in ("writers", "loaders", "workers", "searchers")}
    c = Collection("c", rig.folder, Limits(MANY, MANY), Pools(**all_pools))
    rig._closing.append(c.close)
    return c


async def begun(held: Held) -> None:
    for _ in range(100):
        if held.waiting:
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing is derived")


def nothing(rig: Rig) -> None:
    pass


def patched_in(rig: Rig) -> None:
    rig.patch(2, {"odd": True})


def patched_out(rig: Rig) -> None:
    rig.patch(3, {"odd": False})


def patched_and_back(rig: Rig) -> None:
    rig.patch(3, {"odd": False})
    rig.patch(3, {"odd": True})


def added(rig: Rig) -> None:
    put(rig, [100, 101])


def added_and_patched(rig: Rig) -> None:
    put(rig, [100, 101])
    rig.patch(100, {"odd": True})
    rig.patch(101, {"odd": None})


def deleted(rig: Rig) -> None:
    rig.delete([1, 2])


def deleted_and_added_again(rig: Rig) -> None:
    rig.delete([1, 2])
    put(rig, [1, 2])


def upserted_in_and_out(rig: Rig) -> None:
    put(rig, [1], odd=False)
    put(rig, [2], odd=True)


def vector_patched(rig: Rig) -> None:
    rig.patch(5, None, vector=True)


def sealed(rig: Rig) -> None:
    put(rig, [100, 101])
    rig.seal()


def sealed_after_a_patch(rig: Rig) -> None:
    rig.patch(8, {"odd": True})
    rig.patch(9, {"odd": None})
    rig.seal()


def merged_after_changes(rig: Rig) -> None:
    rig.patch(2, {"odd": True})
    rig.delete([1])
    rig.seal()
    rig.merge()


def stored_directly(rig: Rig) -> None:
    put(rig, [1, 2, 100, 101], directly=True)


def emptied(rig: Rig) -> None:
    rig.delete_all()


def emptied_and_filled(rig: Rig) -> None:
    rig.delete_all()
    put(rig, [1, 2, 3])


def change(rig: Rig, ids: list[int], bulk_write: str) -> None:
    merge = merge_patch(json.dumps(PATCH).encode())
    for id_ in ids:
        vector, old = rig.model.pop(id_)
        if bulk_write == "patch":
            rig.model[id_] = (vector, merge(old))
