"""Tensors in files of other programs' formats: read and written in constant memory, one module a format.

`contract.py` is what every format gives, `formats.py` the one table of them, `sidecars.py` the ids and metadata beside
those that hold none. What they read was written by anybody: all that a file claims is compared with how long it really
is before anything is allocated, and whatever is wrong with it is a BadFile.
"""
