"""Comparing the systems of :mod:`asrkit.retrieval.pcas`: tables, figures, claims."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrkit.console import log, progress_bar
from asrkit.errors import UserError
from asrkit.figures import figure
from asrkit.files import write_text
from asrkit.randomness import seeded_generator
from asrkit.retrieval.encoders import SentenceEncoder, load_encoder
from asrkit.retrieval.fine_tuning import fine_tune
from asrkit.retrieval.metrics import (
    bootstrap_mean,
    discounted_gains,
    gold_rank,
    recall_at,
    reciprocal_ranks,
)
from asrkit.retrieval.pcas import Retrieved, System, retrieve
from asrkit.retrieval.questions import PassageData, Question, read_data, with_contexts, with_others_contexts
from asrkit.retrieval.retrievers import Bm25Retriever, DenseRetriever, Retriever
from asrkit.retrieval.settings import RetrievalSettings, RetrieverSettings
from asrkit.studies.claims import Claim, results_page, verdict
from asrkit.studies.suite import run_once

PCAS, ORACLE, QUERY_ONLY = "PCAS", "oracle", "query only"
BASELINES = (QUERY_ONLY, "all contexts joined", "random context", "pipeline")


def make_retriever(settings: RetrieverSettings, passages: Sequence[str], model: Any = None) -> Retriever:
    """A retriever over passages.

    Args:
        settings: its settings.
        passages: texts.
        model: its encoder, if fine-tuned; loaded if None.
    """
    if settings.type == "bm25":
        return Bm25Retriever(passages, settings.k1, settings.b)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = SentenceEncoder(model or load_encoder(settings.encoder, device), settings.normalize)
    passage_encoder = None
    if settings.passage_encoder:
        passage_encoder = SentenceEncoder(load_encoder(settings.passage_encoder, device), settings.normalize)
    return DenseRetriever(passages, encoder, passage_encoder, settings.index)


def run_pcas(out_dir: Path, data_dir: Path, settings: RetrievalSettings) -> dict[str, Any]:
    """Runs the experiment on a folder's data, or reads the results of an earlier run.

    Args:
        out_dir: folder of results.json, RESULTS.md and the figures.
        data_dir: folder of passages.jsonl and questions.jsonl.
        settings: retrievers, systems and the experiment.
    """
    return run_once(out_dir, settings, str(data_dir.resolve()), lambda: _run(out_dir, read_data(data_dir), settings))


def _run(out_dir: Path, data: PassageData, settings: RetrievalSettings) -> dict[str, Any]:
    test = data.split("test")
    most = min(len(question.contexts) for question in test)
    counts = [count for count in settings.context_counts if count <= most] or [most]
    table_count = settings.table_count if settings.table_count in counts else counts[-1]
    by_count = {count: _draws(test, count, settings) for count in counts}
    results: dict[str, Any] = {
        "passages": len(data.passages),
        "questions": len(test),
        "counts": counts,
        "table_count": table_count,
        "systems": {name: asdict(system) for name, system in settings.systems.items()},
        "retrievers": {},
    }
    for name, retriever_settings in settings.retrievers.items():
        model: Any = None
        if retriever_settings.fine_tune:
            model = _trained(retriever_settings, data, settings, out_dir / "encoder")
        retriever = make_retriever(retriever_settings, data.passages, model)
        measured: dict[str, Any] = {"systems": {}, "control": {}}
        with progress_bar(name, len(counts) * len(settings.systems)) as bar:
            for count in counts:
                for system_name, system in settings.systems.items():
                    ranked = measure(retriever, by_count[count], system, settings)
                    measured["systems"].setdefault(system_name, {})[str(count)] = ranked
                    bar.advance(f"{count} contexts: {system_name}")
        others = [with_others_contexts(questions) for questions in by_count[table_count]]
        for system_name in (QUERY_ONLY, PCAS):
            if system_name in settings.systems:
                measured["control"][system_name] = measure(retriever, others, settings.systems[system_name], settings)
        results["retrievers"][name] = measured
        log(
            f"pcas: {name}: "
            + ", ".join(
                f"{system} {recall_at(values[str(table_count)]['ranks'], 1).mean():.3f}"
                for system, values in measured["systems"].items()
            )
        )
    _draw(out_dir, results)
    claims = _claims(results)
    title = "Personalized context-aware search"
    source = (
        f"After Wan et al. 2023 (arXiv 2308.13760). Written by `egs/pcas/run.sh`: {results['questions']} test "
        f"questions, asked {settings.draws} time(s), over {results['passages']} passages; 95 % bootstrap intervals "
        "over questions. **The scoring rules are a reconstruction**: the paper's rule, data and numbers are not "
        "public, and none of the numbers here is to be compared with them. A passage tied with the right one counts "
        "as before it."
    )
    write_text(out_dir / "RESULTS.md", results_page(title, source, claims, _tables(results)))
    return results


def _trained(
    retriever_settings: RetrieverSettings, data: PassageData, settings: RetrievalSettings, folder: Path
) -> Any:
    """The retriever's encoder, fine-tuned on the training questions and kept in ``folder``."""
    train = data.split("train")
    if not any(question.context is not None for question in train):
        raise UserError("fine_tune needs questions of the split train with a pertinent context; the data has none")
    model = load_encoder(retriever_settings.encoder, "cuda" if torch.cuda.is_available() else "cpu")
    fine_tune(model, data, train, settings.fine_tuning, settings.separator)
    model.save_pretrained(str(folder))
    return model


def _draws(test: Sequence[Question], count: int, settings: RetrievalSettings) -> list[list[Question]]:
    """The questions with ``count`` contexts, redrawn ``settings.draws`` times."""
    generator = seeded_generator(settings.seed)
    return [[with_contexts(q, count, generator) for q in test] for _ in range(settings.draws)]


