"""A data set for context-aware retrieval: what is asked × what is true of the user.

An intent's passages differ in one attribute of the user (where they live, what they eat, ...), which the query never
states and one of the user's contexts does, worded differently from the passages. The user's other contexts are about
other attributes. Test and training questions share no intents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from asrkit.errors import UserError
from asrkit.randomness import seeded_generator
from asrkit.retrieval.questions import PassageData, Question

ATTRIBUTES, INTENTS = "attributes.yaml", "intents.yaml"
TEST_SHARE = 3
"""Every third intent of an attribute is a test intent."""


def build_data(corpus_dir: Path, contexts: int = 20, seed: int = 1) -> PassageData:
    """Composes passages and questions.

    Args:
        corpus_dir: with ``attributes.yaml`` (kinds of attributes, their values, how passages name such people and what
            they say about themselves) and ``intents.yaml`` (the kind that matters, queries, passages).
        contexts: per user.
        seed: for the numbers, phrasings and contexts.

    Raises:
        UserError: a file is missing or not of this form.
    """
    generator = seeded_generator(seed)
    attributes, intents = _read(corpus_dir / ATTRIBUTES), _read(corpus_dir / INTENTS)
    ids, passages, questions = [], [], []
    of_kind: dict[str, int] = {}
    try:
        for number, intent in enumerate(intents):
            kind = intent["of"]
            of_kind[kind] = of_kind.get(kind, 0) + 1
            split = "test" if of_kind[kind] % TEST_SHARE == 0 else "train"
            for place, value in enumerate(attributes[kind]):
                template, who = _pick(intent["passages"], generator), _pick(value["who"], generator)
                text = template.format(who=who, n=int(torch.randint(2, 99, (1,), generator=generator)))
                ids.append(f"{number:02d}-{kind}-{place}")
                passages.append(text[0].upper() + text[1:])
                for query in intent["queries"]:
                    said = _user(attributes, kind, contexts - 1, generator)
                    pertinent = int(torch.randint(contexts, (1,), generator=generator))
                    said.insert(pertinent, _pick(value["says"], generator))
                    questions.append(Question(query, tuple(said), len(passages) - 1, pertinent, split))
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{corpus_dir}: {INTENTS} and {ATTRIBUTES} do not fit together: {error!r}") from error
    return PassageData(tuple(ids), tuple(passages), tuple(questions))


def _user(attributes: dict[str, Any], pertinent_kind: str, count: int, generator: torch.Generator) -> list[str]:
    """What a random user says about attributes other than the one that matters."""
    said = [
        text
        for kind, values in attributes.items()
        if kind != pertinent_kind
        for text in _pick(values, generator)["says"]
    ]
    if len(said) < count:
        raise UserError(f"the corpus has {len(said)} other contexts for a user, not {count}; ask for fewer")
    order = torch.randperm(len(said), generator=generator).tolist()
    return [said[i] for i in order[:count]]


def _pick(items: Any, generator: torch.Generator) -> Any:
    return items[int(torch.randint(len(items), (1,), generator=generator))]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
