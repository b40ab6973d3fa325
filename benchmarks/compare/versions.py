"""Which release of each system is compared."""

import importlib.metadata

from benchmarks.loaded import ROOT

REQUIREMENTS = ROOT / "benchmarks/peers/requirements.txt"
PINNED = {"chroma": "chromadb", "lance": "lancedb", "milvus": "milvus-lite", "qdrant": "qdrant-edge-py"}
INSTALLED = {"seedvec": "seedvec", "plain": "faiss-cpu"}


def version(system: str) -> str:
    """Distribution and release: of a peer as it is pinned, of ours as it is installed."""
    if system in INSTALLED:
        return f"{INSTALLED[system]} {importlib.metadata.version(INSTALLED[system])}"
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().split() if "==" in line)
    return f"{PINNED[system]} {pins[PINNED[system]]}"
