"""What is installed from a wheel works without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = ("asrkit", "conf", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
OVERRIDES = (
    "features.num_mel_bins=16",
    "train.num_epochs=1",
    "train.num_workers=0",
    "train.batch_seconds=20",
    "train.num_buckets=2",
    "model.encoder.conformer.num_layers=1",
    "model.encoder.conformer.d_model=16",
    "model.encoder.conformer.subsampling_channels=4",
)


def build(folder: Path, **environment: str) -> Path:
    """Builds the wheel from a copy, so that nothing is left in the tree."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(pip, cwd=folder, check=True, env=os.environ | environment)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is built here."""
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; what asrkit depends on is taken from this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(list(map(str, install)), check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    # A line with a path adds just that path: this environment's own link to the repository is not followed.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_has_what_is_no_python(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"asrkit/py.typed", "asrkit/scoring/page.html", "asrkit/conf/model/conformer_3m.yaml"} <= set(names)


def test_the_wheel_holds_the_shared_yaml(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shared = {f"asrkit/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert shared and shared <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "conf"))]


def test_without_a_compiler_there_is_a_wheel_without_c(wheel: Path, tmp_path: Path) -> None:
    def compiled(path: Path) -> bool:
        return any("_w4a4" in name for name in zipfile.ZipFile(path).namelist())

    assert compiled(wheel) == bool(shutil.which("gcc"))
    assert not compiled(build(tmp_path, CC="/bin/false"))


def test_a_model_trains_from_another_directory(environment: Path, folder_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("include: [model/conformer_3m.yaml]\nloss: {ctc_weight: 0.3}\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str | Path) -> str:
        done = subprocess.run(list(map(str, words)), cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    where = run(environment / "bin" / "python", "-c", "import asrkit; print(asrkit.__file__)")
    assert where.startswith(str(environment))
    asrkit, settings = environment / "bin" / "asrkit", ("--config", "mine.yaml", *OVERRIDES)
    run(asrkit, "prepare", "folder", "--corpus-dir", folder_corpus, "--data-dir", "data", "--num-jobs", "1")
    run(asrkit, "tokenizer", "--data-dir", "data", *settings)
    run(asrkit, "features", "--data-dir", "data", *settings)
    assert "epoch 1: loss" in run(asrkit, "train", "--data-dir", "data", "--exp-dir", "exp", *settings)
    run(asrkit, "export", "--model", "exp/averaged.safetensors", "--output", "model.safetensors")
    audio = sorted((folder_corpus / "audio").iterdir())[0]
    code = (
        "import sys; from asrkit import Recognizer; print(Recognizer(sys.argv[1]).transcribe(sys.argv[2]).duration_s)"
    )
    assert float(run(environment / "bin" / "python", "-c", code, "model.safetensors", audio)) > 0.5
