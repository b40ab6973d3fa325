"""No write without a failpoint: whoever adds one to the product is told here, before any crash could tell.

A function that asks the system to change what is on the disk also hits a failpoint, or is in BESIDE with the reason
why none is needed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("storage", "app/engine")
HITS = {"hit", "_disk"}
CALLS = {
    *("rename", "link", "symlink", "symlink_to", "hardlink_to", "mkdir", "makedirs", "touch"),
    *("unlink", "rmdir", "rmtree", "copyfile", "copytree", "write_text", "write_bytes"),
    *("pwrite", "truncate", "ftruncate", "posix_fallocate", "wal_checkpoint"),
    *("fsync", "fdatasync", "fsync_file", "fsync_dir"),
}
STAGED = "in DATA/staging, which every start empties"
EXPORTED = "an export, which no data folder holds: made anew by whoever wanted it"
BESIDE = {
    "app/engine/exporting.py:_leading_to": STAGED,
    "app/engine/exporting.py:check": STAGED,
    "app/engine/exporting.py:prepare": STAGED,
    "app/engine/sources.py:unpacked": STAGED,
    "app/engine/transfers.py:take": STAGED,
    "storage/files/folder.py:__init__": EXPORTED,
    "storage/files/folder.py:abort": EXPORTED,
    "storage/files/hdf5_write.py:put": EXPORTED,
    "storage/files/output.py:remove_file": EXPORTED,
    "storage/files/tensorblob_folder.py:_end_block": EXPORTED,
    "storage/atomic.py:_fsync": "its callers hit the failpoint of what they sync",
    "storage/atomic.py:_unlink": "the same",
    "storage/segment.py:abandon": "takes back a file that nothing names yet; a kill before it leaves one to the sweep",
    "storage/registry.py:set_reason": "only where a disk that was full has kept the reason from the registry",
    "storage/registry.py:shut": "the same: made while the disk fails, and read at the next start",
    "storage/registry.py:discard": "a rename of what nothing names: without it the next start does it",
    "storage/aside.py:clear": "what is no file of ours is moved aside; without it the next start does it",
    "storage/queries.py:write_sample": "derived, synced by nobody and named by nothing: no answer depends on it",
    "storage/queries.py:forget_sample": "the same",
    "app/engine/recovery.py:_recover_collection": "an empty write.lock where there is none: the next start makes it",
    "storage/snapshot_files.py:discard": "as in registry.py: a rename of what nothing names",
    "storage/repair_write.py:_link": "into a folder that nothing names yet",
    "storage/repair_write.py:write": "the same",
}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def called(function: ast.AST) -> set[str]:
    """Names of what is called in it, of whatever module or object."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {f.id for f in calls if isinstance(f, ast.Name)} | {f.attr for f in calls if isinstance(f, ast.Attribute)}


def bare() -> list[str]:
    """Functions that change the disk beside no failpoint."""
    found = []
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*.py")):
            for function in functions(ast.parse(path.read_text())):
                names = called(function)
                if names & CALLS and not names & HITS:
                    found.append(f"{path.relative_to(ROOT)}:{function.name}")
    return found


def test_a_failpoint_stands_beside_every_change_of_the_disk() -> None:
    found = bare()
    assert set(found) - BESIDE.keys() == set(), "no failpoint beside what changes the disk"
    assert BESIDE.keys() - set(found) == set(), "these have gone, or have a failpoint now"
