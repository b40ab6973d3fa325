"""A bit that has changed on the disk."""

from pathlib import Path


def flip(path: Path, at: int, mask: int = 0x10) -> None:
    """Of the byte at that offset, the bits of the mask. Twice is never."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))
