"""What other programs install is the package `seedvec` alone; the versions written in several places agree."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import apsw.sqlite_extra

from seedvec import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TORCH = re.compile(r"torch==([\w.]+)")


def test_the_wheel_holds_only_seedvec(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, "--disable-pip-version-check", str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"seedvec", f"seedvec-{__version__}.dist-info"}
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "seedvec").rglob("*.py")}
    assert sources <= set(names)
    assert "seedvec/py.typed" in names
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert all("extra ==" in line for line in needs), "the client alone needs nothing"


def test_the_light_package_runs_without_anything_installed(tmp_path: Path) -> None:
    program = (
        "import sys; import seedvec; seedvec.Client(); import seedvec.cli; "
        "heavy = {'h5py', 'torch', 'faiss', 'apsw', 'fastapi', 'app', 'storage', 'index', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    # -I and -S: no site-packages, no current folder, no variables.
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    subprocess.run([sys.executable, "-I", "-S", "-c", start], check=True, cwd=tmp_path)


def test_version_is_written_once_more_and_agrees() -> None:
    assert PROJECT["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_torch_is_pinned_alike_everywhere() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    pinned = TORCH.findall(extras["torch"][0])
    for name in ("Makefile", "docker/Dockerfile"):
        assert TORCH.findall((ROOT / name).read_text()) == pinned, name


def test_apsw_is_free_of_the_wal_reset_race_and_has_page_checksums() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (need,) = (need for need in extras["server"] if need.startswith("apsw>="))
    wanted = need.removeprefix("apsw>=").partition(",")[0]
    assert tuple(int(part) for part in wanted.split(".")) >= (3, 54)
    assert apsw.sqlite_extra.has("cksumvfs") == "extension"


def test_every_dependency_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    needs = [i for i, line in enumerate(lines) if re.match(r'\s+"[a-z0-9-]+[><=]', line)]
    assert len(needs) > 20
    for i in needs:
        assert lines[i - 1].lstrip().startswith("#"), f"line {i + 1} of pyproject.toml gives no reason"
