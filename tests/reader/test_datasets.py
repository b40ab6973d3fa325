"""Torch datasets over a collection of a running server."""

import itertools
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import seedvec
from seedvec import Client
from seedvec.targets import TargetError
from seedvec.torch import CollectionDataset, CollectionStream, collate
from tests.harness import Server
from tests.reader.filling import DIMENSION, fill, metadata_of, vectors_of

ROWS = 1300
LABELLED = {"label": {"$exists": True}}


@pytest.fixture(scope="module")
def server(opened: Server) -> Server:
    with Client(opened.url) as client:
        fill(client, "rows", range(ROWS))
    return opened


@pytest.fixture(scope="module")
def dataset(server: Server) -> CollectionDataset:
    return CollectionDataset(server.data_dir, "rows")


def numbers_of(vectors: torch.Tensor) -> list[int]:
    """Which rows of `vectors_of` these are; each is checked whole."""
    numbers = (vectors[:, 0] * 8).to(torch.int64).tolist()
    assert np.array_equal(vectors.numpy(), vectors_of(numbers))
    return numbers


def test_by_number_slice_list_and_tensor(dataset: CollectionDataset) -> None:
    assert len(dataset) == ROWS
    vector, id_, metadata = dataset[-2]
    assert (int(id_), metadata, numbers_of(vector[None])) == (ROWS - 2, metadata_of(ROWS - 2), [ROWS - 2])
    numbers = range(ROWS)
    for rows in (slice(3, 900, 7), slice(None, None, -3), slice(5, 9), [4, -1, 4], torch.tensor([1, 1299])):
        wanted = list(numbers[rows]) if isinstance(rows, slice) else [numbers[int(row)] for row in rows]
        vectors, ids, metadata = dataset[rows]
        assert numbers_of(vectors) == ids.tolist() == wanted
        assert metadata == [metadata_of(n) for n in wanted]
    for bad in (ROWS, [ROWS], torch.tensor([-ROWS - 1])):
        with pytest.raises(IndexError):
            dataset[bad]


def test_a_slice_is_no_copy_and_writing_to_it_changes_no_file(server: Server) -> None:
    dataset = CollectionDataset(server.data_dir, "rows")
    part = next(p for p in dataset.snapshot.parts if p.vectors.shape[0] > 20)
    first, again = dataset[2:9][0], dataset[2:9][0]
    assert first.data_ptr() == again.data_ptr() == part.writable[2:].__array_interface__["data"][0]
    first[:] = -1
    assert (again == -1).all()
    assert numbers_of(CollectionDataset(server.data_dir, "rows")[2:9][0]) == list(range(2, 9))
    assert numbers_of(dataset[[2, 3]][0]) == [2, 3]


@pytest.mark.parametrize(("workers", "how"), [(0, None), (2, "fork")])
def test_a_loader_gives_every_row_once(dataset: CollectionDataset, workers: int, how: str | None) -> None:
    loader = DataLoader(dataset, 64, shuffle=True, num_workers=workers, collate_fn=collate, multiprocessing_context=how)
    seen: list[int] = []
    for vectors, ids, metadata in loader:
        assert numbers_of(vectors) == ids.tolist()
        assert metadata == [metadata_of(int(n)) for n in ids]
        seen += ids.tolist()
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen)


def test_targets_and_what_other_collate_functions_see(server: Server) -> None:
    dataset = CollectionDataset(server.data_dir, "rows", filter=LABELLED, target="label")
    for vectors, labels in DataLoader(dataset, 50, collate_fn=collate):
        assert labels.dtype == torch.int64
        assert [n % 3 for n in numbers_of(vectors)] == labels.tolist()
    vectors, labels = next(iter(DataLoader(dataset, 50)))  # torch's own
    assert [n % 3 for n in numbers_of(vectors)] == labels.tolist()
    (samples,) = itertools.islice(DataLoader(dataset, 3, collate_fn=list), 1)
    assert collate(samples)[1].tolist() == [int(label) for _, label in samples]
    names = CollectionDataset(server.data_dir, "rows", filter=LABELLED, target="in.name")
    assert names[[0, 3]][1] == ["ä0", "ä3"]
    with pytest.raises(TargetError, match="item 4 has no label"):
        CollectionDataset(server.data_dir, "rows", target="label")
    with pytest.raises(TargetError, match="item 0 has an array or object as in"):
        CollectionDataset(server.data_dir, "rows", target="in")


def test_an_epoch_goes_on_while_its_rows_are_merged_and_dropped(server: Server) -> None:
    """Spawned workers: they open the files when the epoch has begun."""
    with Client(server.url) as client:
        c = fill(client, "trained", range(800))
        dataset = CollectionDataset(server.data_dir, "trained")
        before = {path.name for path in server.data_dir.glob("c/*/segments/*.h5")}
        loader = DataLoader(
            dataset, 10, shuffle=True, num_workers=2, collate_fn=collate, multiprocessing_context="spawn"
        )
        batches = iter(loader)
        seen = next(batches)[1].tolist()
        fill(client, "trained", range(800, 1700))
        c.delete(range(400))
        c.wait_ready()
        now = {path.name for path in server.data_dir.glob("c/*/segments/*.h5")}
        assert not before <= now, "nothing was merged"
        seen += next(batches)[1].tolist()
        c.drop()
        for vectors, ids, metadata in batches:
            assert numbers_of(vectors) == ids.tolist()
            assert metadata == [metadata_of(int(n)) for n in ids]
            seen += ids.tolist()
        assert sorted(seen) == list(range(800))


