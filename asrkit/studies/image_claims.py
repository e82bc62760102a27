"""What Cui et al. 2023 (arXiv 2311.12727) claim about soft random sampling, against the numbers of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from asrkit.studies.claims import Claim, listed, verdict

CORE_SETS = ("EL2N", "GraNd")
NEAR, SAME = 0.02, 0.01


def claims(results: dict[str, Any]) -> list[Claim]:
    """Every claim, from the results of :class:`asrkit.studies.image_experiments.Suite`."""
    rates = list(results["rates"])
    mean = {
        method: np.array([_mean(results, method, rate, "accuracy") for rate in rates])
        for method in ("SRS", "RS2", "fixed random", *CORE_SETS, "full, fewer epochs")
    }
    full = _mean(results, "full", 1.0, "accuracy")
    core = np.maximum(*(mean[method] for method in CORE_SETS))
    coverage = results["coverage"]["rates"].values()
    worst = max(abs(m - e) for c in coverage for m, e in zip(c["measured"], c["expected"], strict=True))
    spent = [_mean(results, "SRS", rate, "seconds") / _mean(results, "full", 1.0, "seconds") for rate in rates]
    cost = _mean(results, "EL2N", rates[0], "selection_seconds") / _mean(results, "EL2N", rates[0], "seconds")
    apart = np.abs(mean["SRS"] - mean["RS2"])
    return [
        Claim(
            "Coverage of the data follows the law of collecting coupons",
            f"largest difference {worst:.4f}",
            verdict(worst < 0.006),
            "coverage.png",
        ),
        Claim(
            "Better accuracy than core-set selection at the same number of updates",
            f"SRS {listed(mean['SRS'].tolist(), rates)}; the better of EL2N and GraNd {listed(core.tolist(), rates)}",
            verdict(bool((mean["SRS"] > core).all()), bool((mean["SRS"] > core).any())),
            "rates.png",
        ),
        Claim(
            "Better than a fixed random subset",
            f"fixed {listed(mean['fixed random'].tolist(), rates)}",
            verdict(bool((mean["SRS"] > mean["fixed random"]).all()), bool((mean["SRS"] > mean["fixed random"]).any())),
            "rates.png",
        ),
        Claim(
            "Competitive with all of the data in a part of the time",
            f"at r = {rates[-1]} {mean['SRS'][-1]:.3f} in {spent[-1]:.2f} of the time; all of the data {full:.3f}",
            verdict(mean["SRS"][-1] > full - NEAR, mean["SRS"][-1] > full - 3 * NEAR),
            "rates.png",
        ),
        Claim(
            "Time falls with the rate",
            f"{listed(spent, rates)} of the full run's",
            verdict(
                all(abs(s - r) < 0.1 * r + 0.02 for s, r in zip(spent, rates, strict=True)), spent == sorted(spent)
            ),
            "rates.png",
        ),
        Claim(
            "Selection costs almost nothing, core sets cost passes over the data",
            f"SRS {_mean(results, 'SRS', rates[0], 'selection_seconds'):.4f} s; EL2N and GraNd "
            f"{cost:.1f} times the training at r = {rates[0]}",
            verdict(_mean(results, "SRS", rates[0], "selection_seconds") < 0.1),
            "rates.png",
        ),
        Claim(
            "With or without replacement is nearly the same (RS2)",
            f"differences {listed(apart.tolist(), rates)}",
            verdict(bool((apart <= SAME).all()), bool((apart <= 2 * SAME).all())),
            "samples.png",
        ),
        Claim(
            "Control: all of the data for as many updates, with the schedule shortened",
            f"{listed(mean['full, fewer epochs'].tolist(), rates)}; SRS {listed(mean['SRS'].tolist(), rates)}",
            verdict(bool((mean["SRS"] >= mean["full, fewer epochs"] - SAME).all())),
            "rates.png",
        ),
    ]


def _mean(results: dict[str, Any], method: str, rate: float, what: str) -> float:
    return float(np.mean([r[what] for r in results["runs"] if (r["method"], r["rate"]) == (method, rate)]))
