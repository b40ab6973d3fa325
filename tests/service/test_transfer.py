"""Whole files over HTTP and by the command: in, out, refused, cut off."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import HOST, ROOT, SMALL, Server, wait_for
from tests.wire import Collection, Wire, npy

NDJSON = "application/x-ndjson"
VECTORS = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
IDS = np.random.default_rng(1).permutation(10_000)[:300]
METADATA = [None if i % 4 == 0 else {"i": i, "text": "ä\n"} for i in range(300)]
LINES = "".join(json.dumps(m) + "\n" for m in METADATA).encode()


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Iterator[Server]:
    yield shared_server
    wait_for("nothing is left in the staging folder", lambda: staged(shared_server) == [])


@pytest.fixture
def wire(server: Server) -> Wire:
    return server.wire()


def staged(server: Server) -> list[str]:
    folder = server.data_dir / "staging"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def path_of(name: str, what: str) -> str:
    return f"/v1/collections/{name}/{what}"


def multipart(**files: bytes) -> tuple[bytes, str]:
    """Each under its field's name, with a file name that says its format."""
    names = {"vectors": "emb.npy", "ids": "ids.npy", "metadata": "meta.jsonl"}
    body = b""
    for field, content in files.items():
        head = f'--XX\r\nContent-Disposition: form-data; name="{field}"; filename="{names.get(field, "x")}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + b"--XX--\r\n", "multipart/form-data; boundary=XX"


def import_all(wire: Wire, name: str, query: str = "", **headers: str) -> Any:
    body, kind = multipart(vectors=npy(VECTORS), ids=npy(IDS), metadata=LINES)
    return wire.ok(201, "POST", path_of(name, "import") + query, body, Content_Type=kind, **headers)


def assert_holds(wire: Wire, name: str, ids: NDArray[np.int64] = IDS, vectors: NDArray[Any] = VECTORS) -> None:
    c = Collection(wire, name)
    assert c.describe()["count"] == len(ids) and c.describe()["imports"] == []
    found = wire.ok(200, "POST", f"{c.path}/vectors/fetch", {"ids": ids.tolist()})
    assert found["missing"] == []
    assert (np.array([item["vector"] for item in found["items"]], np.float32) == vectors).all()


def test_a_file_is_the_body_and_makes_its_collection(wire: Wire) -> None:
    answer = wire.ok(201, "POST", path_of("plain", "import"), npy(VECTORS.astype(np.float64)))
    notes = ["the file's float64 numbers were rounded to float32, the collection's dtype"]
    assert answer == {"imported": 300, "rejected": 0, "first_rejected": None, "created": True, "notes": notes}
    described = Collection(wire, "plain").describe()
    assert [described[k] for k in ("dimension", "metric", "dtype", "id_type")] == [8, "cosine", "float32", "int"]
    assert_holds(wire, "plain", np.arange(300))
    again = wire.call("POST", path_of("plain", "import"), npy(VECTORS))
    assert again.status == 409 and "append=1" in again.json()["detail"]
    wire.ok(201, "POST", path_of("plain", "import") + "?append=1", npy(VECTORS))
    assert_holds(wire, "plain", np.arange(600), np.concatenate([VECTORS, VECTORS]))


def test_ids_and_metadata_travel_both_ways(wire: Wire) -> None:
    assert import_all(wire, "parts")["imported"] == 300
    assert_holds(wire, "parts")
    answer = wire.call("GET", path_of("parts", "export") + "?format=npy")
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert (np.load(io.BytesIO(files["parts.npy"])) == VECTORS).all()
    assert (np.load(io.BytesIO(files["parts.ids.npy"])) == IDS).all()
    assert [json.loads(line) for line in files["parts.metadata.jsonl"].splitlines()] == METADATA
    wire.ok(201, "POST", path_of("tarred", "import"), answer.body, Content_Type="application/x-tar")
    assert_holds(wire, "tarred")
    item = wire.ok(200, "GET", path_of("tarred", f"vectors/{IDS[1]}"))
    assert item["metadata"] == METADATA[1]
    alone = wire.ok(200, "GET", path_of("parts", "export") + "?sidecars=0")
    assert (np.load(io.BytesIO(alone)) == VECTORS).all()


