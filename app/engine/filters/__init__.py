"""Filters on metadata: the language, and what decides which rows match.

ast.py       a parsed filter: few kinds of node, in one normal form
parse.py     JSON → ast, every mistake named by its place
row.py       one item's metadata against a filter
columns.py   a whole segment's columns against a filter
"""
