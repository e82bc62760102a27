"""What Li et al. 2025 (arXiv 2410.02167) claim, against the numbers of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from asrkit.studies.claims import Claim, listed, verdict

NAMES = {"alpha": "more examples like the query (α')", "tau": "a more probable right path (τ)", "rho": "primacy (ρ)"}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Every claim, from the results of :class:`asrkit.studies.cot_experiments.Suite`."""
    return [*_training(results), *_curves(results), *_condition(results)]


def _training(results: dict[str, Any]) -> list[Claim]:
    dynamics, scaling = results["dynamics"], results["scaling"]
    groups, steps = np.array(dynamics["groups"]).mean(2), dynamics["steps"]
    away = groups[:, 1] + groups[:, 3]
    first = steps[int((away < 0.05).argmax())]
    second = steps[int((groups[:, 0] > 0.8).argmax())] if (groups[:, 0] > 0.8).any() else None
    last = groups[-1]
    return [
        Claim(
            "Attention ends on columns of the query's step and pattern (proposition 1)",
            f"{last[0]:.3f} there, {last[2]:.3f} on other patterns of the step, {last[1] + last[3]:.4f} elsewhere",
            verdict(last[0] > 0.85, last[0] > 0.7),
            "attention.png",
        ),
        Claim(
            "Two stages: the step first, the pattern later",
            f"other steps below 0.05 at iteration {first}, same step and pattern above 0.8 at {second}",
            verdict(second is not None and first < 0.5 * second),
            "attention.png",
        ),
        Claim(
            "Iterations grow as α to between -1 and -2 (theorem 1)",
            f"slope {scaling['slope']:.2f}",
            verdict(-2.1 < scaling["slope"] < -0.9),
            "scaling.png",
        ),
    ]


def _curves(results: dict[str, Any]) -> list[Claim]:
    rows, lengths = [], results["lengths"]
    at = list(lengths).index(10)
    for setting, name in NAMES.items():
        for kind, title in (("chain", "Chain of thought"), ("context", "In-context learning")):
            curves = {key: np.array(values).mean(1) for key, values in results[setting][kind].items()}
            last = [values[at] for values in curves.values()]
            falls = all((np.diff(values) <= 0.01).all() for values in curves.values())
            ordered = bool((np.diff(last) <= 0.01).all())
            theorem = "theorem 2" if kind == "chain" else "theorem 3b"
            rows.append(
                Claim(
                    f"{title}: error falls with examples and with {name} ({theorem})",
                    "at 10 examples " + listed(last, list(map(float, curves))),
                    verdict(falls and ordered, falls or ordered),
                    f"{setting}.png",
                )
            )
    return rows


def _condition(results: dict[str, Any]) -> list[Claim]:
    condition = results["condition"]
    chain = np.array(condition["chain of thought"]).mean(1)
    violated = np.array(condition["in context, condition 1 violated"]).mean(1)
    holds = np.array(condition["in context, condition 1 holds"]).mean(1)
    lengths = condition["lengths"]
    return [
        Claim(
            "Where the right final label is not the most probable one, in-context learning fails however long the "
            "prompt (theorem 3a)",
            "error " + listed(violated, lengths),
            verdict(violated[-1] >= violated[0] - 0.03),
            "condition.png",
        ),
        Claim(
            "There chain of thought still learns",
            "error " + listed(chain, lengths),
            verdict(chain[-1] < 0.5 * chain[0], chain[-1] < chain[0]),
            "condition.png",
        ),
        Claim(
            "Where it is, in-context learning learns",
            "error " + listed(holds, lengths),
            verdict(holds[-1] < 0.02),
            "condition.png",
        ),
    ]
