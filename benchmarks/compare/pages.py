"""docs/comparison.md and its pictures, made from what runs have left: benchmarks/results/compare-*.json."""

import json
from pathlib import Path
from typing import Any

from benchmarks.compare import plots
from benchmarks.compare.settings import BESIDE
from benchmarks.compare.tables import tables

HEAD = """# Beside others: figures

Written by `make bench BENCH='--data FILE.hdf5 --publish docs'` (`benchmarks/compare`), which runs every system on the
same data in the same run, in rounds, one system at a time while the others lie idle. Figures are medians over the
rounds; "seedvec ÷ it" is the median of each round's ratio, with the least and the most. Trust the ratios.

- **Recall** is measured on the answers themselves, by distance, against exact search. Each peer is tuned on the queries
  to the cheapest of its parameters that reaches it; Seedvec is asked for the recall and finds its own.
- **Clients** run on the same cores as what they ask. Seedvec and Chroma are asked over kept-alive connections by one
  raw load generator (`benchmarks/load.py`), which is quicker than Chroma's own client; the embedded ones in their own
  process by threads, and pay for no HTTP. *plain* is Faiss without storage, filters or a server: what cannot be beaten.
- **Not measured**: clusters, GPUs, years in production.
"""


def write(docs: Path, results: Path) -> None:
    """A part for each data set that was compared."""
    parts = [_part(docs, json.loads(file.read_text())) for file in sorted(results.glob("compare-*.json"))]
    (docs / "comparison.md").write_text("\n".join([HEAD, *parts]))


def _part(docs: Path, record: dict[str, Any]) -> str:
    told, machine, records = record["arguments"], record["machine"], record["rows"]
    name = told["dataset"]
    lines = [f"## {name}: {int(told['rows']):,} × {told['dimension']}"]
    setting = plots.shown(records, BESIDE)
    if setting is not None:
        lines += [f"![]({file.name})" for file in plots.write(docs, name, records, setting)]
    lines.append(
        f"{record['at'][:10]}, {machine['cores']} cores, {told['rounds']} rounds of {told['seconds']} s a figure, "
        f"{told['workers']} workers; load {machine['load'][0]:.1f} at the end."
    )
    return "\n\n".join(lines + [part.markdown() for part in tables(records, machine["cores"])])
