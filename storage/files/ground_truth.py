"""Queries with their true nearest, which some files bring along."""

from typing import Protocol, runtime_checkable

from storage.files.contract import GroundTruth, Reader


@runtime_checkable
class Judged(Protocol):
    ground_truth: GroundTruth | None


def ground_truth(reader: Reader) -> GroundTruth | None:
    """What the file holds besides its vectors; None where nothing."""
    return reader.ground_truth if isinstance(reader, Judged) else None
