"""A `.npy` file, or a part of another file that is one."""

from seedvec import npy_header
from storage.files.contract import BadFile
from storage.files.ids import IdColumn, id_dtype
from storage.files.numbers import Matrix, float_dtype, item_shape
from storage.files.source import Source, read


def vectors(source: Source, flatten: bool) -> Matrix:
    """Raises BadFile: no .npy, other numbers than floats, too few or too many bytes for what it says."""
    header = _header(source)
    rows, item = item_shape(header.shape, flatten)
    dtype = float_dtype(_plain(header.descr))
    return _exact(Matrix(source, header.start, rows, item, dtype, header.fortran), source, header.start)


def ids(source: Source, what: str) -> IdColumn:
    """One id a row. Raises BadFile likewise."""
    header = _header(source)
    if len(header.shape) != 1:
        raise BadFile(f"{what}: an array of {len(header.shape)} dimensions; ids have one")
    matrix = Matrix(source, header.start, header.shape[0], (1,), id_dtype(header.descr, what))
    return IdColumn(_exact(matrix, source, header.start), what)


def _exact(matrix: Matrix, source: Source, start: int) -> Matrix:
    extra = source.size - start - matrix.rows * matrix.width * matrix.dtype.itemsize
    if extra:
        raise BadFile(f"{extra:,} bytes follow the numbers that the .npy header says there are")
    return matrix


def _header(source: Source) -> npy_header.Header:
    head = read(source, 0, min(source.size, npy_header.PREFIX_BYTES_MAX + npy_header.BYTES_MAX))
    try:
        return npy_header.parse(head)
    except npy_header.NotNpy as e:
        raise BadFile(f".npy: {e}") from None


def _plain(descr: object) -> str:
    if isinstance(descr, str) and "O" in descr:
        raise BadFile(".npy: it holds pickled Python objects, which are never read: save an array of floats")
    return descr if isinstance(descr, str) else "a structure"