def measure(
    retriever: Retriever, draws: Sequence[Sequence[Question]], system: System, settings: RetrievalSettings
) -> dict[str, Any]:
    """Ranks of the correct passages, correctness of the contexts, and seconds (including encoding new texts).

    Args:
        retriever: over the passages.
        draws: the questions, once or more, with different contexts.
        system: to measure.
        settings: depth and separator.

    Returns:
        ``ranks`` and ``context`` by draw and question; ``context`` is None if the system names none.
    """
    start = time.perf_counter()
    answers = [retrieve(retriever, questions, system, settings.depth, settings.separator) for questions in draws]
    seconds = time.perf_counter() - start
    pairs = [list(zip(retrieved, questions, strict=True)) for retrieved, questions in zip(answers, draws, strict=True)]
    named = [[float(a.context == q.context) for a, q in draw] for draw in pairs] if system.names_context else None
    return {"ranks": [[_rank(a, q) for a, q in draw] for draw in pairs], "context": named, "seconds": seconds}


def _rank(answer: Retrieved, question: Question) -> float:
    rank = gold_rank(answer.passages, answer.scores, question.passage)
    return rank if np.isfinite(rank) else 1e9  # JSON has no infinity


def _tables(results: dict[str, Any]) -> list[str]:
    lines = []
    count = str(results["table_count"])
    for name, measured in results["retrievers"].items():
        lines += [
            f"## {name}, {count} contexts a user",
            "",
            "| system | R@1 | R@5 | R@10 | R@20 | MRR@10 | nDCG@10 | context right |",
            "|---" * 8 + "|",
        ]
        for system, values in measured["systems"].items():
            lines.append(_row(system, values[count]))
        for system, values in measured["control"].items():
            lines.append(_row(f"{system}, with another user's contexts", values))
        lines.append("")
    return lines


def _row(name: str, values: dict[str, Any]) -> str:
    ranks = np.array(values["ranks"])  # by draw and question: intervals are over questions
    first = bootstrap_mean(recall_at(ranks, 1).mean(axis=0))
    recalls = " | ".join(f"{recall_at(ranks, k).mean():.3f}" for k in (5, 10, 20))
    context = "–" if values["context"] is None else str(bootstrap_mean(np.mean(values["context"], axis=0)))
    return (
        f"| {name} | {first} | {recalls} | {reciprocal_ranks(ranks, 10).mean():.3f} | "
        f"{discounted_gains(ranks).mean():.3f} | {context} |"
    )


def _reciprocal(values: dict[str, Any]) -> np.ndarray:
    """MRR@10's terms, one per question."""
    return np.asarray(reciprocal_ranks(values["ranks"], 10).mean(axis=0))


def _claims(results: dict[str, Any]) -> list[Claim]:
    key, count = str(results["table_count"]), results["table_count"]
    claims = []
    for name, values in results["retrievers"].items():
        systems = values["systems"]
        baselines = [baseline for baseline in BASELINES if baseline in systems]
        if PCAS not in systems or not baselines:
            continue
        reciprocal = {s: _reciprocal(v[key]) for s, v in systems.items()}
        best = max(baselines, key=lambda baseline: reciprocal[baseline].mean())
        gain = bootstrap_mean(reciprocal[PCAS] - reciprocal[best])
        claims.append(
            Claim(
                f"PCAS retrieves passages better than the baselines ({name})",
                f"MRR@10 {reciprocal[PCAS].mean():.3f} against {reciprocal[best].mean():.3f} of the best one, "
                f"{best}; difference {gain}",
                verdict(gain.low > 0, gain.mean > 0),
                "recall.png",
            )
        )
        named = bootstrap_mean(np.mean(systems[PCAS][key]["context"], axis=0))
        control = float(np.mean(values["control"][PCAS]["context"]))
        claims.append(
            Claim(
                f"PCAS names the pertinent context ({name})",
                f"right for {named}; chance 1/{count}; {control:.3f} with another user's contexts",
                verdict(named.mean > 0.5, named.low > 1.5 / count),
                "context.png",
            )
        )
    return claims


def _draw(out_dir: Path, results: dict[str, Any]) -> None:
    counts, retrievers = results["counts"], results["retrievers"]
    with figure(out_dir / "recall.png", 1, len(retrievers)) as panels:
        for axes, (name, measured) in zip(panels, retrievers.items(), strict=True):
            _lines(axes, counts, measured["systems"], _reciprocal)
            axes.set(xlabel="contexts of a user", ylabel="MRR@10", ylim=(0, 1), title=name)
        panels[-1].legend(fontsize=6)
    with figure(out_dir / "context.png", 1, len(retrievers)) as panels:
        for axes, (name, measured) in zip(panels, retrievers.items(), strict=True):
            named = {s: v for s, v in measured["systems"].items() if v[str(counts[0])]["context"] is not None}
            _lines(axes, counts, named, lambda values: np.mean(values["context"], axis=0))
            axes.plot(counts, [1 / count for count in counts], "k:", label="chance")
            axes.set(xlabel="contexts of a user", ylabel="pertinent context named", ylim=(0, 1), title=name)
        panels[-1].legend(fontsize=6)


def _lines(axes: Any, counts: Sequence[int], systems: dict[str, Any], values: Any) -> None:
    for system, measured in systems.items():
        intervals = [bootstrap_mean(values(measured[str(count)]), replications=1000) for count in counts]
        style = "--" if system == ORACLE else "-"
        (line,) = axes.plot(counts, [i.mean for i in intervals], style, marker=".", label=system)
        axes.fill_between(
            counts, [i.low for i in intervals], [i.high for i in intervals], color=line.get_color(), alpha=0.12
        )
    axes.set_xticks(counts)
