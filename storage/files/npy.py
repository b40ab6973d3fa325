"""`.npy`: one matrix, in C or Fortran order, in either byte order; never a pickle."""

from contextlib import ExitStack
from pathlib import Path

from seedvec import npy_header
from storage.files import npy_part
from storage.files.columns import opened, reader_of
from storage.files.contract import Outline, Reader, ReadOptions, WriteOptions, Writer
from storage.files.flat import FlatWriter
from storage.files.options import only, plain
from storage.files.output import little_endian, written_rows
from storage.files.parts import Parts
from storage.files.source import Part, open_file


def read_npy(path: Path, options: ReadOptions) -> Reader:
    """(n, d), or one dimension as one row; more dimensions with `flatten`."""
    only(options, "flatten", of=".npy")

    def made(files: ExitStack) -> Parts:
        source = Part(files.enter_context(open_file(path)))
        return reader_of(npy_part.vectors(source, options.flatten))

    return opened(made)


def write_npy(path: Path, outline: Outline, options: WriteOptions) -> Writer:
    """(n, d) in C order, little-endian."""
    plain(options, of=".npy")
    shape = (written_rows(outline), outline.dimension)
    return FlatWriter(path, outline, npy_header.build(little_endian(outline).str, shape))
