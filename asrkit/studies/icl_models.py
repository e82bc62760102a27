"""What the one-layer transformer is compared with: a deeper one, and classical learners on the same prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from asrkit.studies.icl import Prompts


class DeepTransformer(nn.Module):
    """A causal transformer with learned positions, 3 layers and 2 heads in the paper, over the prompt's columns."""

    def __init__(self, column_dim: int, width: int = 64, num_layers: int = 3, num_heads: int = 2) -> None:
        super().__init__()
        self.read = nn.Linear(column_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(64, width))
        block = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, 1)

    def forward(self, context: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Columns (B, l, D) and queries (B, D) to outputs (B,)."""
        x = self.read(torch.cat([context, query[:, None]], dim=1))
        x = x + self.positions[-x.shape[1] :]  # the query has the same position for any l
        result: torch.Tensor = self.out(self.blocks(x)[:, -1])[:, 0]
        return result


def train_deep(model: DeepTransformer, draw: Callable[[], Prompts], steps: int, lr: float) -> None:
    """Adam on the hinge loss; ``draw()`` returns prompts of one run."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        prompts = draw()
        loss = torch.relu(1 - prompts.label[0] * model(prompts.context[0], prompts.query[0])).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def deep_error(model: DeepTransformer, prompts: Prompts) -> float:
    """Share of wrong signs over one run's prompts."""
    out = model(prompts.context[0], prompts.query[0])
    return float((torch.sign(out) != prompts.label[0]).float().mean())


CLASSICAL = ("logistic regression", "linear SVM", "Gaussian SVM", "1-NN", "3-NN")


def classical_errors(prompts: Prompts) -> dict[str, float]:
    """Error of learners fitted to each prompt's own contexts, over one run's prompts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    learners = dict(
        zip(
            CLASSICAL,
            (
                lambda: LogisticRegression(max_iter=200),
                lambda: SVC(kernel="linear"),
                lambda: SVC(kernel="rbf"),
                lambda: KNeighborsClassifier(1),
                lambda: KNeighborsClassifier(3),
            ),
            strict=True,
        )
    )
    width = prompts.context.shape[-1] // 2
    wrong = dict.fromkeys(CLASSICAL, 0.0)
    columns, queries = prompts.context[0].numpy(), prompts.query[0, :, :width].numpy()
    labels = prompts.label[0].numpy()
    for context, query, label in zip(columns, queries, labels, strict=True):
        x, y = context[:, :width], context[:, width:].sum(-1)
        for name, make in learners.items():
            if len(set(y.tolist())) == 1:
                answer = y[0]
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a fit that has not converged is used as is
                    answer = make().fit(x, y).predict(query[None])[0]  # type: ignore[no-untyped-call]
            wrong[name] += float(answer != label)
    return {name: number / len(labels) for name, number in wrong.items()}
