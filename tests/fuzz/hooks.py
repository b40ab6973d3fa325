"""Loaded by schemathesis: bodies that are no JSON, nearly right; and a count of what was asked and answered."""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import AllowHeaderMismatch

from tests.fuzz import bodies
from tests.fuzz.mutants import Sound, mutants
from tests.fuzz.reference import COUNTS, SNAPSHOT

FOLDER = Path(os.environ["FUZZ_FOLDER"])
counts: Counter[str] = Counter()


def _nearly(*sound: Sound) -> st.SearchStrategy[bytes]:
    whole = st.sampled_from([one.whole for one in sound])
    return whole | whole | mutants(sound).map(lambda mutant: mutant.body) | st.binary(max_size=200)


_NPY = [bodies.npy((2, dimension), descr) for dimension in (3, 4) for descr in ("<f4", ">f8", "<f2")]
_TAR = [bodies.import_tar(), Sound(((FOLDER / SNAPSHOT).read_bytes(),))]
schemathesis.openapi.media_type("application/x-npy", _nearly(*_NPY))
schemathesis.openapi.media_type("application/x-tar", _nearly(*_TAR))
schemathesis.openapi.media_type("application/octet-stream", _nearly(*_NPY, *_TAR))


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    counts[f"{case.operation.label} {response.status_code}"] += 1


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is one. `…/vectors/fetch` is also the item whose id is `fetch`, which can be got: `Allow` says so."""
    if not isinstance(failure, AllowHeaderMismatch) or failure.missing_methods:
        return True
    schema, (above, _, last) = case.operation.schema, case.operation.path.rpartition("/")
    beside = [path for path in schema if path.startswith(f"{above}/{{") and path.endswith("}") and last not in path]
    return not {method.lower() for method in failure.undocumented_methods} <= {
        m for path in beside for m in schema[path]
    }


@atexit.register
def _save() -> None:
    (FOLDER / COUNTS).write_text(json.dumps(counts))
