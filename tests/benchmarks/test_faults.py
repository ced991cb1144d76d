"""A few faults of each kind, and that the benchmark would see what is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as faults
from benchmarks.faults.children import FAILED, REFUSED, end, last_line, run_to_end, start
from benchmarks.faults.injection import ENDED, FAULTS, count_changes, inject
from benchmarks.faults.settings import Tally
from benchmarks.faults.works import difference, judge
from benchmarks.tables.reliability import faults_of

ROOT = Path(__file__).parents[2]
METRICS = ["injected", "survived", "lost or silently wrong"]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def test_nothing_is_lost(tmp_path):
    """All parts, in a process of their own: this one has threads and must not be forked for them."""
    output = tmp_path / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", "--tiny", "--minutes", "0.4", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(output.read_text())["records"]
    assert {record["part"] for record in records} == set(faults.PARTS)
    methods = {(record["part"], record["method"]): [] for record in records}
    for record in records:
        methods[record["part"], record["method"]].append(record)
    for name, own in methods.items():
        assert [record["metric"] for record in own] == METRICS, name
        injected, survived, lost = (record["value"] for record in own)
        assert injected == survived > 0, name
        assert lost == 0, name


class Careless:
    """Writes a file in two steps, and thinks that a file which exists is whole."""

    name = "careless"

    def prepare(self, folder: Path) -> None:
        folder.mkdir()

    def run(self, folder: Path) -> None:
        if not (folder / "a").exists():
            (folder / "a").write_text("")
            (folder / "b").write_text("b")
            (folder / "a").write_text("whole")

    def fault_when_stopped(self, folder: Path) -> str:
        return ""

    def fault_at_end(self, folder: Path) -> str:
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        return difference(found, {"a": b"whole", "b": b"b"})


@pytest.mark.parametrize("fault", ["an error", "the process ends", "the disk is full", "the disk is read-only"])
def test_a_loss_is_seen(fault, tmp_path):
    """Stopped before its first change, nothing is lost. Stopped later, the half file is taken for a whole one."""
    work, log = Careless(), tmp_path / "log"
    lost = []
    for place in range(4):
        folder = tmp_path / str(place)
        work.prepare(folder)

        def run(folder: Path = folder, place: int = place) -> None:
            inject(folder, place, FAULTS[fault])
            work.run(folder)

        code = run_to_end(run, log)
        expected = {"an error": FAILED, "the process ends": ENDED}.get(fault, REFUSED)
        assert code == (expected if place < 3 else 0)
        lost.append(judge(work, folder, code, log))
    assert (lost[0], lost[3]) == ("", "")
    assert lost[1] == "not as without a fault: a, b"
    assert lost[2] == "not as without a fault: a"


def test_changes_are_counted(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "read").write_text("")

    def run() -> None:
        (tmp_path / "read").read_text()
        (tmp_path / "elsewhere").write_text("")
        with (tmp_path / "folder" / "a").open("a"):
            (tmp_path / "folder" / "a").rename(tmp_path / "folder" / "b")
        (tmp_path / "folder" / "b").unlink()

    code = run_to_end(lambda: count_changes(tmp_path / "folder", run, tmp_path / "n"), tmp_path / "log")
    assert (code, (tmp_path / "n").read_text()) == (0, "3")


def test_children_end_as_processes_do(tmp_path):
    log = tmp_path / "log"

    def missing() -> None:
        (tmp_path / "missing").read_text()

    assert run_to_end(lambda: 7, log) == 7
    assert run_to_end(missing, log) == REFUSED
    assert last_line(log).startswith("OSError: [Errno 2]")
    assert run_to_end(lambda: sys.exit(5), log) == 5
    assert run_to_end(lambda: [][0], log) == FAILED
    assert last_line(log) == "IndexError: list index out of range"
    with pytest.raises(TimeoutError, match="a run took more than 0 seconds"):
        end(start(lambda: time.sleep(60), log), 0.2)


def test_counts_and_their_table(capsys):
    tally = Tally("kills", "a run; SIGKILL")
    tally.add("", 3)
    tally.add("other weights", 2)
    records = list(tally.records())
    assert [(record["metric"], record["value"]) for record in records] == list(zip(METRICS, (5, 4, 1)))
    assert records[2]["faults"] == ["other weights"]
    assert "LOST: kills, a run; SIGKILL: other weights" in capsys.readouterr().err
    first, _, line = faults_of(records, "kills").splitlines()
    assert first == "| run or file | fault | injected | survived | lost or silently wrong |"
    assert line == "| a run | SIGKILL | 5 | 4 | 1 |"


def test_unknown_parts_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "kill"])
    with pytest.raises(SystemExit):
        faults.parse_arguments()
    assert "PART must be one of kills, crashes" in capsys.readouterr().err
