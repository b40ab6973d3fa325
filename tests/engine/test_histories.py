"""Random histories of writes, seals and merges that overlap, against a dict.

A seal and a merge are each split in two: what they read and write, and the transaction that makes it real. Any write,
and the other one's halves, may come in between. Three readers judge: one that looks after every step, one that looks
rarely, and ones that are opened anew.
"""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.engine.rig import Rig, UnderWay, listed

EXAMPLES = 200
STEPS = 24
IDS = 24
SEAL_ROWS = 8
"""So that often only the first of the pending rows are sealed."""
IN_MEMORY = Path("/dev/shm")
"""Nothing here is about power cuts, and hundreds of histories should not wait for a disk."""

some_ids = st.lists(st.integers(0, IDS - 1), min_size=1, max_size=6, unique=True)


class Machine(RuleBasedStateMachine):
    @initialize(texts=st.booleans(), sparse=st.booleans())
    def begin(self, texts: bool, sparse: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self.rig = Rig(Path(self.folder.name), seal_rows=SEAL_ROWS, durable=False, sparse=sparse)
        self.texts = texts
        self.sealing: UnderWay | None = None
        self.building: UnderWay | None = None
        self.eager, self.lazy = self.rig.worker(), self.rig.worker()
        self.unseen = 0
        self.upsert([0])

    def named(self, ids: list[int]) -> list[Any]:
        return [f"é{i}" for i in ids] if self.texts else list(ids)

    # ---------------------------------------------------------------- writes

    @rule(ids=some_ids)
    def add(self, ids: list[int]) -> None:
        fresh = [i for i in self.named(ids) if i not in self.rig.model]
        if fresh:
            self.rig.add(fresh)

    @rule(ids=some_ids)
    def upsert(self, ids: list[int]) -> None:
        self.rig.upsert(self.named(ids))

    @rule(ids=some_ids)
    def upsert_directly(self, ids: list[int]) -> None:
        self.rig.upsert_directly(self.named(ids))

    @rule(ids=some_ids)
    def delete(self, ids: list[int]) -> None:
        there = len(self.rig.model)
        assert self.rig.delete(self.named(ids)) == there - len(self.rig.model)

    @rule()
    def delete_all(self) -> None:
        self.rig.delete_all()

    @rule(id=st.integers(0, IDS - 1), value=st.none() | st.integers(0, 9), vector=st.booleans())
    def patch(self, id: int, value: int | None, vector: bool) -> None:
        (name,) = self.named([id])
        assert self.rig.patch(name, {"a": value}, vector) == (name in self.rig.model)

    # ---------------------------------------------------------------- background work in two halves

    @precondition(lambda self: self.sealing is None)
    @rule()
    def snapshot_seal(self) -> None:
        self.sealing = self.rig.seal_under_way()

    @precondition(lambda self: self.sealing is not None)
    @rule()
    def publish_seal(self) -> None:
        assert self.sealing is not None
        self.sealing.publish()
        self.sealing = None

    @precondition(lambda self: self.building is None)
    @rule()
    def snapshot_merge(self) -> None:
        self.building = self.rig.build_under_way()

    @precondition(lambda self: self.building is not None)
    @rule()
    def publish_merge(self) -> None:
        assert self.building is not None
        self.building.publish()
        self.building = None

    @precondition(lambda self: self.sealing is None)
    @rule()
    def seal(self) -> None:
        self.rig.seal()

    @precondition(lambda self: self.sealing is None)
    @rule(ids=some_ids)
    def die_pending(self, ids: list[int]) -> None:
        """Rows that one reader has seen pend, that no segment ever holds, and of which the log loses every trace."""
        self.rig.seal()
        self.rig.upsert(self.named(ids))
        self.rig.assert_seen(self.lazy)
        self.rig.delete(self.named(ids))
        self.rig.seal()

    # ---------------------------------------------------------------- readers

    @rule()
    def lazy_looks(self) -> None:
        self.rig.assert_seen(self.lazy)

    @rule()
    def reopen(self) -> None:
        self.rig.assert_seen(self.rig.worker())

    @invariant()
    def eager_sees(self) -> None:
        if hasattr(self, "rig"):
            assert listed(self.eager, 50) == self.rig.model

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        try:
            for under_way in (self.sealing, self.building):
                if under_way is not None:
                    under_way.publish()
            self.rig.assert_seen(self.lazy)
            self.rig.assert_sound()
            self.rig.seal()
            self.rig.merge()
            self.rig.assert_seen(self.lazy)
            self.rig.assert_seen(self.eager)
            self.rig.assert_sound(notes=False)
            assert len(self.rig.segments()) <= 1 and self.rig.state().pending_rows == 0
        finally:
            self.rig.close()
            self.folder.cleanup()


def test_histories() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            # Shrinking took longer than the test may: two dozen steps can be read as they are.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
