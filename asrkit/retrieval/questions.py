"""The data of context-aware passage retrieval, queries and known contexts, and its files.

A folder holds ``passages.jsonl``, one ``{"id": ..., "text": ...}`` per line, and ``questions.jsonl``, one
``{"query": ..., "contexts": [...], "passage": <id>, "context": <index or null>, "split": "train" or "test"}`` per line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asrkit.errors import UserError
from asrkit.files import write_text

PASSAGES, QUESTIONS = "passages.jsonl", "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """A query of a user with known contexts."""

    query: str
    contexts: tuple[str, ...] = ()
    passage: int = -1
    """Index of the passage that answers; -1 if unknown."""
    context: int | None = None
    """Index of the pertinent context, if there is one."""
    split: str = "test"


@dataclass(frozen=True)
class PassageData:
    """Passages and the questions about them."""

    ids: tuple[str, ...]
    passages: tuple[str, ...]
    questions: tuple[Question, ...]

    def split(self, name: str) -> list[Question]:
        """The questions of ``train`` or ``test``."""
        return [question for question in self.questions if question.split == name]


def with_contexts(question: Question, count: int, generator: torch.Generator) -> Question:
    """The question with ``count`` of its contexts, including the pertinent one, in random order.

    Raises:
        ValueError: it has fewer.
    """
    if len(question.contexts) < count:
        raise ValueError(f"the question has {len(question.contexts)} contexts, not {count}")
    order = torch.randperm(len(question.contexts), generator=generator).tolist()
    kept = [i for i in order if i != question.context][: count - (question.context is not None)]
    if question.context is not None:
        place = int(torch.randint(count, (1,), generator=generator))
        kept.insert(place, question.context)
    contexts = tuple(question.contexts[i] for i in kept)
    pertinent = None if question.context is None else kept.index(question.context)
    return Question(question.query, contexts, question.passage, pertinent, question.split)


def with_others_contexts(questions: Sequence[Question]) -> list[Question]:
    """The control: each query with the contexts of another question, far from it in the list."""
    half = len(questions) // 2
    others = [*questions[half:], *questions[:half]]
    return [
        Question(question.query, other.contexts, question.passage, other.context, question.split)
        for question, other in zip(questions, others, strict=True)
    ]


def write_data(data: PassageData, folder: Path) -> None:
    """Writes both files."""
    passages = [{"id": i, "text": text} for i, text in zip(data.ids, data.passages, strict=True)]
    questions = [
        {
            "query": q.query,
            "contexts": q.contexts,
            "passage": data.ids[q.passage],
            "context": q.context,
            "split": q.split,
        }
        for q in data.questions
    ]
    for name, lines in ((PASSAGES, passages), (QUESTIONS, questions)):
        write_text(folder / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_passages(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and texts of a ``passages.jsonl``.

    Raises:
        UserError: as :func:`read_data`.
    """
    lines = _read_lines(path, ("id", "text"))
    ids = tuple(str(line["id"]) for _, line in lines)
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"{path}: the id '{twice}' is there twice; give each passage its own")
    return ids, tuple(_text(path, number, line, "text") for number, line in lines)


def read_data(folder: Path) -> PassageData:
    """Reads both files.

    Raises:
        UserError: a file is missing or empty, a line is not JSON or lacks a key, a text is empty, or a question names a
            missing passage or context.
    """
    ids, passages = read_passages(folder / PASSAGES)
    places = {name: i for i, name in enumerate(ids)}
    path = folder / QUESTIONS
    questions = []
    for number, line in _read_lines(path, ("query", "contexts", "passage")):
        where = f"{path} line {number}"
        contexts, pertinent = line["contexts"], line.get("context")
        if not isinstance(contexts, list) or not all(isinstance(c, str) and c.strip() for c in contexts):
            raise UserError(f"{where}: contexts must be a list of texts, none of them empty")
        if str(line["passage"]) not in places:
            raise UserError(f"{where}: no passage has the id '{line['passage']}' in {folder / PASSAGES}")
        if pertinent is not None and (type(pertinent) is not int or not 0 <= pertinent < len(contexts)):
            raise UserError(f"{where}: context is {pertinent}; it must be null or from 0 to {len(contexts) - 1}")
        split = line.get("split", "test")
        if split not in ("train", "test"):
            raise UserError(f"{where}: split is '{split}'; choose train or test")
        query = _text(path, number, line, "query")
        questions.append(Question(query, tuple(contexts), places[str(line["passage"])], pertinent, split))
    return PassageData(ids, passages, tuple(questions))


def _read_lines(path: Path, keys: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"no file at {path}; see {__name__} for what it holds")
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not valid JSON: {error.msg}") from error
        missing = [key for key in keys if not isinstance(line, dict) or key not in line]
        if missing:
            raise UserError(f"{path} line {number}: the key '{missing[0]}' is missing")
        rows.append((number, line))
    if not rows:
        raise UserError(f"{path} is empty; write one JSON object a line")
    return rows


def _text(path: Path, number: int, line: dict[str, Any], key: str) -> str:
    value = line[key]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{path} line {number}: {key} must be a text that is not empty")
    return value
