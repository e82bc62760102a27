"""Retrievers with a real encoder and real words, the data set, and the experiment."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from asrkit.cli.main import cli
from asrkit.errors import UserError
from asrkit.retrieval.builder import build_data
from asrkit.retrieval.encoders import SentenceEncoder, load_encoder
from asrkit.retrieval.fine_tuning import FineTuning, contrastive_loss, fine_tune
from asrkit.retrieval.index import VectorIndex, brute_force
from asrkit.retrieval.pcas import System, Weights, retrieve
from asrkit.retrieval.questions import (
    PASSAGES,
    QUESTIONS,
    PassageData,
    Question,
    read_data,
    with_contexts,
    write_data,
)
from asrkit.retrieval.retrievers import Bm25Retriever, DenseRetriever

CORPUS = Path(__file__).resolve().parents[2] / "egs" / "pcas" / "corpus"


@pytest.fixture(scope="module")
def data() -> PassageData:
    return build_data(CORPUS)


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(load_encoder("minilm"))


def test_index_against_brute_force() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(1000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = generator.normal(size=(200, 64)).astype(np.float32)
    expected = brute_force(vectors, queries, 10)
    assert np.array_equal(VectorIndex(vectors).search(queries, 10), expected)
    walked = VectorIndex(vectors, "hnsw").search(queries, 10)
    assert np.mean([set(a) == set(b) for a, b in zip(walked, expected, strict=True)]) >= 0.99


def test_encoder_knows_meanings(encoder: SentenceEncoder) -> None:
    texts = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > cosine[0, 2] + 0.2
    assert np.array_equal(encoder.encode(texts[::-1]), vectors[::-1])


def test_no_such_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sentence encoder"):
        load_encoder(str(tmp_path / "absent"))


def test_bm25_by_hand() -> None:
    """The formula of Lucene's BM25 on three passages."""
    passages = ["red apple pie", "green apple", "blue sky over green hills"]
    retriever = Bm25Retriever(passages, k1=0.9, b=0.4)
    mean_length, documents = 10 / 3, 3

    def expected(word: str, passage: str) -> float:
        words = passage.split()
        containing = sum(word in p.split() for p in passages)
        idf = np.log(1 + (documents - containing + 0.5) / (containing + 0.5))
        count = words.count(word)
        return float(idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(words) / mean_length)))

    scores = retriever.score(["apple", "green apple", "nothing known"], np.arange(3))
    assert scores[0] == pytest.approx([expected("apple", p) for p in passages], rel=1e-5)
    assert scores[1] == pytest.approx([expected("apple", p) + expected("green", p) for p in passages], rel=1e-5)
    assert scores[2].tolist() == [0, 0, 0]
    assert (
        retriever.search(["green apple"], 3).tolist() == [[1, 0, 2]] or retriever.search(["green apple"], 3)[0][0] == 1
    )
    assert retriever.similarity("red pie", ["a green hill", "a red car"]).argmax() == 1


def test_data_set(data: PassageData) -> None:
    assert (len(data.passages), len(data.split("train")), len(data.split("test"))) == (480, 960, 480)
    train = {data.ids[q.passage].split("-")[0] for q in data.split("train")}
    assert not train & {data.ids[q.passage].split("-")[0] for q in data.split("test")}, "intents overlap"
    places = Counter(q.context for q in data.questions)
    assert min(places.values()) > 0.6 * len(data.questions) / 20, "the pertinent context's place must not tell"
    assert build_data(CORPUS) == data
    assert all(len(q.contexts) == len(set(q.contexts)) == 20 for q in data.questions)
    with pytest.raises(UserError, match="ask for fewer"):
        build_data(CORPUS, contexts=40)


def test_choosing_contexts_keeps_the_pertinent_one(data: PassageData) -> None:
    generator = torch.Generator().manual_seed(0)
    places: Counter[int | None] = Counter()
    for question in data.questions[:500]:
        fewer = with_contexts(question, 5, generator)
        assert fewer.context is not None and question.context is not None
        assert fewer.contexts[fewer.context] == question.contexts[question.context]
        assert len(set(fewer.contexts)) == 5 and set(fewer.contexts) <= set(question.contexts)
        places[fewer.context] += 1
    assert min(places.values()) > 70
    with pytest.raises(ValueError, match="has 20 contexts"):
        with_contexts(data.questions[0], 21, generator)