def streamed(stream: CollectionStream, **how: Any) -> list[int]:
    seen: list[int] = []
    for vectors, ids, metadata in DataLoader(stream, **how):
        assert numbers_of(vectors) == ids.tolist()
        assert metadata == [metadata_of(int(n)) for n in ids]
        seen += ids.tolist()
    return seen


SMALL_BUFFER = 200 * DIMENSION * 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_stream_gives_every_row_once_an_epoch(server: Server, workers: int, batch_size: int | None) -> None:
    stream = CollectionStream(server.data_dir, "rows", seed=5, batch_size=batch_size, buffer_bytes=SMALL_BUFFER)
    how: dict[str, Any] = (
        {"batch_size": 32, "collate_fn": collate} if batch_size is None else {"batch_size": None, "collate_fn": collate}
    )
    loader = {"num_workers": workers, **how}
    first, same = streamed(stream, **loader), streamed(stream, **loader)
    stream.set_epoch(1)
    other = streamed(stream, **loader)
    assert sorted(first) == sorted(other) == list(range(ROWS))
    assert first == same != other
    assert first != sorted(first)


def test_workers_that_live_on_hear_of_the_next_epoch(server: Server) -> None:
    stream = CollectionStream(server.data_dir, "rows", batch_size=64, buffer_bytes=SMALL_BUFFER)
    loader = DataLoader(stream, batch_size=None, collate_fn=collate, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([n for _, ids, _ in loader for n in ids.tolist()])
    assert orders[0] == orders[2] != orders[1]


def test_batches_that_go_through_shared_memory_are_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedvec.torch.PIPED_BYTES", 0)
    stream = CollectionStream(server.data_dir, "rows", batch_size=500)
    assert sorted(streamed(stream, batch_size=None, collate_fn=collate, num_workers=1)) == list(range(ROWS))


def test_ranks_share_an_epoch_evenly(server: Server) -> None:
    shares = []
    for rank in range(3):
        stream = CollectionStream(server.data_dir, "rows", rank=rank, world_size=3, batch_size=10)
        shares.append(streamed(stream, batch_size=None, collate_fn=collate, num_workers=2))
    assert sorted(n for share in shares for n in share) == list(range(ROWS))
    assert {len(share) for share in shares} <= {ROWS // 3, ROWS // 3 + 1}
    with pytest.raises(ValueError, match="rank 3 of 3"):
        CollectionStream(server.data_dir, "rows", rank=3, world_size=3)


def test_without_a_seed_rows_come_in_order(server: Server) -> None:
    stream = CollectionStream(server.data_dir, "rows", seed=None, batch_size=100, buffer_bytes=SMALL_BUFFER)
    assert streamed(stream, batch_size=None) == list(range(ROWS))
    assert streamed(stream, batch_size=None, collate_fn=collate, num_workers=2) != list(
        range(ROWS)
    )  # two stretches, in turns


def test_a_snapshot_can_be_given_and_texts_be_ids(server: Server) -> None:
    with Client(server.url) as client:
        fill(client, "names", range(60), ids="str", dtype="float16")
    snapshot = seedvec.open(server.data_dir)["names"]
    dataset = CollectionDataset(snapshot, metadata=False)
    vectors, ids = next(iter(DataLoader(dataset, 7, collate_fn=collate)))
    assert (vectors.dtype, ids) == (torch.float16, [f"ü{n}" for n in range(7)])
    assert pickle.loads(pickle.dumps(dataset))[3][1] == "ü3"
    with pytest.raises(TypeError, match="name"):
        CollectionDataset(server.data_dir)


def test_sparse_rows_are_expanded(server: Server) -> None:
    with Client(server.url) as client:
        c = client.collection("thin", 50, metric="dot", sparse=True)
        c.add([{"indices": [n % 50], "values": [float(n + 1)]} for n in range(600)], range(600))
    dataset = CollectionDataset(server.data_dir, "thin", metadata=False)
    wanted = torch.zeros(600, 50)
    wanted[torch.arange(600), torch.arange(600) % 50] = torch.arange(600, dtype=torch.float32) + 1
    assert torch.equal(dataset[:][0], wanted)
    assert torch.equal(dataset[7][0], wanted[7])
    for vectors, ids in DataLoader(dataset, 64, shuffle=True, collate_fn=collate, num_workers=0):
        assert torch.equal(vectors, wanted[ids])
    stream = CollectionStream(server.data_dir, "thin", metadata=False, batch_size=64, buffer_bytes=4096)
    assert all(torch.equal(vectors, wanted[ids]) for vectors, ids in stream)


def test_threads_may_share_a_dataset(dataset: CollectionDataset) -> None:
    wrong: list[Any] = []

    def read(seed: int) -> None:
        for _ in range(30):
            rows = np.random.default_rng(seed).integers(0, ROWS, 50)
            if dataset[rows][1].tolist() != rows.tolist():
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
