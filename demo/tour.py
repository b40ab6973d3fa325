"""`python -m demo.tour FOLDER`: a few requests to the demo's collection, with their answers."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from demo.prepare import COLLECTION
from demo.server import server

NEAREST = f"/v1/collections/{COLLECTION}/neighbors/42?k=3"
SEARCH = f"/v1/collections/{COLLECTION}/search"
STATE = f"/v1/collections/{COLLECTION}"
JSON_BODY = ["-H", "content-type: application/json", "-d"]
REQUESTS: list[tuple[str, str, list[str]]] = [
    ("What is in it", STATE, []),
    ("The nearest to a stored entry", NEAREST, []),
    ("A search by id with exact answers", SEARCH, [*JSON_BODY, '{"id": 42, "k": 3, "exact": true}']),
]


def tour(folder: Path) -> None:
    """Print each request as a curl line, and what it answers. Nothing is changed."""
    if shutil.which("curl") is None:
        raise SystemExit("this tour needs curl")
    with server(folder) as client:
        for title, path, more in REQUESTS:
            command = ["curl", "-sS", client.url + path, *more]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"# {title}\n$ {shlex.join(command)}\n{answer.strip()}\n", flush=True)


if __name__ == "__main__":
    tour(Path(sys.argv[1]))
