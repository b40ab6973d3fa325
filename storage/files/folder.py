"""A folder being filled with files that are one whole."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from storage.files.output import Output, remove_file


class NewFolder:
    """Made where it is missing. Raises FileExistsError where one stands there that holds anything, or a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        path.mkdir(exist_ok=True)
        if any(path.iterdir()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    def new_file(self, name: str) -> Output:
        self._made.append(self.path / name)
        return Output(self.path / name)

    def abort(self) -> None:
        """Takes away what was made here, and the folder."""
        for path in self._made:
            remove_file(path)
        with suppress(OSError):
            self.path.rmdir()
