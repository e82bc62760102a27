"""Work on a Dask cluster of two workers on this machine, and in processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asrkit.data.folder import DataFolder
from asrkit.errors import UserError
from asrkit.processes import CLUSTER, mapping
from tests.conftest import run_cli


def doubled(number: int) -> tuple[int, int]:
    """Twice a number, and who says so."""
    return 2 * number, os.getpid()


def refuse(number: int) -> int:
    """Raises what a user can fix."""
    raise UserError(f"utterance {number} cannot be read")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        yield local.scheduler_address


def test_results_come_in_order_from_all_workers(cluster: str) -> None:
    token = CLUSTER.set(cluster)
    with mapping(1, chunksize=3) as run:
        found = list(run(doubled, range(200)))
    CLUSTER.reset(token)
    assert [value for value, _ in found] == [2 * n for n in range(200)]
    assert len({pid for _, pid in found} - {os.getpid()}) == 2
    with mapping(2, chunksize=3) as run:
        assert [value for value, _ in run(doubled, range(20))] == [2 * n for n in range(20)]


def test_a_workers_error_is_the_users(cluster: str) -> None:
    token = CLUSTER.set(cluster)
    with pytest.raises(UserError, match="utterance 0 cannot be read"), mapping(1, chunksize=1) as run:
        list(run(refuse, range(5)))
    CLUSTER.reset(token)


def test_the_stages_do_the_same_on_a_cluster(cluster: str, folder_corpus: Path, tmp_path: Path) -> None:
    for name, options in (("alone", []), ("cluster", ["--cluster", cluster])):
        data: list[str | Path] = ["--data-dir", tmp_path / name, *options]
        made = run_cli("prepare", "folder", "--corpus-dir", folder_corpus, *data)
        assert made.returncode == 0, made.stderr
        settings = ["features.num_mel_bins=16", "features.store=true", "features.tempo_factors=[0.9]"]
        made = run_cli("features", *data, *settings)
        assert made.returncode == 0, made.stderr
    alone, other = (DataFolder(tmp_path / name) for name in ("alone", "cluster"))
    for split in ("train", "dev", "test"):
        one, two = list(alone.read_features(split)), list(other.read_features(split))
        assert [cut.id for cut in one] == [cut.id for cut in two]
        assert all((a.load_features() == b.load_features()).all() for a, b in zip(one, two, strict=True))
    assert alone.statistics.read_bytes() == other.statistics.read_bytes()


def test_a_scheduler_that_does_not_answer_is_named(folder_corpus: Path, tmp_path: Path) -> None:
    made = run_cli(
        "prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", tmp_path / "data", "--cluster", "nowhere"
    )
    assert made.returncode == 2 and "no Dask scheduler answers at nowhere" in made.stderr
