"""What Li et al. 2024 (arXiv 2402.15607) claim, against the numbers of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from asrkit.studies.claims import Claim, listed, verdict
from asrkit.studies.icl_models import CLASSICAL


def claims(results: dict[str, Any]) -> list[Claim]:
    """Every claim, from the results of :class:`asrkit.studies.icl_experiments.Suite`."""
    return [*_in_domain(results), *_out_of_domain(results), *_mechanism(results), _classical(results)]


def _in_domain(results: dict[str, Any]) -> list[Claim]:
    error = np.array(results["dynamics"]["error"][-1])
    length, trained = results["length"], results["training_length"]
    by_length = np.array(length["in domain 0.8"]).mean(1)
    hinge = np.array(trained["hinge"]).mean(1)
    slope = results["scaling"]["slope"]
    return [
        Claim(
            "Unseen in-domain tasks are learned (theorem 1)",
            f"error {error.mean():.4f} ± {error.std():.4f}",
            verdict(error.mean() < 0.005),
            "training.png",
        ),
        Claim(
            "More contexts in a test prompt, less error (l_ts of order 1/α')",
            "error " + listed(by_length, length["lengths"]),
            verdict(bool((np.diff(by_length) <= 2e-3).all())),
            "length.png",
        ),
        Claim(
            "A training prompt must be long enough (l_tr of order 1/α)",
            "hinge " + listed(hinge, trained["lengths"]),
            verdict(hinge[0] > 2 * hinge[3]),
            "training_length.png",
        ),
        Claim(
            "Iterations grow as α to the -2/3",
            f"slope {slope:.2f} on α from 0.4 to 1",
            verdict(-0.85 < slope < -0.5),
            "scaling.png",
        ),
    ]


def _out_of_domain(results: dict[str, Any]) -> list[Claim]:
    foreign, deep = results["out_of_domain"], results["deep"]
    hinge = {s: float(np.mean(h)) for s, h in zip(foreign["S1"], foreign["hinge"], strict=True)}
    error = np.array(foreign["error"]).mean(1)
    falls, stays = hinge[0.5] > 3 * hinge[1.0], hinge[1.3] < 2 * hinge[1.0]
    deeper = np.array(deep["error"]).mean(1)
    return [
        Claim(
            "Out of domain, S₁ ≥ 1 suffices (theorem 2)",
            f"hinge {hinge[0.5]:.3f} at 0.5, {hinge[1.0]:.3f} at 1, {hinge[1.3]:.3f} at 1.3; error at most "
            f"{error.max():.4f} at every S₁",
            verdict(falls and stays, falls),
            "out_of_domain.png",
        ),
        Claim(
            "The same in a transformer of 3 layers and 2 heads",
            "error " + listed(deeper, deep["S1"]),
            verdict(deeper[0] > 3 * deeper[3], deeper[0] > 1.2 * deeper[3]),
            "deep.png",
        ),
    ]


def _mechanism(results: dict[str, Any]) -> list[Claim]:
    mass, neurons, pruning = results["dynamics"]["attention"], results["neurons"], results["pruning"]
    last = np.array(mass[-1])
    feature, label = neurons["feature_cosine"], neurons["label_cosine"]
    tenth = list(pruning["share"]).index(0.1)
    mean = {which: np.array(pruning[which]).mean(1) for which in ("smallest", "largest")}
    whole, small, large = mean["smallest"][0], mean["smallest"][tenth], mean["largest"][tenth]
    return [
        Claim(
            "Attention concentrates on contexts with the query's pattern (proposition 1)",
            f"{np.mean(mass[0]):.2f} before, {last.mean():.3f} ± {last.std():.3f} after",
            verdict(last.mean() > 0.85),
            "training.png",
        ),
        Claim(
            "Neurons point to the mean pattern and to ±q (proposition 2)",
            f"cosines {feature:.3f} and {label:.3f}",
            verdict(feature > 0.9 and label > 0.95, feature > 0.9 or label > 0.95),
            "neurons.png",
        ),
        Claim(
            "Small rows of W_O can be removed, large ones cannot (theorem 3)",
            f"hinge {whole:.3f} whole, {small:.3f} without the smallest tenth, {large:.3f} without the largest",
            verdict(small <= 1.3 * whole and large > 2 * whole, large > 2 * small),
            "pruning.png",
        ),
    ]


def _classical(results: dict[str, Any]) -> Claim:
    errors = results["classical"]["0.6"]
    ours = errors["in-context learning"]
    wins = sum(mine <= min(errors[name][n] for name in CLASSICAL) for n, mine in enumerate(ours))
    best = min(CLASSICAL, key=lambda name: sum(errors[name]))
    return Claim(
        "In-context learning beats classical learners on the same prompts, α' = 0.6",
        f"least error at {wins} of {len(ours)} lengths (best of the others: {best})",
        verdict(wins == len(ours), wins > 0),
        "classical.png",
    )
