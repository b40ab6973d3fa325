"""What a disk does to a request: which refusal, whether it may come again, and what it says of what was stored."""

import errno

import pytest

from app.api.problems import TABLE, code_of, refusal_response
from app.engine import errors
from app.engine.translate import translated
from storage import errors as below

STORED_NOTHING = "nothing was stored"


@pytest.mark.parametrize(
    ("raised", "kind", "status", "says"),
    [
        (below.NoSpace("x"), errors.DiskFull, 507, STORED_NOTHING),
        (OSError(errno.ENOSPC, "x"), errors.DiskFull, 507, STORED_NOTHING),
        (OSError(errno.EDQUOT, "x"), errors.DiskFull, 507, STORED_NOTHING),
        (OSError(errno.EIO, "x"), errors.Unavailable, 503, STORED_NOTHING),
        (OSError(errno.EROFS, "x"), errors.Unavailable, 503, STORED_NOTHING),
        (below.DiskFailed("x"), errors.Unavailable, 503, STORED_NOTHING),
        (below.Locked("x"), errors.Unavailable, 503, STORED_NOTHING),
        (below.OutcomeUnknown("x"), errors.OutcomeUnknown, 503, "may be stored or not"),
    ],
)
def test_what_a_disk_does_is_never_a_500(raised: Exception, kind: type[errors.Refused], status: int, says: str) -> None:
    with pytest.raises(kind) as refused, translated("c"):
        raise raised
    assert says in refused.value.detail
    answer = refusal_response(refused.value, "id")
    assert answer.status_code == status == TABLE[code_of(refused.value)].status
    assert answer.headers["retry-after"] == "1"
