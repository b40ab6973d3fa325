"""Are the queries that a collection is measured and calibrated on what they should be?

Nothing that was stored depends on them: whatever is found here is a warning.
"""

from pathlib import Path
from typing import Final

from storage.catalogue import Settings
from storage.database import Database
from storage.layout import QUERIES_NAME
from storage.queries import Unreadable, files, read_file
from storage.report import Report

PASSED_OVER: Final = "nothing is lost: it is passed over, and written anew as searches come in"


def check_sample(folder: Path, settings: Settings, name: str, report: Report) -> None:
    """The files of the kept sample. folder: the collection's."""
    for path in files(folder):
        where = f"{name}/{QUERIES_NAME}/{path.name}"
        try:
            found = read_file(path).vectors.shape[1]
        except FileNotFoundError:
            continue  # forgotten while we looked
        except (Unreadable, OSError) as e:
            report.add("warning", where, f"the sample of queries cannot be read: {e}", PASSED_OVER)
            continue
        if found != settings.dimension:
            what = f"the sample of queries has dimension {found}, the collection {settings.dimension}"
            report.add("warning", where, what, PASSED_OVER)


def check_given(db: Database, settings: Settings, where: str, report: Report) -> None:
    """The queries given to calibrate on."""
    wrong = db.one("SELECT count(*) FROM calibration_queries WHERE length(vector) <> ?", (4 * settings.dimension,))
    if wrong is not None and wrong[0]:
        what = f"{wrong[0]:,} of the queries given to calibrate on have a wrong length"
        report.add("warning", where, what, 'give them again: POST …/recall with "calibrate": true')
