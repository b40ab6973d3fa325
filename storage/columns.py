"""Typed columns of a segment's metadata, for filters: what other packages use of them.

columns_file.py        the file: a table of paths and pools of numbers, written once and mapped
columns_npz.py         its container: an uncompressed .npz with aligned members
columns_dictionary.py  the distinct values of one path, and the code of each
columns_texts.py       many strings as one run of bytes, searched as such
columns_build.py       JSON documents in, columns out
columns_gather.py      what is kept of one path meanwhile
columns_order.py       strings brought into order by whole arrays
"""

from storage.columns_build import ColumnsBuilder, columns_of
from storage.columns_file import Arrays, Column, Columns, ColumnsFileError, check, open_columns, write

__all__ = [
    "Arrays",
    "Column",
    "Columns",
    "ColumnsBuilder",
    "ColumnsFileError",
    "check",
    "columns_of",
    "open_columns",
    "write",
]
