"""The short form of the benchmark that kills, stops and cuts off learners, and has others join."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import ROOT


def test_learners_withstand_faults() -> None:
    command = [sys.executable, "tools/bench/chaos.py", "--seconds", "20", "--learners", "4", "--every", "2"]
    command += ["--stop", "4", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] >= 5
    assert found["hangs"] == found["lost_updates"] == found["failed"] == 0
    assert 0.95 < found["final_loss_ratio"] < 1.05
    assert found["throughput_ratio"] > 0.5  # of whatever else the machine is doing, more than that
