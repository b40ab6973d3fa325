"""How a process of the server begins to count: it takes its row, and hears of its syncs."""

from app.metrics.kinds import gauge_slots
from app.metrics.ours import FSYNC_SECONDS
from app.metrics.shared import MINE
from storage import syncs

_SYNCS = {of: FSYNC_SECONDS.at(of) for (of,) in FSYNC_SECONDS.series}


def count_as(name: str) -> None:
    """name: of this process among those of the server, `worker-1`. Before anything is counted."""
    MINE.join(name, gauge_slots())
    syncs.tell(_synced)


def _synced(of: syncs.Of, seconds: float) -> None:
    _SYNCS[of].observe(seconds)
