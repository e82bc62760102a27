"""What the README and the pages of docs/ say: links, settings, commands and code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import soundfile
import torch
import yaml

from asrkit.cli.main import cli
from asrkit.corpora.utterances import Utterance
from tests.conftest import ROOT, Workshop

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "egs").glob("*/README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    wrong = [link for link in links if link and not (page.parent / link).exists()]
    paths = re.findall(r"`((?:asrkit|conf|egs|tools|tests|docs)/[\w./-]+)`", text)
    made = ("/exp", "/data")  # by a recipe
    missing = [p for p in paths if not (ROOT / p).exists() and not (page.parent / p).exists()]
    wrong += [p for p in missing if not any(part in p for part in made)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_settings_exist(page: Path) -> None:
    text = page.read_text()
    commands = set(re.findall(r"(?:^|[`/ ])asrkit ([a-z][a-z-]+)(?=[` ,])", text, re.MULTILINE))
    prose = {"and", "import", "says", "trains"}
    assert commands - prose <= set(cli.list_commands(click.Context(cli))), page
    known = all_settings()
    sections = {name.split(".")[0] for name in known}
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", text)
    named = [
        name for name in named if name.split(".")[0] in sections and not name.endswith((".py", ".md", ".yaml", ".zip"))
    ]
    assert [name for name in named if not any(f"{one}.".startswith(f"{name}.") for one in known)] == []


def all_settings() -> set[str]:
    """Those of docs/settings.md, which is generated from the package."""
    known, section = set(), ""
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        if heading := re.match(r"## `(.*)`", line):
            section = heading[1]
        elif row := re.match(r"\| `([\w.]+)`", line):
            known.add(f"{section}.{row[1]}")
    return known


EXTENDING = (ROOT / "docs" / "extending.md").read_text()


@pytest.mark.parametrize("number", range(2))
def test_the_scripts_of_extending_run(number: int, workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(workshop.data_dir)
    values = yaml.safe_load(workshop.config_path.read_text())
    values["train"] |= {"num_epochs": 1, "checkpoint_every_steps": 100}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    script = re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL)[number]
    (tmp_path / "example.py").write_text(script)
    run_with(ROOT, "example.py", cwd=tmp_path)
    (folder,) = (tmp_path / "exp").iterdir()
    metrics = (folder / "metrics.jsonl").read_text()
    assert '"entropy"' in metrics if number == 0 else '"utterances": 12' in metrics


def run_with(package: Path, *arguments: str | Path, cwd: Path) -> str:
    """Runs Python on the package in a folder and returns what it printed to standard error."""
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the files and changes that extending.md shows."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "asrkit", folder / "asrkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in re.findall(r'```python title="(.*?)"\n(.*?)```', EXTENDING, re.DOTALL):
        assert not (folder / name).exists()
        (folder / name).write_text(text)
    changes = "".join(re.findall(r"```diff\n(.*?)```", EXTENDING, re.DOTALL))
    command = ["git", "apply", "-C1", "-"]
    done = subprocess.run(command, cwd=folder, input=changes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_encoder_and_the_augmentation_of_extending_train_and_decode(
    extended: Path, workshop: Workshop, tmp_path: Path
) -> None:
    settings: list[str | Path] = [
        "--config",
        workshop.config_path,
        "train.num_epochs=1",
        "train.checkpoint_every_steps=100",
    ]
    settings += ["tilt.probability=1", "model.encoder.type=convnet", "features.stacking=4"]
    settings += ["model.encoder.convnet.num_layers=2", "model.encoder.convnet.channels=16"]
    data, exp = ("--data-dir", workshop.data_dir), tmp_path / "exp"
    log = run_with(extended, "-m", "asrkit", "train", *data, "--exp-dir", exp, *settings, cwd=tmp_path)
    assert re.search(r"tilt (\d+)/\1\b", log)
    out = ("--split", "dev", "--out-dir", tmp_path / "out")
    run_with(extended, "-m", "asrkit", "decode", "--model", exp / "averaged.safetensors", *data, *out, cwd=tmp_path)
    assert len((tmp_path / "out" / "hyp.trn").read_text().splitlines()) == 6


def test_the_encoder_of_extending_ignores_padding(extended: Path, tmp_path: Path) -> None:
    script = """
