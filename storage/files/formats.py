"""The one table of file formats: what each is called, what it can hold, and where it is read and written.

A format's module is loaded when it is used: a worker asks this table for names alone, and only the child that reads a
file carries what that takes (torch, pyarrow). Each module gives `read_<name>(path, options) -> Reader` of one file or
folder, and `write_<name>(path, outline, options) -> Writer`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from storage.files.contract import BadFile, Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.joined import join
from storage.files.order import files_of


@dataclass(frozen=True, slots=True)
class Format:
    """One way of keeping vectors in files."""

    name: str
    module: str
    """In this package."""
    suffixes: tuple[str, ...] = ()
    """With the dot, lower case; the first is given to new files."""
    folder: bool = False
    """Whether one of these is a folder. A folder of files of a format that is not one is read as those files joined."""
    holds_ids: bool = False
    holds_metadata: bool = False
    sparse: Literal["no", "too", "only"] = "no"
    streams: bool = False
    """Whether it is written from front to back without a seek, so that a pipe will do."""

    def read(self, paths: Sequence[Path], options: ReadOptions) -> Reader:
        """Opens one or several, joined in the order given. Raises BadFile and OSError."""
        read_one = cast(Callable[[Path, ReadOptions], Reader], self._function("read"))
        files = list(paths) if self.folder else [f for p in paths for f in (files_of(p, self.suffixes) or [p])]
        return join(files, lambda path: read_one(path, options))

    def write(self, path: Path, outline: Outline, options: WriteOptions) -> Writer:
        """Begins a new file or folder, over whatever file stands there. Raises OSError; ValueError for an outline or
        options that the format has no room for."""
        return cast(Callable[[Path, Outline, WriteOptions], Writer], self._function("write"))(path, outline, options)

    def _function(self, verb: str) -> object:
        try:
            module = import_module(f"storage.files.{self.module}")
        except ModuleNotFoundError as e:
            raise BadFile(f"{self.name} needs {e.name}, which is not installed where the server runs") from e
        return getattr(module, f"{verb}_{self.name}")


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("npy", "npy", (".npy",), streams=True),
        Format("npz", "npz", (".npz",), holds_ids=True, holds_metadata=True, sparse="too", streams=True),
        Format("raw", "raw", (".raw", ".bin", ".dat", ".mmap", ".memmap"), streams=True),
        Format("shards", "raw", folder=True),
        Format("safetensors", "safetensors_file", (".safetensors",), holds_ids=True, holds_metadata=True),
        Format("tensorblob", "tensorblob_folder", (".blob", ".tensorblob"), folder=True),
        Format("pt", "torch_file", (".pt", ".pth"), holds_ids=True, holds_metadata=True, streams=True),
        Format("hdf5", "hdf5", (".h5", ".hdf5", ".he5"), holds_ids=True, holds_metadata=True, sparse="too"),
        Format("csr", "csr_npz", holds_ids=True, holds_metadata=True, sparse="only", streams=True),
        Format("ann", "hdf5", holds_ids=True, holds_metadata=True),
        Format(
            "parquet", "arrow", (".parquet", ".pq"), holds_ids=True, holds_metadata=True, sparse="too", streams=True
        ),
        Format(
            "arrow",
            "arrow",
            (".arrow", ".feather", ".ipc", ".arrows"),
            holds_ids=True,
            holds_metadata=True,
            sparse="too",
            streams=True,
        ),
    )
}
"""By name, as `format=` takes it."""


def guess(path: Path) -> Format:
    """By the name, and where it is there by what it is. Raises BadFile where nothing can be told."""
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    for f in FORMATS.values():
        if suffix in f.suffixes:
            return f
    raise BadFile(f"{path.name}: no known ending; say format=, one of {', '.join(FORMATS)}")


def _of_folder(path: Path) -> Format:
    if (path / ".conf").is_file():
        return FORMATS["tensorblob"]
    for f in FORMATS.values():
        if f.suffixes and f.name != "raw" and files_of(path, f.suffixes):
            return f
    return FORMATS["shards"]
