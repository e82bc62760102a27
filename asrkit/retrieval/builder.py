"""A data set for context-aware retrieval: intents × attributes of the user.

An intent's passages differ in one attribute of the user (where they live, what they eat, ...). The query does not state
it, but one of the user's contexts does, in other words than the passages. The user's other contexts are about other
attributes. Test and training questions have different intents.
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
        corpus_dir: folder of ``attributes.yaml`` (kinds of attributes, their values, how passages name such people and
            what they say about themselves) and ``intents.yaml`` (the pertinent kind, queries, passages).
        contexts: number per user.
        seed: of the numbers, phrasings and contexts.

    Raises:
        UserError: a file is missing or malformed.
    """
    generator = seeded_generator(seed)
    attributes, intents = _read(corpus_dir / ATTRIBUTES), _read(corpus_dir / INTENTS)
    ids, passages, questions = [], [], []
    num_intents: dict[str, int] = {}
    try:
        for number, intent in enumerate(intents):
            kind = intent["of"]
            num_intents[kind] = num_intents.get(kind, 0) + 1
            split = "test" if num_intents[kind] % TEST_SHARE == 0 else "train"
            for place, value in enumerate(attributes[kind]):
                template, person = _pick(intent["passages"], generator), _pick(value["who"], generator)
                text = template.format(who=person, n=int(torch.randint(2, 99, (1,), generator=generator)))
                ids.append(f"{number:02d}-{kind}-{place}")
                passages.append(text[0].upper() + text[1:])
                for query in intent["queries"]:
                    user_contexts = _user(attributes, kind, contexts - 1, generator)
                    pertinent = int(torch.randint(contexts, (1,), generator=generator))
                    user_contexts.insert(pertinent, _pick(value["says"], generator))
                    questions.append(Question(query, tuple(user_contexts), len(passages) - 1, pertinent, split))
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{corpus_dir}: {INTENTS} and {ATTRIBUTES} do not fit together: {error!r}") from error
    return PassageData(tuple(ids), tuple(passages), tuple(questions))


def _user(attributes: dict[str, Any], pertinent_kind: str, count: int, generator: torch.Generator) -> list[str]:
    """The contexts of a random user about attributes other than the pertinent one."""
    contexts = [
        text
        for kind, values in attributes.items()
        if kind != pertinent_kind
        for text in _pick(values, generator)["says"]
    ]
    if len(contexts) < count:
        raise UserError(f"the corpus has {len(contexts)} other contexts for a user, not {count}; ask for fewer")
    order = torch.randperm(len(contexts), generator=generator).tolist()
    return [contexts[i] for i in order[:count]]


def _pick(items: Any, generator: torch.Generator) -> Any:
    return items[int(torch.randint(len(items), (1,), generator=generator))]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
