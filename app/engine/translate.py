"""Storage's errors in the engine's words. The only place that knows both trees."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.engine import errors
from app.engine.errors import Fault
from app.engine.intake import Place, id_type_mismatch
from app.engine.seldom import Seldom
from app.engine.verifying import ADVICE
from storage import errors as below

log = logging.getLogger(__name__)
TOLD = Seldom(1.0)
FULL = "the disk is full: nothing was stored; free some space, or delete: reads and deletes go on"


@contextmanager
def translated(name: str, id_at: Place = lambda i: f"ids[{i}]") -> Iterator[None]:
    """name: the collection, for people; id_at: how the request names the id of its row i."""
    try:
        yield
    except below.IdsTaken as e:
        faults = [Fault(id_at(row), f"id {id_!r} exists") for row, id_ in e.rows]
        raise errors.IdExists("an id exists: nothing was stored; use PUT to replace it", faults) from e
    except below.WrongIdType as e:
        raise id_type_mismatch(e.wanted, []) from e
    except below.IdsExhausted as e:
        raise errors.OutOfRange("no int id is left to assign: send ids of your own") from e
    except below.KeyReused as e:
        detail = "this Idempotency-Key came before with another request: use a new key"
        raise errors.IdempotencyMismatch(detail, [Fault("Idempotency-Key", "was used for another request")]) from e
    except below.PendingFull as e:
        raise errors.Busy(f"too much of {name} waits to be sealed: nothing was stored, send it again shortly") from e
    except below.Dropped as e:
        raise errors.CollectionNotFound(f"there is no collection {name}") from e
    except below.Damaged as e:
        raise errors.CollectionClosed(f"collection {name} is damaged: {e}; {ADVICE}") from e
    except below.NoSpace as e:
        raise errors.DiskFull(FULL) from e
    except below.OutcomeUnknown as e:
        raise errors.OutcomeUnknown("the disk reported an error: what was sent may be stored or not") from e
    except below.Locked as e:
        raise errors.Unavailable(f"the catalogue of {name} is held by another process: nothing was stored") from e
    except below.DiskFailed as e:
        if TOLD.due():
            log.error("%s: %s", name, e)
        raise errors.Unavailable("the disk reported an error: nothing was stored; reads go on where they can") from e
    except OSError as e:
        if e.errno in below.FULL:
            raise errors.DiskFull(FULL) from e
        if TOLD.due():
            log.error("%s: %s", name, e)
        raise errors.Unavailable(f"the data folder cannot be used: {e.strerror or e}; nothing was stored") from e
