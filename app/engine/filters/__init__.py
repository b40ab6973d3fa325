"""Filters on metadata: the language itself is in `seedvec/filters`, which readers of files share.

parse.py     JSON → filter, refused as the engine refuses
columns.py   a whole segment's columns against a filter
"""
