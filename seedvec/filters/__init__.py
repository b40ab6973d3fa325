"""Filters on metadata: the language, and one item's metadata asked of it. The server and readers of files share it.

ast.py       a parsed filter: few kinds of node, in one normal form
parse.py     JSON → ast, every mistake named by its place
normal.py    the normal form
row.py       one item's metadata against a filter
faults.py    what is wrong with a filter
"""
