"""``asrkit retrieve | pcas``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from asrkit.cli.common import PATH
from asrkit.config_files import read_values, typed
from asrkit.console import log
from asrkit.errors import UserError
from asrkit.export.recognizer import Recognizer
from asrkit.retrieval.builder import build_data
from asrkit.retrieval.experiment import make_retriever, run_pcas
from asrkit.retrieval.pcas import retrieve as search_passages
from asrkit.retrieval.questions import QUESTIONS, Question, read_passages, write_data
from asrkit.retrieval.settings import RetrievalSettings
from asrkit.settings import check_values

RECIPE = Path(__file__).resolve().parents[2] / "egs" / "pcas"
CONFIG = click.option(
    "--config", type=PATH, default=RECIPE / "conf" / "pcas.yaml", show_default=True, help="Retrievers and systems."
)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def _settings(config: Path, overrides: tuple[str, ...]) -> RetrievalSettings:
    values, where = read_values(config, overrides)
    settings = typed(values, RetrievalSettings, where)
    check_values(settings, where)
    return settings


@click.command()
@click.option("--out-dir", type=PATH, required=True, help="Where data, numbers, figures and RESULTS.md go.")
@click.option("--data-dir", type=PATH, help="Your own passages.jsonl and questions.jsonl, in place of the recipe's.")
@click.option("--full", is_flag=True, help="Ask each question with five draws of contexts.")
@CONFIG
@OVERRIDES
def pcas(out_dir: Path, data_dir: Path | None, full: bool, config: Path, overrides: tuple[str, ...]) -> None:
    """Compare systems of context-aware passage retrieval."""
    settings = _settings(config, overrides + (("draws=5",) if full else ()))
    if data_dir is None:
        data_dir = out_dir / "data"
        if not (data_dir / QUESTIONS).is_file():
            write_data(build_data(RECIPE / "corpus", max(settings.context_counts), settings.seed), data_dir)
    run_pcas(out_dir, data_dir, settings)
    click.echo(f"{out_dir / 'RESULTS.md'}")


@click.command()
@click.option("--passages", type=PATH, required=True, help='One {"id": ..., "text": ...} per line.')
@click.option("--contexts", type=PATH, help="What is known about the user, one fact per line.")
@click.option("--query", help="Ask this and exit; without it, queries are read from the terminal, one per line.")
@click.option("--audio", type=PATH, help="Ask what is said in this file; --model transcribes it.")
@click.option("--model", type=PATH, help="A recognizer that asrkit export wrote.")
@click.option("--system", default="PCAS", show_default=True, help="One of the configuration's systems.")
@click.option("--retriever", default="MiniLM", show_default=True, help="One of the configuration's retrievers.")
@click.option("--best", default=5, show_default=True, help="Passages to print.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer.")
@CONFIG
@OVERRIDES
def retrieve(
    passages: Path,
    contexts: Path | None,
    query: str | None,
    audio: Path | None,
    model: Path | None,
    system: str,
    retriever: str,
    best: int,
    as_json: bool,
    config: Path,
    overrides: tuple[str, ...],
) -> None:
    """Find the passages that answer a user's queries, and the context that made them the answer."""
    settings = _settings(config, overrides)
    for name, choices, what in ((system, settings.systems, "system"), (retriever, settings.retrievers, "retriever")):
        if name not in choices:
            raise UserError(f"no {what} '{name}' in {config}; choose one of {', '.join(choices)}")
    if (audio is None) != (model is None):
        raise UserError("a spoken query needs both --audio and --model")
    if settings.retrievers[retriever].fine_tune:
        raise UserError(f"retriever '{retriever}' must be trained by asrkit pcas; set its folder as another's encoder")
    ids, texts = read_passages(passages)
    user_contexts = _lines(contexts) if contexts else ()
    searcher = make_retriever(settings.retrievers[retriever], texts)
    how = settings.systems[system]
    if audio is not None and model is not None:
        query = Recognizer(model).transcribe(audio).text
        log(f"transcribed: {query}")
        if not query.strip():
            raise UserError(f"nothing was understood in {audio}; there is nothing to ask")
    for text in [query] if query is not None else _typed_queries():
        question = Question(text, user_contexts)
        (answer,) = search_passages(searcher, [question], how, settings.depth, settings.separator)
        context = None if answer.context is None else user_contexts[answer.context]
        rows = list(zip(answer.passages[:best], np.round(answer.scores[:best], 4).tolist(), strict=True))
        if as_json:
            results = [{"id": ids[p], "text": texts[p], "score": score} for p, score in rows]
            click.echo(json.dumps({"query": text, "context": context, "passages": results}, ensure_ascii=False))
            continue
        click.echo(f"context: {context or '(none)'}")
        for place, (p, score) in enumerate(rows, start=1):
            click.echo(f"{place:3d}. {score:.3f} [{ids[p]}] {texts[p]}")


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return tuple(line for line in lines if line)


def _typed_queries() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            click.echo("query> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
