"""Sound bodies of each kind that is no JSON, to be changed."""

import io
import tarfile
from collections.abc import Mapping, Sequence

import numpy as np

from seedvec import npy_header
from tests.fuzz.mutants import Sound

BOUNDARY = "b0undary"


def npy(shape: tuple[int, ...] = (4, 3), descr: str = "<f4") -> Sound:
    """Two parts: the header, and the numbers."""
    data = np.arange(int(np.prod(shape))).astype(descr).tobytes()
    return Sound((npy_header.build(descr, shape), data))


def tar(members: Mapping[str, bytes]) -> Sound:
    """Names and contents by turns; the heads are made to fit."""

    def pack(parts: Sequence[bytes]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, content in zip(parts[::2], parts[1::2], strict=True):
                info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()

    return Sound(tuple(part for name, content in members.items() for part in (name.encode(), content)), pack)


def import_tar() -> Sound:
    """An array with its ids and metadata beside it, as an export packs them."""
    out = io.BytesIO()
    np.save(out, np.array(["a", "b", "c", "d"]))
    lines = b'{"n": 1}\nnull\n{"n": 2}\n{}\n'
    return tar({"rows.npy": npy().whole, "rows.ids.npy": out.getvalue(), "rows.metadata.jsonl": lines})


def multipart(parts: Mapping[str, bytes], boundary: str = BOUNDARY) -> Sound:
    """Heads and contents by turns."""
    pieces: list[bytes] = []
    for name, content in parts.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.npy"\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return Sound((*pieces, f"--{boundary}--\r\n".encode()))