def test_one_file_holds_all_and_comes_with_its_length(wire: Wire) -> None:
    import_all(wire, "whole")
    answer = wire.call("GET", path_of("whole", "export") + "?format=hdf5")
    assert answer.status == 200 and int(answer.headers["content-length"]) == len(answer.body)
    wire.ok(201, "POST", path_of("whole2", "import"), answer.body)
    assert_holds(wire, "whole2")


def test_an_option_that_the_format_does_not_offer(wire: Wire) -> None:
    """Refused before the answer begins, whether the format is streamed, packed or written first."""
    import_all(wire, "optional")
    for how in ("format=npy&sidecars=0", "format=npy", "format=hdf5"):
        answer = wire.call("GET", path_of("optional", "export") + f"?{how}&compression=rar")
        assert (answer.status, answer.json()["type"]) == (422, "/problems/invalid-request"), answer
        assert "'rar' is not offered" in answer.json()["detail"]


def test_progress_comes_as_lines_and_ends_with_the_answer_or_the_problem(wire: Wire) -> None:
    body, kind = multipart(vectors=npy(VECTORS), ids=npy(IDS))
    answer = wire.call("POST", path_of("lines", "import"), body, Content_Type=kind, Accept=NDJSON)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert answer.status == 201 and answer.headers["content-type"] == NDJSON
    assert lines[-2:] == [{"rows": 300, "of": 300}, {**lines[-1], "imported": 300}]
    refused = wire.call("POST", path_of("lines", "import"), body, Content_Type=kind, Accept=NDJSON)
    assert refused.status == 409 and refused.json()["type"] == "/problems/id-exists"


def test_a_repeated_import_with_its_key_is_done_once(wire: Wire) -> None:
    first = import_all(wire, "once", Idempotency_Key="k1")
    assert import_all(wire, "once", Idempotency_Key="k1") == first
    other = wire.call("POST", path_of("once", "import"), npy(VECTORS), Idempotency_Key="k1")
    assert other.status == 422 and other.json()["type"] == "/problems/idempotency-mismatch"
    assert_holds(wire, "once")


def test_a_key_that_comes_again_while_it_is_under_way_waits(server: Server) -> None:
    big = npy(np.random.default_rng(2).standard_normal((60_000, 64)).astype(np.float32))
    with ThreadPoolExecutor(3) as clients:
        sent = [
            clients.submit(
                server.wire().ok, 201, "POST", path_of("waiting", "import") + "?append=1", big, Idempotency_Key="k"
            )
            for _ in range(3)
        ]
        assert len({json.dumps(answer.result()) for answer in sent}) == 1
    assert Collection(server.wire(), "waiting").describe()["count"] == 60_000


def test_rows_that_cannot_be_stored_are_left_out_where_that_is_asked_for(wire: Wire) -> None:
    bad = VECTORS.copy()
    bad[7, 3] = np.inf
    bad[9] = 0
    refused = wire.call("POST", path_of("some", "import"), npy(bad))
    assert refused.status == 422 and refused.json()["errors"][0]["where"] == "row 7"
    assert wire.call("GET", path_of("some", "")[:-1]).status == 404
    answer = wire.ok(201, "POST", path_of("some", "import") + "?bad=skip", npy(bad))
    assert (answer["imported"], answer["rejected"], answer["first_rejected"]["row"]) == (298, 2, 7)


def test_copy_takes_all_or_nothing(wire: Wire) -> None:
    import_all(wire, "from")
    Collection(wire, "to").create(8)
    answer = wire.ok(201, "POST", path_of("to", "copy"), {"from": "from"})
    assert answer["imported"] == 300
    assert_holds(wire, "to")
    assert wire.ok(200, "GET", path_of("to", f"vectors/{IDS[1]}"))["metadata"] == METADATA[1]
    again = wire.call("POST", path_of("to", "copy"), {"from": "from"})
    assert again.status == 409 and again.json()["error_count"] == 300
    wire.ok(201, "POST", path_of("to", "copy"), {"from": "from", "mode": "upsert"})
    assert_holds(wire, "to")
    assert wire.call("POST", path_of("to", "copy"), {"from": "nobody"}).status == 404