import torch
from asrkit.models.convnet import ConvNet
torch.manual_seed(0)
encoder = ConvNet(8, num_layers=2, channels=16, kernel=5).eval()
x = torch.randn(2, 20, 8)
together, _ = encoder(x, torch.tensor([20, 11]))
alone, _ = encoder(x[1:, :11], torch.tensor([11]))
torch.save((together[1], alone[0]), "encoded.pt")
"""
    run_with(extended, "-c", script, cwd=tmp_path)
    together, alone = torch.load(tmp_path / "encoded.pt", weights_only=True)
    torch.testing.assert_close(together[:11], alone)
    assert not together[11:].any()


def test_the_corpus_of_extending_is_prepared(extended: Path, an4_utterances: list[Utterance], tmp_path: Path) -> None:
    release, lines = tmp_path / "LJSpeech-1.1", list[str]()
    (release / "wavs").mkdir(parents=True)
    for number, utterance in enumerate(an4_utterances[:8]):
        id = f"LJ{(1, 1, 2, 2, 49, 49, 50, 50)[number]:03}-{number:04}"
        assert utterance.audio
        soundfile.write(release / "wavs" / f"{id}.wav", *soundfile.read(utterance.audio))
        lines.append(f"{id}|{utterance.text}|{utterance.text}\n")
    (release / "metadata.csv").write_text("".join(lines))
    arguments = ("prepare", "ljspeech", "--corpus-dir", release, "--data-dir", tmp_path / "data")
    log = run_with(extended, "-m", "asrkit", *arguments, cwd=tmp_path)
    assert "train 4, dev 2, test 2" in log


def test_the_study_of_extending_holds(extended: Path, tmp_path: Path) -> None:
    run_with(extended, "-m", "asrkit", "study", "coverage", "--out-dir", "coverage", cwd=tmp_path)
    assert "| reproduced |" in (tmp_path / "coverage" / "RESULTS.md").read_text()
    assert (tmp_path / "coverage" / "coverage.png").stat().st_size > 5000


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (ROOT / "docs").glob("*.md"):
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / "site" / name).is_file()
    assert "transcribe" in (tmp_path / "site" / "api" / "index.html").read_text()
    for recipe in (ROOT / "egs").glob("*/README.md"):
        assert (tmp_path / "site" / "recipes" / recipe.parent.name / "index.html").is_file()
    results = (tmp_path / "site" / "recipes" / "large_batches_results" / "index.html").read_text()
    assert 'src="../large_batches_map.png"' in results and 'href="../large_batches_curves.png"' in results


RATE = re.compile(r"([+-]?\d+\.\d+) ?%? ?[|\[] ?([+-]?\d+\.\d+)(?:,| –) ([+-]?\d+\.\d+)")
"""A rate, or a difference, and its interval."""


def test_every_rate_with_an_interval_is_one_of_the_results() -> None:
    results = [line for path in (ROOT / "egs").rglob("RESULTS.md") for line in path.read_text().splitlines()]
    rows = [{number.lstrip("+") for number in re.findall(r"[+-]?\d+\.\d+", line)} for line in results]
    stated = [(page.name, *rate) for page in PAGES for rate in RATE.findall(page.read_text())]
    assert len(stated) > 60
    unknown = [rate for rate in stated if not any({n.lstrip("+") for n in rate[1:]} <= row for row in rows)]
    assert unknown == []


def test_every_benchmark_has_its_command() -> None:
    lines = (ROOT / "docs" / "benchmarks.md").read_text().split("\n## ")[0].splitlines()
    commands = [row.rstrip("| ").split(" | ")[-1] for row in lines if row.startswith("| ")][1:]
    scripts = [re.search(r"`(tools/bench/\w+\.py)", command) for command in commands]
    assert scripts[0]
    for command, script in zip(commands, scripts, strict=True):
        assert (ROOT / script[1]).is_file() if script else "the same" in command
