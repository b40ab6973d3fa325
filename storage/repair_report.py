"""What `seedvec repair` saved and what it could not: for people, and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SHOWN: int = 20
"""Ids listed one by one in the text; the JSON has them all."""

What = Literal["vector", "metadata", "doubtful"]
"""vector: the item is lost; metadata: the item is there without its metadata; doubtful: the item is there, but it may
have been deleted or replaced before the damage."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One item. id: None where not even that could be read; key: None where it is not known."""

    what: What
    id: Any
    key: int | None
    why: str


@dataclass(slots=True)
class CollectionReport:
    """live: items that are there afterwards; outcome `lost`: nothing could be saved, and nothing was changed;
    `left`: of another format version, which this program could only harm."""

    name: str
    folder: str
    outcome: Literal["sound", "repaired", "lost", "left"] = "sound"
    live: int = 0
    damage: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    unnamed: int = 0
    """At most so many more items are lost, whose ids cannot be read."""
    forgotten: int = 0
    """So many deletions, replacements and changes of metadata are lost: what they changed is as it was before."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = [f"{self.name} (c/{self.folder}): {self.outcome}, {self.live:,} items"]
        lines += [f"  damaged: {damage}" for damage in self.damage]
        titles = {
            "vector": "items lost",
            "metadata": "items whose metadata is lost",
            "doubtful": "items that are there, but may have been deleted or replaced before",
        }
        for what, title in titles.items():
            losses = [loss for loss in self.losses if loss.what == what]
            if losses:
                lines.append(f"  {len(losses):,} {title}:")
                lines += [f"    {_named(loss)}: {loss.why}" for loss in losses[:SHOWN]]
                lines += [f"    … and {len(losses) - SHOWN:,} more, all in the JSON"] * (len(losses) > SHOWN)
        if self.unnamed:
            lines.append(f"  up to {self.unnamed:,} more items are lost, whose ids cannot be read")
        if self.forgotten:
            what = "deletions, replacements and changes of metadata are forgotten: which, cannot be known"
            lines.append(f"  {self.forgotten:,} {what}")
        return lines + [f"  {note}" for note in self.notes]


def _named(loss: Loss) -> str:
    known = [repr(loss.id)] if loss.id is not None else ["an item whose id cannot be read"]
    return " ".join(known + [f"(key {loss.key})"] * (loss.key is not None))


@dataclass(slots=True)
class RepairReport:
    """kept_in: where the damaged originals are; None: nothing was changed."""

    path: Path
    dry_run: bool
    kept_in: Path | None = None
    collections: list[CollectionReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Nothing that was acknowledged is known to be lost or in doubt."""
        whole = [c.outcome not in ("lost", "left") for c in self.collections]
        return all(whole) and not any(c.losses or c.unnamed or c.forgotten for c in self.collections)

    def json(self) -> str:
        body: dict[str, Any] = asdict(self)
        body["path"], body["kept_in"] = str(self.path), None if self.kept_in is None else str(self.kept_in)
        return json.dumps({**body, "complete": self.complete}, indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        lines = list(self.notes)
        for collection in self.collections:
            lines += collection.lines()
        verdict = "nothing is lost" if self.complete else "NOT EVERYTHING COULD BE SAVED"
        where = f"; the damaged originals are in {self.kept_in}" if self.kept_in is not None else ""
        tried = " (dry run: nothing was changed)" if self.dry_run else ""
        return "\n".join([*lines, f"{self.path}: {verdict}{where}{tried}"])
