"""What a server holds of its machine, sampled; the bounds that must keep; and the picture of it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import memory
from tests.harness import Server

MIB = float(2**20)
SHORTEST_S = 300.0
"""Below this no growth is judged: a server is still warming up."""


@dataclass(slots=True)
class Sample:
    """at_s: since the clients began. latencies in ms, of what was answered since the sample before."""

    at_s: float
    pss_mib: float = 0.0
    anonymous_mib: float = 0.0
    descriptors: float = 0.0
    files: float = 0.0
    disk_mib: float = 0.0
    wal_mib: float = 0.0
    read_p50_ms: float = 0.0
    read_p99_ms: float = 0.0
    write_p50_ms: float = 0.0
    write_p99_ms: float = 0.0
    answers_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """name: of a figure of Sample. It may grow over the second half of a run by `share` of itself and `more`.

    most: what no sample may exceed (0: no such bound).
    """

    name: str
    share: float
    more: float
    most: float = 0.0

    def broken(self, samples: Sequence[Sample]) -> str:
        """Why, in words; empty where it holds. Medians: merges and builds come and go."""
        values = np.array([getattr(s, self.name) for s in samples])
        if self.most and values.max() > self.most:
            return f"{self.name} reached {values.max():,.1f}, at most {self.most:,.1f} is right"
        third, last = quarters(values)
        if samples[-1].at_s < SHORTEST_S or last <= third * (1 + self.share) + self.more:
            return ""
        return f"{self.name} grew from {third:,.1f} to {last:,.1f} in the second half (medians of its halves)"


BOUNDS = (
    Bound("pss_mib", 0.05, 16),
    Bound("anonymous_mib", 0.05, 16),
    Bound("descriptors", 0.05, 10),
    Bound("files", 0.10, 10),
    Bound("disk_mib", 0.10, 8),
    # 16 MiB is where the sealer empties a catalogue's log by force; two collections, and as much again meanwhile.
    Bound("wal_mib", 0.25, 8, most=128),
)


def quarters(values: NDArray[np.float64]) -> tuple[float, float]:
    """Medians of the third and of the last quarter."""
    half = values[len(values) // 2 :]
    return float(np.median(half[: max(1, len(half) // 2)])), float(np.median(half[len(half) // 2 :]))


@dataclass(slots=True)
class Watch:
    """Samples of one server. segments, indexes: names of all the files that were ever seen."""

    server: Server
    begun: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    segments: set[str] = field(default_factory=set)
    indexes: set[str] = field(default_factory=set)

    def sample(self, reads_s: Sequence[float], writes_s: Sequence[float]) -> Sample:
        """Takes one. reads_s, writes_s: latencies since the one before."""
        assert self.server.process is not None
        pids = [self.server.process.pid, *self.server.children()]
        held = memory.measure(pids)
        now = Sample(time.monotonic() - self.begun, held.pss / MIB, held.anonymous / MIB)
        now.descriptors = float(sum(map(descriptors, pids)))
        self._look(now)
        now.read_p50_ms, now.read_p99_ms = percentiles(reads_s)
        now.write_p50_ms, now.write_p99_ms = percentiles(writes_s)
        before = self.samples[-1].at_s if self.samples else 0.0
        now.answers_per_s = (len(reads_s) + len(writes_s)) / max(now.at_s - before, 1e-9)
        self.samples.append(now)
        return now

    def _look(self, now: Sample) -> None:
        for folder, _, names in os.walk(self.server.data_dir):
            for name in names:
                path = Path(folder, name)
                try:
                    took = path.stat().st_blocks * 512
                except FileNotFoundError:
                    continue
                now.files += 1
                now.disk_mib += took / MIB
                now.wal_mib += took / MIB if name.endswith("-wal") else 0.0
                if name.endswith(".h5"):
                    self.segments.add(str(path))
                if name.endswith(".faiss"):
                    self.indexes.add(str(path))


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in ms."""
    if not seconds:
        return 0.0, 0.0
    low, high = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return float(low), float(high)


PANELS = (
    ("memory of all processes, MiB", ("pss_mib", "anonymous_mib")),
    ("open descriptors; files", ("descriptors", "files")),
    ("disk, MiB", ("disk_mib", "wal_mib")),
    ("reads, ms", ("read_p50_ms", "read_p99_ms")),
    ("writes, ms", ("write_p50_ms", "write_p99_ms")),
    ("answers a second", ("answers_per_s",)),
)


def draw(samples: Sequence[Sample], title: str, path: Path) -> None:
    """A PNG with a panel for each kind of figure, over minutes."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    # This canvas needs no display.
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(3, 2, sharex=True)
    minutes = [s.at_s / 60 for s in samples]
    for axis, (heading, names) in zip(axes.flat, PANELS, strict=True):
        for name in names:
            # No latency is 0 ms: nothing was written in a pause, and a gap is drawn.
            values = [getattr(s, name) or float("nan") for s in samples]
            axis.plot(minutes, values, linewidth=1, label=name)
        axis.set_title(heading, fontsize=10)
        if heading.endswith(", ms"):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(path, dpi=90)
