"""Runs the shell and Python blocks of the README and of docs/ in a copy of the project with small data.

Usage: .venv/bin/python tools/run_doc_blocks.py [PAGE]...

The copy has a few utterances of each corpus, and an ``asrkit`` that gives tiny models to the commands that train. Names
that stand for a reader's own files, such as MODEL, are replaced by files of the copy.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import soundfile
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from asrkit.files import utf8_lines  # noqa: E402
from tests.corpora.miniature import AN4, Clips, librispeech_speaker, swb300, tiny_settings, write  # noqa: E402

NOT_RUN = {
    "tools/test.sh": "it runs the tests",
    "egs/large_batches/run.sh": "twenty minutes, whatever the data; tests/studies runs the study in small",
    "egs/pcas/run.sh": "two minutes of another study; tests/retrieval runs it in small",
}
PAGES = [
    "README.md",
    "tutorial",
    "api",
    "training",
    "many_learners",
    "techniques",
    "decoding",
    "quantization",
    "corpora",
]
PAGES += [f"papers/{path.stem}" for path in sorted((ROOT / "docs" / "papers").glob("*.md"))]
"""In this order, since some use what others made; extending.md is run by tests/test_docs.py."""
CONFORMER = "egs/an4/exp/conformer/averaged.safetensors"
FIRST = {
    "many_learners": ["ln -sfn egs/an4/data data", "mkdir -p exp && ln -sfn ../egs/an4/exp/conformer exp/conformer"],
    "training": ["ln -sfn egs/an4/data data"],
    "corpora": ["egs/swb300/run.sh --corpus-dir SWB --stop-stage 3 --num-jobs 1"],
    "papers/int4": [
        "egs/an4/run.sh --config egs/an4/conf/blstm.yaml --stop-stage 3 --data-dir egs/an4/data_blstm --processes 1",
        "asrkit quantize --model egs/an4/exp/blstm/averaged.safetensors --data-dir egs/an4/data_blstm "
        "--output egs/an4/exp/blstm_int4_start.safetensors --config egs/an4/conf/blstm_int4.yaml",
    ],
}
"""Commands that a page's blocks take for granted."""
REPLACED = {
    "api": {"egs/an4/conf/conformer.yaml": "tiny.yaml", "egs/an4/exp/conformer": "exp/api"},
    "corpora": {
        "MODEL": "egs/swb300/exp/conformer/averaged.safetensors",
        "DATA": "egs/swb300/data",
        "OUT": "out",
        "hub5e00.english.000405.stm": "$(find SWB/LDC2002T43 -name '*.stm')",
        "en20000405_hub5.glm": "$(find SWB/LDC2002T43 -name '*.glm')",
    },
    "decoding": {"MODEL": CONFORMER},
    "papers/pcas": {"MODEL": CONFORMER},
    "papers/bl_just": {"CORPUS": "LIBRI"},
    "papers/int4": {"run.sh --config": "run.sh --data-dir egs/an4/data_blstm --config"},
}
SHIM = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.corpora.miniature import TINY, tiny_settings
arguments = sys.argv[1:]
takes = arguments[:1] and arguments[0] in ("tokenizer", "features", "train", "decode", "nbest")
if takes:
    configs = [Path(path) for name, path in zip(arguments, arguments[1:]) if name == "--config"]
    settings = tiny_settings(configs[0]) if configs else [s for s in TINY if s.startswith("features.")]
    if arguments[0] != "train":
        settings = [s for s in settings if s.startswith(("features.", "tokenizer.", "model.", "train.batch"))]
    arguments += settings
elif arguments[:1] == ["train-lm"]:
    arguments += ["lm.hidden_dim=8", "train.num_epochs=1"]
elif arguments[:1] == ["export"] and "--int4" in arguments:
    arguments += ["--max-wer-loss", "100"]
