"""The report as a page: its numbers are the scorer's, and a browser shows, filters and plays what it says."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lhotse import CutSet

from asrkit.bundle.model_file import save_recognizer
from asrkit.cli.decode import write_decoded
from asrkit.cli.main import cli
from asrkit.data.transcripts import transcript
from asrkit.decoding.hypothesis import Hypothesis
from asrkit.files import write_json
from tests.conftest import tiny_bundle

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def hypotheses(text: str, seed: int) -> list[Hypothesis]:
    """Two of a text: one with errors, and the text itself."""
    tokenizer, generator = tiny_bundle().tokenizer, random.Random(f"{seed} {text}")
    words = text.split()
    said = [word for word in words if generator.random() > 0.1]
    said = [word if generator.random() > 0.1 else "ONE" for word in said] + (
        ["ONE"] if generator.random() > 0.8 else []
    )
    found = []
    for n, chosen in enumerate((said, words)):
        tokens = tokenizer.encode(" ".join(chosen))
        times = [0.1 * i for i in range(len(tokens))]
        found.append(Hypothesis(tokens, -1.0 - n, times, [-0.1] * len(tokens), {"am": -0.5 - n, "target_lm": -0.25}))
    return found


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory, an4_cuts: CutSet) -> list[Path]:
    """Two experiments with decodings of the same utterances."""
    paths = []
    for seed, name in enumerate(("first", "second")):
        path = tmp_path_factory.mktemp("page") / name
        bundle = tiny_bundle(seed)
        path.mkdir()
        save_recognizer(path / "averaged.safetensors", bundle, {})
        lines = [{"epoch": n, "updates": 3, "seconds": 2.0, "lr": 1e-3, "loss": {"loss": 5.0 / n}} for n in (1, 2, 3)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line | {"dev_wer": 50.0}) + "\n" for line in lines))
        out = path / "decode_dev_beam"
        out.mkdir()
        write_decoded(out, [(cut, hypotheses(transcript(cut), seed)) for cut in an4_cuts], bundle.tokenizer)
        write_json(out / "decode.json", {"split": "dev"})
        files = ["--ref", str(out / "ref.trn"), "--hyp", str(out / "hyp.trn")]
        assert CliRunner().invoke(cli, ["score", *files], catch_exceptions=False).exit_code == 0
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def page(experiments: list[Path]) -> Path:
    """The page of both."""
    path = experiments[0].parent / "report.html"
    command = ["report", *map(str, experiments), "--html", str(path)]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0 and f"wrote {path}" in result.output
    return path


def data_of(page: Path) -> dict[str, Any]:
    """What the page holds."""
    match = re.search(r"const data = (.*);\n", page.read_text())
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_the_counts_are_the_scorers(page: Path, experiments: list[Path]) -> None:
    data = data_of(page)
    assert [one["experiment"] for one in data["sets"]] == ["first", "second"]
    for one, path in zip(data["sets"], experiments, strict=True):
        wer = json.loads((path / "decode_dev_beam" / "score.json").read_text())["wer"]
        assert sum(u["errors"] for u in one["utterances"]) == wer["errors"] > 0
        assert sum(u["words"] for u in one["utterances"]) == wer["reference"]
        for u in one["utterances"]:
            wrong = [pair for pair in u["pairs"] if not isinstance(pair, str)]
            assert len(wrong) == u["errors"]
            assert sum(isinstance(pair, str) or pair[0] is not None for pair in u["pairs"]) == u["words"]
            spoken = sum(isinstance(pair, str) or pair[1] is not None for pair in u["pairs"])
            assert spoken == len(u["times"]) and (page.parent / one["files"][u["audio"][0]]).is_file()
    (compared,) = data["comparisons"]
    rates = [one["wer"]["rate"] for one in data["sets"]]
    assert compared["rates"] == pytest.approx(rates, abs=1e-3)
    assert compared["interval"][0] <= compared["points"] <= compared["interval"][1]


def test_the_page_is_small_and_needs_no_network(page: Path) -> None:
    size = page.stat().st_size
    of_page = len((Path(__file__).parents[2] / "asrkit" / "scoring" / "page.html").read_bytes())
    assert (size - of_page) / 80 * 2600 < 5e6  # of 80 utterances here
    assert not re.findall(r'(?:src|href)="|url\(|@import|fetch\(', page.read_text())


def test_a_transcript_cannot_end_the_script(page: Path) -> None:
    assert page.read_text().count("</script>") == 1


@pytest.fixture
def browser_page(page: Path) -> Iterator[Any]:
    """The page in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        wrong: list[str] = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto(page.as_uri())
        yield tab
        browser.close()
        assert wrong == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (tools/install_chromium.sh)")
def test_a_reader_finds_and_hears_an_error(browser_page: Any, page: Path) -> None:
    tab, (first, second) = browser_page, data_of(page)["sets"]
    wrong = [u for u in first["utterances"] if u["errors"]]
    assert f"{len(wrong)} of 40 utterances" in tab.inner_text("#shown")
    most = max(u["errors"] for u in wrong)
    assert f"{most} of" in tab.inner_text(".utterance >> nth=0")
    tab.uncheck("#wrong")
    assert f"40 of 40 utterances, {sum(u['errors'] for u in wrong)} errors" in tab.inner_text("#shown")
    tab.select_option("#sort", "longest")
    longest = max(first["utterances"], key=lambda u: u["seconds"])
    assert longest["id"] in tab.inner_text(".utterance >> nth=0")
    tab.fill("#search", longest["id"])
    assert "1 of 40 utterances" in tab.inner_text("#shown")
    tab.fill("#search", "")
    tab.select_option("#speaker", longest["speaker"])
    own = [u for u in first["utterances"] if u["speaker"] == longest["speaker"]]
    assert f"{len(own)} of 40" in tab.inner_text("#shown")
    tab.select_option("#set", "1")
    assert "of 40 utterances" in tab.inner_text("#shown") and second["experiment"] == "second"
    tab.locator("#shown").click()
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    assert tab.locator(".utterance >> nth=1").evaluate("row => row.classList.contains('current')")
    tab.keyboard.press("k")
    tab.keyboard.press("Space")
    tab.wait_for_selector(".utterance.current .lit")  # a word lights up as it is spoken
    tab.locator(".utterance.current summary").click()
    assert "target_lm" in tab.inner_text(".utterance.current details")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (tools/install_chromium.sh)")
def test_tables_and_curves_are_drawn(browser_page: Any) -> None:
    assert browser_page.locator("#results tr").count() == 3
    assert "matched pairs" in browser_page.inner_text("#comparisons")
    assert browser_page.locator("#curves svg").count() == 2 and browser_page.locator("#curves polyline").count() == 4
    assert browser_page.locator("#confusions tr").count() > 2
