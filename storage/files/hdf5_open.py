"""HDF5 files of anybody's: what in them may be opened at all, and that nothing escapes but BadFile.

An HDF5 file can name other files, which this process would read for whoever sent it: through external links, external
storage and virtual datasets. So a path is walked link by link and must be of hard links alone, and a dataset must have
its bytes in the file itself.
"""

from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import h5py

from storage.files import foreign
from storage.files.contract import BadFile
from storage.files.source import Part, open_file

NAMES_MAX: Final = 1_000
"""How many names of a group are looked at: a file can have any number."""


told = partial(foreign.told, "HDF5")


class Hdf5:
    """An open file; `bytes` is the same, for reading past HDF5. Raises BadFile and OSError."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        try:
            self.bytes = Part(self._file)
            with told(path.name):
                # No HDF5 locking: the file is not written meanwhile, and a read-only file system has no locks to give.
                self.root = h5py.File(path, "r", locking=False)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        with suppress(BadFile), told("closing"):
            self.root.close()
        self._file.close()

    def find(self, path: str) -> Any:
        """The group or dataset of that path. Raises BadFile: none there, or not by hard links alone."""
        found = self.root
        parts = [part for part in path.split("/") if part]
        for i, part in enumerate(parts):
            shown = "/" + "/".join(parts[: i + 1])
            with told(shown):
                if not isinstance(found, h5py.Group) or part not in _names(found):
                    raise BadFile(f"{shown}: there is none in the file")
                link = found.get(part, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise BadFile(f"{shown} is a link to elsewhere; only what lies in the file itself is read")
                found = found[part]
        return found

    def dataset(self, path: str) -> h5py.Dataset:
        """Raises BadFile besides where its bytes do not lie in the file."""
        found = self.find(path)
        if not isinstance(found, h5py.Dataset):
            raise BadFile(f"{path} is no dataset")
        with told(path):
            plist = found.id.get_create_plist()
            if plist.get_layout() == h5py.h5d.VIRTUAL:
                raise BadFile(f"{path} is a virtual dataset, which lies in other files; copy it into one")
            if plist.get_external_count():
                raise BadFile(f"{path} keeps its bytes in other files (external storage); copy it into one")
        return found

    def group(self, path: str) -> dict[str, Any]:
        """What hard links in a group lead to, by name; the root's by "/"."""
        found = self.find(path)
        if not isinstance(found, h5py.Group):
            raise BadFile(f"{path} is no group")
        with told(path):
            hard = [name for name in _names(found) if isinstance(found.get(name, getlink=True), h5py.HardLink)]
            return {name: found[name] for name in hard}


def _names(group: h5py.Group) -> list[str]:
    """Names that are no UTF-8 are left out: nobody could write one in a request."""
    return [name for name in islice(group, NAMES_MAX) if isinstance(name, str)]
