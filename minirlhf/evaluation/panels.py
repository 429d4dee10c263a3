"""What a report shows beside its table: wins, best-of-n, calibration, chosen samples, curves.

Pure functions of the items to plain dicts, which `html/page.py` draws. Proved by tests/evaluation/test_panels.py.
"""

from pathlib import Path

import numpy as np

from minirlhf.evaluation.metric import View, per_unit, ratio
from minirlhf.harness.files import UserError, misfit
from minirlhf.harness.folders import read_log
from minirlhf.metrics.calibration import ece_if_calibrated, expected_calibration_error, reliability_bins
from minirlhf.metrics.paired_tests import win_rate
from minirlhf.metrics.scores import best_of_n_kl_bound
from minirlhf.rl.optimum import best_of_table

CURVES = "loss validation_loss reward held_out gold kl share entropy explained_variance ended length".split()
POINTS = 150  # of a curve
DOTS = 300  # of a scatter plot


def rewards_by_prompt(view: View) -> dict[str, np.ndarray]:
    """model -> (n units,): the mean reward of each unit's samples. Empty without a reward."""
    if "reward" not in next(iter(view.sampled.values()))[0]["scores"]:
        return {}
    sums = per_unit(view.sampled, view.unit, lambda x: (x["scores"]["reward"], 1))
    return {model: ratio(s) for model, s in sums.items()}


def win_panel(view: View, reference: str, policy: str) -> dict | None:
    """On how many prompts the policy's mean reward is above the reference's, with the win rate."""
    if not (rewards := rewards_by_prompt(view)):
        return None
    d = rewards[policy] - rewards[reference]
    return win_rate(int((d > 1e-9).sum()), int((abs(d) <= 1e-9).sum()), int((d < -1e-9).sum()))


def best_of_curve(best: dict[str, float]) -> list[dict]:
    """The reward of best-of-n of the reference over its KL, at most ln n − (n − 1)/n. best: n -> expected reward."""
    return [{"n": int(n), "kl_bound": best_of_n_kl_bound(int(n)), "reward": r} for n, r in best.items()]


def best_of_reference(view: View, reference: str) -> dict[str, float]:
    """Expected best reward of n samples of the reference, over all its samples."""
    rewards = np.array([x["scores"]["reward"] for x in view.sampled[reference]])
    return best_of_table(rewards, np.ones(len(rewards)))


def length_panel(view: View) -> dict | None:
    """Length and reward of some sampled responses of each model, evenly taken, and their correlation over all."""
    if not rewards_by_prompt(view):
        return None
    out = {}
    for model, items in view.sampled.items():
        pairs = np.array([[x["tokens"], x["scores"]["reward"]] for x in items], dtype=float)  # (N, 2)
        varies = len(pairs) > 1 and pairs.std(0).all()
        shown = pairs[np.linspace(0, len(pairs) - 1, min(DOTS, len(pairs))).astype(int)]
        out[model] = {"points": shown.tolist(), "correlation": float(np.corrcoef(pairs.T)[0, 1]) if varies else None}
    return out


def calibration_panel(texts: dict[str, list[dict]], seed: int) -> dict[str, dict]:
    """model -> ECE of its next-token confidence, what a calibrated model would show, and the bins."""
    out = {}
    for model, items in texts.items():
        confidence, correct = (np.concatenate([x[key] for x in items]) for key in ("confidence", "correct"))
        if not len(confidence):
            continue
        expected = float(ece_if_calibrated(confidence, n_simulations=200, seed=seed).mean())
        out[model] = {
            "ece": expected_calibration_error(confidence, correct), "expected": expected, "n": len(confidence),
            "bins": reliability_bins(confidence, correct),
        }  # fmt: skip
    return out


def choose_examples(view: View, reference: str, policy: str, seed: int) -> dict[str, int]:
    """rule -> prompt, by the policy's mean reward (or KL) less the reference's: best, median, worst; and random."""
    n = len(view.records)
    each = np.arange(n)  # prompts, whatever their unit
    value = (lambda x: x["scores"]["reward"]) if rewards_by_prompt(view) else (lambda x: x["kl"])
    sums = per_unit({m: view.sampled[m] for m in {reference, policy}}, each, lambda x: (value(x), 1))
    gain = ratio(sums[policy]) - ratio(sums[reference]) if reference != policy else ratio(sums[policy])
    order = np.argsort(gain, kind="stable")
    ranks = {"best": order[-1], "median": order[n // 2], "worst": order[0]}
    return {rule: int(i) for rule, i in ranks.items()} | {"random": int(np.random.default_rng(seed).integers(n))}


def sample_panel(view: View, chosen: dict[str, int], policy: str) -> list[dict]:
    """The chosen prompts with the first sample of each model, and where the policy moved in its own."""
    first = {m: {x["index"]: x for x in items if x["sample"] == 0} for m, items in view.sampled.items()}
    out = []
    for rule, i in chosen.items():
        said = {m: rows[i] for m, rows in first.items()}
        own = said[policy]
        sample = {"rule": rule, "index": i, "prompt": own["prompt"], "reference": own["reference"]}
        sample["answers"] = {
            m: {"response": x["response"], "stop": x["stop"], "reward": x["scores"].get("reward")}
            for m, x in said.items()
        }
        if "pieces" in own:
            sample["strip"] = {"pieces": own["pieces"], "kl": own["token_kl"], "log_ratio": own["token_log_ratio"]}
        out.append(sample)
    return out


def read_curves(folder: str | Path) -> list[dict]:
    """What training logged of CURVES, in all and by task, thinned to at most POINTS points each; [] without a log."""
    try:
        log = [record for _, record in read_log(Path(folder) / "log.jsonl")]
    except UserError:
        return []  # a model from elsewhere
    logged = sorted({name for x in log for name in x})
    names = [name for curve in CURVES for name in logged if name.partition("/")[0] == curve]
    found = {name: thinned([[x["step"], x[name]] for x in log if all_finite(x.get(name))]) for name in names}
    return [{"name": name, "x": "step", "points": points} for name, points in found.items() if len(points) > 1]


def thinned(rows: list[list[float]], most: int = POINTS) -> list[list[float]]:
    """The rows; of more than `most`, means of so many runs of neighbours."""
    if len(rows) <= most:
        return rows
    return [np.mean(part, axis=0).tolist() for part in np.array_split(np.array(rows, dtype=float), most)]


def all_finite(*values: object) -> bool:
    """Whether all are finite numbers: a log of another program may hold anything."""
    return not any(misfit(x, 0.0) for x in values)