def test_a_copy_that_is_sent_again_with_its_key_is_done_once(wire: Wire) -> None:
    import_all(wire, "copied")
    Collection(wire, "copy").create(8)
    first, again = (
        wire.ok(201, "POST", path_of("copy", "copy"), {"from": "copied"}, Idempotency_Key="c1") for _ in range(2)
    )
    assert first == again and first["imported"] == len(IDS)
    other = wire.call("POST", path_of("copy", "copy"), {"from": "copied", "mode": "upsert"}, Idempotency_Key="c1")
    assert other.json()["type"] == "/problems/idempotency-mismatch"
    assert_holds(wire, "copy")


def test_truncate_keeps_the_first(wire: Wire) -> None:
    import_all(wire, "short")
    c = Collection(wire, "short")
    c.upsert([int(IDS[0])], VECTORS[:1])  # now the last
    assert wire.ok(200, "POST", path_of("short", "truncate"), {"rows": 100}) == {"deleted": 200}
    assert_holds(wire, "short", IDS[1:101], VECTORS[1:101])
    assert wire.ok(200, "POST", path_of("short", "truncate"), {"rows": 1000}) == {"deleted": 0}
    assert wire.ok(200, "POST", path_of("short", "truncate"), {"rows": 0}) == {"deleted": 100}


def header(**fields: Any) -> bytes:
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (3, 8), **fields}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


