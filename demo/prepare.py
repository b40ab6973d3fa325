"""`python -m demo.prepare FOLDER`: make a data folder that holds the collection `words`, unless it is there.

It is filled under another name and renamed when it is whole, so that an interrupted run leaves nothing half.
"""

import json
import shutil
import sys
from pathlib import Path

import h5py

from demo.server import server
from seedvec import Client

SOURCE = Path(__file__).parent / "words-minilm-384.h5"
COLLECTION = "words"
INDEX_TIMEOUT_S = 120.0


def prepare(folder: Path) -> bool:
    """True where the folder was made now. The server that fills it is stopped again before this returns."""
    if folder.exists():
        return False
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with server(unfinished) as client:
        load(client)
    unfinished.rename(folder)
    return True


def load(client: Client) -> None:
    """Create the collection, add all entries, wait for the index."""
    with h5py.File(SOURCE) as file:
        vectors, ids, texts = file["vectors"], file["ids"][:], file["metadata"][:]
        words = client.collection(
            COLLECTION, dimension=vectors.shape[1], metric="cosine", dtype="float16", id_type="int"
        )
        # All in one request: it becomes one segment at once, and one index is built instead of several.
        words.upsert(vectors[:], ids.tolist(), [json.loads(text) for text in texts])
    words.wait_ready(INDEX_TIMEOUT_S)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not target.exists():
        print(f"preparing {target} with the collection `{COLLECTION}` (once, some seconds)", flush=True)
    prepare(target)