def test_files_and_their_errors(tmp_path: Path) -> None:
    small = PassageData(
        ("a", "b"), ("one", "two"), (Question("q", ("c", "d"), 1, 0), Question("r", (), 0, None, "train"))
    )
    write_data(small, tmp_path)
    assert read_data(tmp_path) == small
    good = {"query": "q", "contexts": ["c"], "passage": "a"}
    for line, message in (
        ("{", "not valid JSON"),
        (json.dumps({"query": "q", "passage": "a"}), "'contexts' is missing"),
        (json.dumps(good | {"passage": "z"}), "no passage has the id 'z'"),
        (json.dumps(good | {"context": 1}), "it must be null or from 0 to 0"),
        (json.dumps(good | {"split": "dev"}), "choose train or test"),
        (json.dumps(good | {"query": " "}), "not empty"),
        (json.dumps(good | {"contexts": [""]}), "none of them empty"),
        ("", "is empty"),
    ):
        (tmp_path / QUESTIONS).write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            read_data(tmp_path)
    (tmp_path / PASSAGES).write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    with pytest.raises(UserError, match="is there twice"):
        read_data(tmp_path)


def test_context_helps_with_a_real_encoder(data: PassageData, encoder: SentenceEncoder) -> None:
    """The gates of the data set: without contexts the query does not tell which passage, with the right one it does."""
    generator = torch.Generator().manual_seed(1)
    questions = [with_contexts(q, 5, generator) for q in data.split("test")[::6]]
    retriever = DenseRetriever(data.passages, encoder)

    def right(system: System) -> float:
        answers = retrieve(retriever, questions, system)
        return float(np.mean([a.passages[0] == q.passage for a, q in zip(answers, questions, strict=True)]))

    joint = Weights(joint=1.0)
    query, oracle = right(System(Weights(query=1.0), contexts="none")), right(System(joint, contexts="gold"))
    assert query < 0.5 * oracle
    assert query < right(System(joint)) <= oracle


def test_contrastive_loss() -> None:
    torch.manual_seed(0)
    queries, passages = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True).unbind(0)
    gold = torch.tensor([4, 9, 4])
    loss = contrastive_loss(queries, passages, gold, 0.5)
    scores = (queries @ passages.T / 0.5).exp().detach()
    kept = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])  # the same passage is no negative of itself
    rows = -(scores.diag() / (scores * kept).sum(1)).log().mean()
    columns = -(scores.diag() / (scores * kept).sum(0)).log().mean()
    assert loss.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda q, p: contrastive_loss(q, p, gold, 0.5),
        (queries.detach().requires_grad_(), passages.detach().requires_grad_()),
    )


def test_fine_tuning_learns(data: PassageData) -> None:
    model = load_encoder("minilm")
    questions = data.split("train")[:64]
    texts = [f"{q.query} {q.contexts[q.context or 0]}" for q in questions]
    gold = torch.tensor([q.passage for q in questions])

    def loss() -> float:
        encoder = SentenceEncoder(model)
        asked, found = encoder.encode(texts), encoder.encode([data.passages[q.passage] for q in questions])
        return contrastive_loss(torch.from_numpy(asked), torch.from_numpy(found), gold, 0.05).item()

    before = loss()
    fine_tune(model, data, questions, FineTuning(epochs=2, batch_size=16), " ")
    assert loss() < 0.7 * before


def test_commands(tmp_path: Path, data: PassageData) -> None:
    """The experiment and the interactive search, on a few of the recipe's questions."""
    few = PassageData(data.ids[:48], data.passages[:48], tuple(q for q in data.questions if q.passage < 48)[:60:2])
    write_data(few, tmp_path / "data")
    arguments = [
        "pcas",
        "--data-dir",
        str(tmp_path / "data"),
        "--out-dir",
        str(tmp_path / "out"),
        "context_counts=[3]",
        "draws=2",
        "retrievers.MiniLM fine-tuned.fine_tune=false",
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "reconstruction" in page and "PCAS, with another user's contexts" in page
    assert (tmp_path / "out" / "recall.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    ranks = np.array(found["retrievers"]["MiniLM"]["systems"]["PCAS"]["3"]["ranks"])
    assert ranks.shape == (2, found["questions"])  # by draw and question
    (tmp_path / "known.txt").write_text("I moved to Lyon last spring.\n\nI only eat plants.\n")
    result = CliRunner().invoke(
        cli,
        [
            "retrieve",
            "--passages",
            str(tmp_path / "data" / PASSAGES),
            "--contexts",
            str(tmp_path / "known.txt"),
            "--query",
            "How do I renew my passport?",
            "--json",
        ],
        catch_exceptions=False,
    )
    answer = json.loads(result.output)
    assert answer["context"] == "I moved to Lyon last spring."
    assert "passport" in answer["passages"][0]["text"].lower()
    with pytest.raises(UserError, match="no system 'PACS'"):
        CliRunner().invoke(
            cli, ["retrieve", "--passages", "x", "--query", "y", "--system", "PACS"], catch_exceptions=False
        )
    with pytest.raises(UserError, match=r"systems\.PCAS\.aggregate is 'sum'"):
        CliRunner().invoke(
            cli, ["retrieve", "--passages", "x", "--query", "y", "systems.PCAS.aggregate=sum"], catch_exceptions=False
        )