BAD = {
    "nothing": (b"", "", 400, "malformed-body"),
    "no file of ours": (b"what is this?", "", 422, "bad-file"),
    "another format than said": (npy(VECTORS), "?format=hdf5", 422, "bad-file"),
    "cut off": (npy(VECTORS)[:-9], "", 422, "bad-file"),
    "512 TB": (header(shape=(1 << 40, 128)) + bytes(96), "", 422, "bad-file"),
    "a pickle": (npy(VECTORS).replace(b"'<f4'", b"'|O' "), "", 422, "bad-file"),
    "an unknown parameter": (npy(VECTORS), "?formatt=npy", 422, "unknown-field"),
    "a shape that is none": (npy(VECTORS), "?shape=1,0", 422, "invalid-request"),
    "an upsert without ids": (npy(VECTORS), "?mode=upsert", 422, "invalid-request"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_imported_is_refused_and_leaves_nothing(wire: Wire, case: str) -> None:
    body, query, status, code = BAD[case]
    answer = wire.call("POST", path_of("bad", "import") + query, body)
    assert (answer.status, answer.json()["type"]) == (status, f"/problems/{code}"), answer.body
    assert wire.call("GET", "/v1/collections/bad").status == 404


def test_bodies_that_are_no_multipart_and_pages_from_elsewhere_are_refused(wire: Wire) -> None:
    path = path_of("bad", "import")
    body, kind = multipart(vectors=npy(VECTORS), strange=b"x")
    for sent, given in ((body, kind), (body[:400], kind), (b"--YY\r\n", kind), (body, "multipart/form-data")):
        answer = wire.call("POST", path, sent, Content_Type=given)
        assert answer.status == 400, answer.body
    assert wire.call("POST", path, npy(VECTORS), Origin="http://evil.example").status == 415
    assert wire.call("POST", path, npy(VECTORS), Content_Encoding="gzip").status == 415


def test_a_client_that_goes_away_takes_its_children_with_it(server: Server) -> None:
    wire = server.wire()
    import_all(wire, "leaving")
    big = np.random.default_rng(2).standard_normal((40_000, 64)).astype(np.float32)
    wire.ok(201, "POST", path_of("large", "import"), npy(big))
    for path in (path_of("large", "export"), path_of("large", "export") + "?format=hdf5"):
        gone = Wire(HOST, server.port)
        gone.connect()
        gone._connection.request("GET", path)
        assert gone._connection.getresponse().read(10)
        gone.close()
    gone = Wire(HOST, server.port)
    gone.connect()
    gone._connection.putrequest("POST", path_of("never", "import"))
    gone._connection.putheader("Content-Length", str(1 << 30))
    gone._connection.endheaders(bytes(1 << 20))
    wait_for("the upload has begun", lambda: len(staged(server)) > 0)
    gone.close()
    for module in ("app.writing_file", "app.reading_file"):
        wait_for(f"{module} has ended", lambda module=module: server.children(module) == [])  # type: ignore[misc]
    assert wire.call("GET", "/v1/collections/never").status == 404


def test_a_child_that_is_killed_imports_nothing(server: Server) -> None:
    wire = server.wire()
    Collection(wire, "victim").create(64)
    big = npy(np.random.default_rng(2).standard_normal((200_000, 64)).astype(np.float32))
    assert server.process is not None
    command_line = [sys.executable, "-c", KILLER, str(server.process.pid)]
    with subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.PIPE) as killer:
        assert killer.stdout is not None and killer.stdout.readline() == b"looking\n"
        answer = wire.call("POST", path_of("victim", "import"), big)
        killer.kill()
    assert (answer.status, answer.json()["type"]) == (422, "/problems/bad-file"), answer.body
    described = Collection(wire, "victim").describe()
    assert (described["count"], described["segments"], described["imports"]) == (0, 0, [])
    wire.ok(201, "POST", path_of("victim", "import"), npy(VECTORS.repeat(8, axis=1)))


KILLER = """
import os, signal, sys, time
from tests.processes import command, descendants
print("looking", flush=True)
while True:
    for pid in descendants(int(sys.argv[1])):
        if "app.reading_file" in command(pid):
            folder = f"/proc/{pid}/fd"
            try:
                open_files = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
            except OSError:
                continue
            if any(name.endswith(".h5.tmp") for name in open_files):
                os.kill(pid, signal.SIGKILL)
                sys.exit()
    time.sleep(0.001)
"""


def test_a_server_that_dies_after_an_import_has_all_of_it_or_nothing(tmp_path: Path) -> None:
    """One dies in its second turn of claims, the other, which needs but one, right after it was made real."""
    points = "import.claim@app.reading_file:kill:2,import.committed@app.reading_file:kill"
    with Server(tmp_path / "data", 1, {**SMALL, "SEEDVEC_FAILPOINTS": points}) as server:
        big = np.random.default_rng(2).standard_normal((60_000, 64)).astype(np.float32)
        for name, vectors, status in (("nothing", big, 422), ("all", big[:1000], 201)):
            answer = server.wire().call("POST", path_of(name, "import"), npy(vectors))
            assert answer.status == status, answer.body  # its child is dead
        server.kill()
        server.start()
        assert server.wire().call("GET", "/v1/collections/nothing").status == 404
        assert Collection(server.wire(), "all").describe()["count"] == 1000


def command(*words: Any) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEEDVEC_")}
    return subprocess.run(
        [sys.executable, "-c", "import sys; from seedvec.cli import main; sys.exit(main())", *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_commands_go_to_a_server_or_to_a_folder(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VECTORS)
    np.save(tmp_path / "x.ids.npy", IDS)
    (tmp_path / "x.metadata.jsonl").write_bytes(LINES)
    where: dict[str, Any] = {"--url": server.url, "--data": tmp_path / "other"}
    for flag, value in where.items():
        done = command("import", "cli", tmp_path / "x.npy", flag, value)
        assert (done.returncode, done.stdout) == (0, "imported 300 rows, into a new collection\n"), done.stderr
        out = tmp_path / flag / "y.npy"
        out.parent.mkdir()
        assert command("export", "cli", out, flag, value).returncode == 0
        for ending in (".npy", ".ids.npy"):
            assert (np.load(out.with_name(f"y{ending}")) == np.load(tmp_path / f"x{ending}")).all()
        lines = out.with_name("y.metadata.jsonl").read_bytes().splitlines()
        assert [json.loads(line) for line in lines] == METADATA
    again = command("import", "cli", tmp_path / "x.npy", "--url", server.url)
    assert again.returncode == 1 and f"id {IDS[0]} exists" in again.stderr
    refused = command("import", "cli", tmp_path / "x.npy", "--data", server.data_dir)
    assert refused.returncode == 2 and f"--url {server.url}" in refused.stderr
