"""The limits of a process that handles a file from outside."""

import io
import signal
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from tests.harness import ROOT

OPEN = """
import sys
from pathlib import Path
from app import limited
from storage.files.contract import ReadOptions
from storage.files.formats import FORMATS
limited.OPENING_CPU_S = 1
with limited.opening(0):
    print(FORMATS["hdf5"].read([Path(sys.argv[1])], ReadOptions()).outline.rows)
"""


def csr_file() -> bytearray:
    """A CSR group whose attribute, a text, lies in the file's global heap."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        group = file.create_group("vectors")
        group["indptr"], group["indices"], group["data"] = np.arange(5), np.zeros(4, "i8"), np.ones(4, "f4")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", (4, 3)
    return bytearray(out.getvalue())


def opened(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", OPEN, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_file_on_which_a_library_goes_round_for_ever(tmp_path: Path) -> None:
    path, data = tmp_path / "x.h5", csr_file()
    path.write_bytes(data)
    assert opened(path).stdout == "4\n"
    # Behind the heap's head and its first object, of 16 bytes each, and the text in 16: a second one of no length.
    at = data.index(b"GCOL") + 48
    data[at : at + 16] = struct.pack("<HHIQ", 2, 1, 0, 0)
    path.write_bytes(data)
    assert opened(path).returncode == -signal.SIGXCPU
