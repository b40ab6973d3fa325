"""The cores and the memory that a process may count on."""

import os
from pathlib import Path

from app.granted import granted_cores, granted_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def limits(root: Path, **bytes_by_folder: int | str) -> Path:
    """A control group tree: folder (v2 with "_" for "/", v1 under `memory`) → its limit."""
    for name, limit in bytes_by_folder.items():
        folder = root / name.replace("_", "/").strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        file = "memory.limit_in_bytes" if name.startswith("memory") else "memory.max"
        (folder / file).write_text(f"{limit}\n")
    return root


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own"
    file.write_text(text)
    return file


def test_cores() -> None:
    assert granted_cores() >= 1


def test_the_machine_where_nothing_limits(tmp_path: Path) -> None:
    root = limits(tmp_path / "cgroup", _="max")
    assert granted_memory(root, own(tmp_path, "0::/\n")) == MACHINE
    assert granted_memory(root, tmp_path / "absent") == MACHINE


def test_the_least_limit_from_the_process_up_to_the_root(tmp_path: Path) -> None:
    root = limits(tmp_path / "cgroup", a=300 * MIB, a_b=200 * MIB, a_b_c="max", other=1 * MIB)
    assert granted_memory(root, own(tmp_path, "0::/a/b/c\n")) == 200 * MIB
    assert granted_memory(root, own(tmp_path, "0::/a\n")) == 300 * MIB


def test_the_older_hierarchy(tmp_path: Path) -> None:
    root = limits(tmp_path / "cgroup", memory_x=64 * MIB, memory=1 << 62)
    text = "9:name=systemd:/x\n4:cpu,memory:/x\n1:cpu:/x\n0::/\n"
    assert granted_memory(root, own(tmp_path, text)) == 64 * MIB


def test_the_root_stands_for_a_path_that_only_the_host_knows(tmp_path: Path) -> None:
    root = limits(tmp_path / "cgroup", _=128 * MIB)
    assert granted_memory(root, own(tmp_path, "0::/docker/0123\n")) == 128 * MIB
