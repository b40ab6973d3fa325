"""Ids and metadata in files of their own, beside vectors whose format holds neither.

`NAME.ids.npy`: int64, or strings of NumPy's (`U` as written here; `S` is read as UTF-8 too), one for each row.
`NAME.metadata.jsonl`: a line for each row, a JSON object or `null`. NAME is the vectors' file without its ending.
"""

from pathlib import Path
from typing import Final

from storage.files.contract import Outline, Reader, WriteOptions, Writer
from storage.files.formats import Format

IDS_ENDING: Final = ".ids.npy"
METADATA_ENDING: Final = ".metadata.jsonl"


def beside(path: Path, fmt: Format) -> tuple[Path, Path]:
    """Where the ids and the metadata of that file stand, if they do."""
    name = path.name
    for suffix in fmt.suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    return path.with_name(name + IDS_ENDING), path.with_name(name + METADATA_ENDING)


def read_beside(reader: Reader, ids: Path | None, metadata: Path | None) -> Reader:
    """The same rows with ids and metadata from those files, in place of what the reader itself gives. Closes the
    reader with it, also where it raises BadFile: no such file as said above, or another number of rows."""
    raise NotImplementedError


def write_beside(fmt: Format, path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """A writer of that format that puts what the format cannot hold into the files beside; `fmt.write` where it holds
    all that the outline has. Raises as `fmt.write` does."""
    raise NotImplementedError
