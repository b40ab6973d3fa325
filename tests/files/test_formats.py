"""The table of formats: what it names is there, and what it loads only when it is used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from seedvec.files import SUFFIXES
from storage.files.contract import BadFile
from storage.files.formats import FORMATS, guess
from tests.harness import ROOT

HEAVY = ("torch", "pyarrow", "h5py", "scipy")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_and_written(name: str) -> None:
    module = import_module(f"storage.files.{FORMATS[name].module}")
    assert callable(getattr(module, f"read_{name}")) and callable(getattr(module, f"write_{name}"))


def test_an_ending_means_one_format() -> None:
    endings = [ending for fmt in FORMATS.values() for ending in fmt.suffixes]
    assert len(set(endings)) == len(endings)
    assert all(guess(Path("some") / f"NAME{ending.upper()}").suffixes.count(ending) == 1 for ending in endings)
    with pytest.raises(BadFile, match="no known ending; say format="):
        guess(Path("emb"))


def test_a_file_that_is_to_be_written_is_what_its_ending_says() -> None:
    assert SUFFIXES == {e: fmt.name for fmt in FORMATS.values() for e in fmt.suffixes if e != ".arrows"}


def test_the_documents_name_every_format() -> None:
    text = (ROOT / "docs" / "files.md").read_text()
    for fmt in FORMATS.values():
        assert f"`{fmt.name}`" in text, f"docs/files.md says nothing of {fmt.name}"
        for ending in fmt.suffixes[:1]:
            assert f"`{ending}`" in text, f"docs/files.md says nothing of {ending}"


def test_the_table_loads_no_library_of_a_format() -> None:
    code = f"import sys, storage.files.formats; sys.exit(any(name in sys.modules for name in {HEAVY}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