sys.argv = ["asrkit", *arguments]
from asrkit.cli.main import main
main()
"""


def make_world(world: Path) -> None:
    """A copy of the project with small corpora, and the files that blocks name as a reader's own."""
    for name in ("egs", "conf", "tools"):
        generated = shutil.ignore_patterns("exp", "data", "data_*", "corpus", "__pycache__")
        shutil.copytree(ROOT / name, world / name, ignore=generated)
    for name in ("asrkit", "tests", "docs", "pyproject.toml", "setup.py"):
        (world / name).symlink_to(ROOT / name)
    programs = world / ".venv" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(ROOT / ".venv" / ".asrkit-installed", world / ".venv")
    (programs / "python").symlink_to(sys.executable)
    shim = programs / "asrkit"
    shim.write_text(SHIM.format(python=sys.executable, root=str(ROOT)))
    shim.chmod(0o755)
    small_an4(world / "egs" / "an4" / "corpus")
    swb300(world / "SWB")
    mini_librispeech(world / "LIBRI" / "LibriSpeech")
    speech = world / "my_corpus"
    speech.mkdir()
    texts = []
    for n, u in enumerate(Clips().take(36)):
        assert u.audio is not None
        shutil.copy(u.audio, speech / f"{n:02}.ogg")
        texts.append(f"{n:02} {u.text}")
    write(speech / "text", texts)
    write(speech / "utt2spk", [f"{n:02} s{n % 6}" for n in range(36)])
    shutil.copytree(speech, world / "my_speech", ignore=shutil.ignore_patterns("text"))
    for name in ("my.wav", "question.wav"):
        samples, rate_hz = soundfile.read(speech / "00.ogg")
        soundfile.write(world / name, samples, rate_hz)
    an4 = Path("egs/an4/conf/conformer.yaml")
    write(world / "my.yaml", [f"include: [{an4}]"])
    tiny = OmegaConf.to_yaml(OmegaConf.from_dotlist(tiny_settings(ROOT / an4)))
    write(world / "tiny.yaml", [f"include: [{an4}]", tiny])
    sentences = ["THE CAT SAT ON THE MAT", "ONE TWO THREE FOUR FIVE", "GO TO SLEEP"] * 20
    with gzip.open(world / "novels.txt.gz", "wt") as file:
        file.write("\n".join(sentences))
    write(world / "dev.txt", sentences[:10])
    write(world / "known.txt", ["I live in Rome", "I like cats"])
    passages = [{"id": str(n), "text": text} for n, text in enumerate(["Trains go to Rome", "Cats sleep", "Rain"])]
    write(world / "passages.jsonl", [json.dumps(passage) for passage in passages])


def small_an4(folder: Path, train: int = 60, dev: int = 16, test: int = 16) -> None:
    """A few utterances of AN4: of train, of the dev speakers, and of test, with all of one speaker."""
    etc = folder / "etc"
    etc.mkdir(parents=True)
    for split in ("train", "test"):
        ids = [line for line in utf8_lines(AN4 / "etc" / f"an4_{split}.fileids") if line.strip()]
        last = sorted({name.split("-")[1] for name in ids})[-8:]
        if split == "train":
            held = [name for name in ids if name.split("-")[1] in last]
            chosen = [name for name in ids if name.split("-")[1] not in last][:train] + held[:: len(held) // dev]
        else:
            chosen = list(dict.fromkeys([*(name for name in ids if "/fcaw/" in name), *ids[:test]]))
        write(etc / f"an4_{split}.fileids", chosen)
        names = {name.split("/")[-1] for name in chosen}
        lines = utf8_lines(AN4 / "etc" / f"an4_{split}.transcription")
        write(etc / f"an4_{split}.transcription", [line for line in lines if line.split("(")[-1].strip(") ") in names])
        for name in chosen:
            target = folder / "wav" / f"{name}.ogg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(AN4 / "wav" / f"{name}.ogg", target)


def mini_librispeech(root: Path) -> None:
    """Ten speakers of train-clean-5, two of dev-clean-2 and test-clean each."""
    clips = Clips()
    for part, first, number in (("train-clean-5", 100, 10), ("dev-clean-2", 200, 2), ("test-clean", 300, 2)):
        for speaker in map(str, range(first, first + number)):
            librispeech_speaker(root / part, speaker, clips.take(4))


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block, without the commands that are not run."""
    path = ROOT / page if page.endswith(".md") else ROOT / "docs" / f"{page}.md"
    run = []
    for language, text in re.findall(r"^```(sh|python)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        kept = [
            line for line in text.splitlines() if line.split("#")[0].split()[:1] not in [[name] for name in NOT_RUN]
        ]
        if any(kept):
            run.append((language, "\n".join(kept)))
    return run


def with_files(text: str, replaced: Mapping[str, str]) -> str:
    """A block with the reader's file names replaced by files of the copy."""
    for name, file in replaced.items():
        text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?!\w)", file, text)
    return text


def run(world: Path, language: str, text: str) -> None:
    """Runs a block; exits with what it printed if it fails."""
    environment = os.environ | {"PATH": f"{world}/.venv/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    started = time.monotonic()
    done = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=900)
    print(f"  {time.monotonic() - started:5.1f} s  {text.splitlines()[0][:100]}", flush=True)
    if done.returncode:
        raise SystemExit(f"{text}\nfailed with status {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def main() -> None:
    """Runs the blocks of all pages, or of those that are named."""
    with tempfile.TemporaryDirectory() as name:
        world = Path(name)
        make_world(world)
        for page in sys.argv[1:] or PAGES:
            print(page, flush=True)
            for text in FIRST.get(page, []):
                run(world, "sh", text)
            for language, text in blocks(page):
                run(world, language, with_files(text, REPLACED.get(page, {})))


if __name__ == "__main__":
    main()
