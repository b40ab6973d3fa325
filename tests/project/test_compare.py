"""The comparison of `make bench`: a small run gives every figure that it promises; what they come to is right."""

import json
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.compare.__main__ import PEERS, main, parsed
from benchmarks.compare.figures import Ratio, chosen, limit_qps, medians, ratio, shares_of_limit
from benchmarks.compare.peer import Peer, Refused
from benchmarks.compare.processes import connections, counted
from benchmarks.compare.settings import Setting, asked, of
from benchmarks.compare.tables import KINDS, tables
from benchmarks.compare.versions import version
from benchmarks.compare.work import NEVER_ASKED, Work
from benchmarks.datasets import Dataset
from benchmarks.options import names

SEARCH = Setting("search", 0.95, 8)
RUN = "--rows 2000 --queries 100 --rounds 1 --seconds 0.1 --clients 1 --recalls 0.95 --ingest-rows 300 --workers 1"


def record(system: str, setting: Setting, number: int, **figures: Any) -> dict[str, Any]:
    return {"system": system, "round": number} | setting.fields() | figures


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with the server, plain Faiss, and a peer whose interpreter is not there. → its folder, what it wrote."""
    folder = tmp_path_factory.mktemp("compare")
    out = folder / "compare-small.json"
    places = f"--tmp {folder} --keep {folder}/kept --publish {folder} --python {folder}/none --out {out}"
    main(f"{RUN} --skip cold --peers plain,lance {places}".split())
    return folder, json.loads(out.read_text())


def test_every_figure_is_there(ran: tuple[Path, dict[str, Any]]) -> None:
    records = ran[1]["rows"]
    settings = asked([0.95], [1], ["cold"])
    for setting in settings:
        for system in ("seedvec", *(["plain"] if not setting.ours_alone else [])):
            (found,) = chosen(records, system, setting)
            if setting.part == "ingest":
                assert found["rows_per_s"] >= found["indexed_per_s"] > 0
                continue
            assert found["qps"] > 0
            assert found.get("failures", 0) == 0
            assert "p50_ms" not in found or 0 < found["p50_ms"] <= found["p99_ms"]
            if setting.recall is not None:
                assert 0.95 <= found["recall_measured"] <= 1
    for setting in settings:
        if setting.part in ("search", "binary", "filtered"):
            (ours,) = chosen(records, "seedvec", setting)
            # Processor time comes in ticks of 10 ms, and so short a run may see none.
            assert ours["cpu_us"] >= 0 and ours["index_us"] > 0 and ours["client_us"] > 0
            assert sum(ours["spread"]) == setting.clients
            assert ours["outside_us"] == pytest.approx(ours["cpu_us"] - ours["index_us"])
    facts = {(r["system"], r["what"]): r for r in records if "what" in r}
    for system in ("seedvec", "plain"):
        assert facts[system, "size"]["pss_mib"] > 1 and facts[system, "size"]["disk_mib"] > 0.5
        assert facts[system, "filled"]["indexed_s"] >= facts[system, "filled"]["acknowledged_s"] > 0
    ((limit, share),) = shares_of_limit(records, Setting("search", 0.95, 1), 2)
    assert limit > 0 and share > 0


def test_who_cannot_take_part_is_told_and_ends_nothing(ran: tuple[Path, dict[str, Any]]) -> None:
    refused = [r for r in ran[1]["rows"] if r.get("what") == "refused"]
    assert [(r["system"], r["of"]) for r in refused] == [("lance", "all")]
    assert "No such file" in refused[0]["why"]


def test_the_report(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, written = ran
    page = (folder / "comparison.md").read_text()
    for title in ("Filling", "Ingest", "One query a request, recall ≥ 0.95", "10 % of the rows", "in one request"):
        assert title in page
    assert (
        "| plain | faiss-cpu 1." in page
        and "| library, no storage |" in page
        and "No such file" in page
        and "bare route" in page
    )
    pictures = [line[4:-1] for line in page.splitlines() if line.startswith("![](")]
    assert len(pictures) == 2
    for picture in pictures:
        drawn = (folder / picture).read_text()
        assert "seedvec" in drawn and "plain" in drawn and "</svg>" in drawn
    assert str(folder) not in json.dumps(written), "no paths of a machine in what is published"


def test_medians_are_of_what_each_round_gave() -> None:
    rounds = [record("seedvec", SEARCH, n, qps=q, spread=[4, 4]) for n, q in enumerate((30.0, 10.0, 20.0))]
    assert medians(rounds) == {"qps": 20.0}
    assert medians([]) == {}


def test_a_ratio_is_taken_within_a_round() -> None:
    """Not of the medians: 30 / 20 would be 1.5."""
    ours = [record("seedvec", SEARCH, n, qps=q) for n, q in enumerate((30.0, 10.0, 60.0))]
    theirs = [record("chroma", SEARCH, n, qps=q) for n, q in enumerate((10.0, 20.0, 20.0))]
    assert ratio(ours, theirs, "qps") == Ratio(3.0, 0.5, 3.0)
    assert ratio(ours, theirs[:1], "qps") == Ratio(3.0, 3.0, 3.0)
    assert ratio(ours, [], "qps") is None


def test_the_limit_is_what_the_client_leaves() -> None:
    # 160 µs of plain Faiss and 40 of HTTP on 2 cores, of which the client takes a quarter of one.
    assert limit_qps(2, 160e-6, qps=5000, client_us=50) == pytest.approx(1.75 / 200e-6)
    records = [
        record("plain", Setting("search", 0.95, 1), 0, qps=1 / 160e-6),
        record("seedvec", SEARCH, 0, qps=5000.0, client_us=50.0),
        record("seedvec", SEARCH, 1, qps=5000.0, client_us=50.0),
    ]
    # The second round has no plain Faiss to be held against.
    ((limit, share),) = shares_of_limit(records, SEARCH, 2)
    assert limit == pytest.approx(8750) and share == pytest.approx(5000 / 8750)


def test_settings_survive_their_record() -> None:
    for setting in asked([0.95, 0.99], [1, 8, 32], []):
        assert of(json.loads(json.dumps(record("x", setting, 0)))) == setting
    assert {s.part for s in asked([0.9], [1], ["ingest", "bare"])} == {"search", "binary", "filtered", "batch", "fetch"}


def test_recall_is_judged_by_what_was_found(tmp_path: Path) -> None:
    train = np.arange(200, dtype=np.float32)[:, None]
    queries = np.array([[0], [100], [150]], np.float32)
    work = Work(tmp_path, Dataset("line", "l2", train, queries, np.array([[0, 1], [0, 1], [0, 1]], np.float32)), 2)
    np.save(work.answers, np.array([[0, 1], [100, 99], [NEVER_ASKED, NEVER_ASKED]]))
    assert work.recall() == 1.0
    np.save(work.answers, np.array([[0, 0], [100, -1], [7, 9999]]))
    assert work.recall() == pytest.approx(2 / 6), "twice the same, none, far away and no row at all"
    # Rows 0 and 100 alone are in bucket 0; of 150 the nearest is 100, not 149.
    np.save(work.answers, np.array([[0, 100], [100, 0], [149, 150]]))
    assert work.recall(1) == pytest.approx(4 / 6)
    np.save(work.answers, np.full((3, 2), NEVER_ASKED))
    assert work.recall() is None


def test_a_peer_that_does_not_answer_or_dies_is_started_again(tmp_path: Path) -> None:
    peer = Peer("plain", Path(sys.executable), tmp_path / "plain.log")
    with pytest.raises(Refused, match="no answer to 'open'"):
        peer.ask("open", 0.0, folder=tmp_path / "data", dimension=2, metric="l2")
    (pid,) = peer.ask("pids", 60)["pids"]
    os.kill(pid, 9)
    with pytest.raises(Refused, match="died"):
        peer.ask("pids", 60)
    with pytest.raises(Refused, match="too often"):
        peer.ask("pids", 60)
    peer.close()


def test_counters_are_summed_by_label() -> None:
    text = '# TYPE s histogram\ns_sum{stage="index"} 1.5\ns_sum{stage="plan"} 4\ns_sum_other 7\n'
    text += 'n_total{a="b"} 2\nn_total 1'
    assert counted(text, "s_sum", 'stage="index"') == 1.5
    assert counted(text, "s_sum") == 5.5
    assert counted(text, "n_total") == 3


def test_connections_are_counted_where_they_are_held() -> None:
    """Both ends are this process's: only those count that are the server's, and not that of a client left out."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        port = listening.getsockname()[1]
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        accepted = [stack.enter_context(listening.accept()[0]) for _ in clients]
        assert len(accepted) == 3
        assert connections(port, [os.getpid()]) == [3]
        assert connections(port, [os.getpid()], [clients[0].getsockname()[1]]) == [2]
        assert connections(port, [os.getppid(), os.getpid()]) == [3, 0]


def test_every_peer_has_a_release_and_a_kind() -> None:
    for system in ("seedvec", *PEERS):
        assert version(system)[-1].isdigit() and KINDS[system]


def test_nothing_measured_is_no_table() -> None:
    assert tables([], 2) == []


def test_options() -> None:
    quick = parsed(["--quick", "--seconds", "3"])
    assert (quick.rounds, quick.seconds, quick.recalls) == (2, 3.0, [0.95])
    assert parsed(["--peers", ""]).peers == []
    with pytest.raises(Exception, match="unknown: other"):
        names(["one"])("one,other")
