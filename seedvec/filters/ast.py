"""A parsed filter. Many ways of writing one thing come to the same nodes, so they cost and answer the same.

Numbers are kept as Python compares them: exactly, a float with an integral value as an int (1.0 is 1, and 2**53 + 1
is itself). Booleans are no numbers and stand apart, since Python holds True and 1 to be equal.
"""

from dataclasses import dataclass
from typing import Literal

Number = int | float
Path = tuple[str, ...]
"""The keys that lead to a field through nested objects."""


@dataclass(frozen=True, slots=True)
class Values:
    """A set of scalars. numbers: ascending, each once, integral ones as int; strings: ascending by code point."""

    null: bool = False
    false: bool = False
    true: bool = False
    numbers: tuple[Number, ...] = ()
    strings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """`And(())` holds for every item."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """`Or(())` holds for none."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    part: "Node"


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, be it null, an object or an empty array."""

    path: Path


@dataclass(frozen=True, slots=True)
class Among:
    """The field, or an element of it where it is an array, is one of the values ($eq, $in). No value: none is."""

    path: Path
    values: Values


@dataclass(frozen=True, slots=True)
class Compare:
    """The field or an element is of the operand's kind (number or string) and stands so to it."""

    path: Path
    op: Literal["<", "<=", ">", ">="]
    operand: Number | str


@dataclass(frozen=True, slots=True)
class Prefix:
    """The field or an element is a string that begins with `text`."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Contains:
    """The field or an element is a string that has `text` in it."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Every:
    """The field is an array, and each of the values is an element of it ($all). No value: any array."""

    path: Path
    values: Values


@dataclass(frozen=True, slots=True)
class Size:
    """The field is an array of so many elements."""

    path: Path
    n: int


Leaf = Exists | Among | Compare | Prefix | Contains | Every | Size
Node = And | Or | Not | Leaf


@dataclass(frozen=True, slots=True)
class Filter:
    """root: what must hold; key: its normal form as text, the same for all ways of writing the same filter."""

    root: Node
    key: str

    @property
    def matches_all(self) -> bool:
        return self.root == And(())
