"""What the README and the pages of docs/ say: links, settings, commands and code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from asrkit.cli.main import cli
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


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_the_examples_of_extending_run(number: int, workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(workshop.data_dir)
    values = yaml.safe_load(workshop.config_path.read_text())
    values["train"] |= {"num_epochs": 1, "checkpoint_every_steps": 100}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "example.py").write_text(blocks("extending.md", "python")[number])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "exp").iterdir()
    metrics = (folder / "metrics.jsonl").read_text()
    assert '"entropy"' in metrics if number == 0 else '"utterances": 12' in metrics


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
