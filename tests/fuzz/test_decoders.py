"""A share of what `make fuzz` does with the decoders of bytes from outside; and that it finds what there is."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.engine.errors import Malformed, Refused
from tests.fuzz import child
from tests.fuzz.decoders import Decoder
from tests.fuzz.mutants import Sound
from tests.harness import ROOT

MUTANTS = 12


def test_every_decoder_refuses_as_it_says() -> None:
    command = [sys.executable, "-m", "tests.fuzz.child", str(MUTANTS), "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) > 30 and all(one["cases"] == MUTANTS for one in told)
    refused = sum(one["refused"] for one in told)
    assert MUTANTS * len(told) // 4 < refused < MUTANTS * len(told), "mutants are neither all sound nor all noise"
    assert max(one["peak_bytes"] for one in told) < child.MEMORY_BYTES


def digits(body: bytes, folder: Path) -> int:
    """A decoder that refuses an empty body, and has forgotten that text may be no number."""
    if not body:
        raise Malformed("empty")
    return int(body)


def slow(body: bytes, folder: Path) -> None:
    time.sleep(0.2 if body != b"12" else 0)


def test_an_error_that_was_not_declared_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        child.hold(Decoder("digits", [Sound((b"12",))], digits, (Refused,)), 50, 1, tmp_path)


def test_a_decoder_that_takes_long_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CASE_S", 0.05)
    before = signal.signal(signal.SIGALRM, child.too_slow)
    try:
        with pytest.raises(child.TooSlow):
            child.hold(Decoder("slow", [Sound((b"12",))], slow, (Refused,)), 20, 1, tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
