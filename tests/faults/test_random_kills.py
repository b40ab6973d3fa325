"""Suite 2: kill -9 at random moments under concurrent load: of the whole server, of one process, of a start.

After each the accounts of all clients are settled: every acknowledged write is served, of a write in doubt all or
nothing, and nothing besides; exact search finds every row; the folder is sound. Clients then repeat what they did not
hear the answer of, as clients do.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from storage.check import check
from tests.faults.random_load import DIMENSION, SPAN, Briefly, Client, Key, Lost, State, row_state
from tests.faults.table import Extent, record
from tests.harness import SMALL, Server, wait_for
from tests.processes import alive, wait_gone

KILLS = {"quick": 50, "whole": 500}
WRITERS = 3
COLLECTION = "kept"
AFTER_S = 0.6
"""A kill comes at a random moment up to so long after the clients began, which is when the server is ready."""
STARTING_S = 1.2
"""Of a start: about the time from the command to ready, on a quiet machine."""
# What is killed, and how often of a hundred times. A start that is killed follows a kill of the whole.
SUPERVISOR, EVERYTHING, STARTING = "the supervisor", "every process", "a start"
VICTIMS = {
    SUPERVISOR: 20,
    EVERYTHING: 20,
    STARTING: 25,
    "app.worker": 15,
    "app.sealer": 10,
    "app.builder": 10,
}


class Killings:
    """One server, its clients, and how often what was killed."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.brief = Briefly(WRITERS + 1, "", seed)
        self.clients: list[Client] = [*(Client(n + 1, COLLECTION, seed) for n in range(WRITERS)), self.brief]
        self.counts: Counter[str] = Counter()
        self.lost = 0

    @property
    def kills(self) -> int:
        return self.counts.total()

    @property
    def acknowledged(self) -> int:
        return sum(client.account.acknowledged for client in self.clients)

    def round(self, most: int) -> None:
        """Load, a kill (or several, while starting; never more than `most`), a start where one is needed, judgement."""
        for client in self.clients:
            client.begin(self.server)
        try:
            time.sleep(self.rng.uniform(0, AFTER_S))
            [victim] = self.rng.choices(list(VICTIMS), list(VICTIMS.values()))
            if victim in (SUPERVISOR, EVERYTHING, STARTING):
                self.kill_all(EVERYTHING if victim == EVERYTHING else SUPERVISOR)
            else:
                self.kill_one(victim)
        finally:
            self.rest()
        while victim == STARTING and most > 1:
            most -= 1
            self.server.start(wait=False)
            time.sleep(self.rng.uniform(0, STARTING_S))
            self.kill_all(STARTING)
            if self.rng.random() < 0.5:
                break
        if self.server.process is None:
            self.server.start()
        self.judge()

    def kill_all(self, how: str) -> None:
        process = self.server.process
        assert process is not None
        if how == EVERYTHING:
            pids = [process.pid, *self.server.children()]
            self.rng.shuffle(pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert not wait_gone(pids, 5.0)
        self.server.kill()
        self.counts[how] += 1

    def kill_one(self, module: str) -> None:
        wait_for(f"{module} runs", lambda: bool(self.server.children(module)))
        victim = self.rng.choice(self.server.children(module))
        os.kill(victim, signal.SIGKILL)
        wait_for(f"{module} is gone", lambda: not alive(victim), every_s=0.01)
        self.counts[module] += 1
        wait_for(f"{module} is replaced", lambda: bool(self.server.children(module)), every_s=0.02)

    def rest(self) -> None:
        for client in self.clients:
            client.stop()
        for client in self.clients:
            client.end()

    def judge(self) -> None:
        """Raises Lost; AssertionError where search or the folder is wrong."""
        kept = self.server.collection(COLLECTION)
        rows: dict[Key, State] = {id: row_state(item) for id, item in kept.everything().items()}
        for client in self.clients[:WRITERS]:
            mine = range(client.owner * SPAN, (client.owner + 1) * SPAN)
            client.account.settle({id: row for id, row in rows.items() if id in mine})
        owners = {client.owner for client in self.clients[:WRITERS]}
        assert all(isinstance(id, int) and id // SPAN in owners for id in rows)
        query = np.zeros(DIMENSION, np.float32)
        found = [hit["id"] for hit in kept.search(query, len(rows) or 1, exact=True, include=[])["hits"]]
        assert sorted(found) == sorted(rows), "exact search finds other rows than the walk"
        self.brief.account.settle(self.briefly())
        report = check(self.server.data_dir)
        assert report.sound, report.findings

    def briefly(self) -> dict[Key, State]:
        names: list[str] = self.server.client.get("/v1/collections").json()["collections"]
        return {name: self.server.collection(name).describe()["count"] for name in names if name != COLLECTION}


def said(counts: Counter[str], clients: Sequence[Client]) -> str:
    victims = ", ".join(f"{n} × {victim}" for victim, n in counts.most_common())
    return f"{victims}; {sum(c.repeated for c in clients)} writes repeated whose answer was not heard"


@pytest.mark.timeout(4 * 3600)
def test_killed_at_random(tmp_path: Path, extent: Extent) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}: the same victims, though never at the same moments")
    begun = time.monotonic()
    with Server(tmp_path / "data", workers=1, env=SMALL) as server:
        server.collection(COLLECTION).create(DIMENSION, metric="l2", id_type="int", index={"kind": "hnsw"})
        killings = Killings(server, seed)
        try:
            while killings.kills < KILLS[extent]:
                killings.round(KILLS[extent] - killings.kills)
            assert server.collection(COLLECTION).wait_ready()["index"]["kind"] in ("hnsw", "flat")
            killings.judge()
        except Lost as e:
            killings.lost = e.lost
            raise
        finally:
            killings.rest()
            seconds = time.monotonic() - begun
            record("2 random kills", killings.kills, killings.lost, judged=killings.acknowledged, seconds=seconds)
            print(said(killings.counts, killings.clients))
    assert killings.acknowledged > 2 * killings.kills, "hardly any load"
