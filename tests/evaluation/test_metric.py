"""From responses to sums of statistics, one row a unit of analysis; and the share of what can be achieved."""

from math import inf, isnan, nan

import numpy as np
import pytest
import torch

from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import Metric, or_none, per_unit, ratio, units, view_of
from minirlhf.evaluation.optimum import reference_optimum, regret_metrics
from minirlhf.evaluation.questions import turn_records
from minirlhf.metrics.intervals import corpus_interval
from minirlhf.theory.oracle import TokenMDP, kl, objective, optimum, response_logprobs

QA = [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
CONVERSATION = {"messages": [{"role": role, "content": content} for role, content in QA]}


def whole(metrics: list[Metric], name: str) -> dict[str, float]:
    """model -> the metric of all prompts together."""
    (metric,) = [m for m in metrics if m.name == name]
    return {m: float(metric.combine(s.sum(0, keepdims=True))[0]) for m, s in metric.statistics.items()}


# Units


def test_prompts_that_differ_are_a_unit_each():
    assert units([{"prompt": "a"}, {"prompt": "b", "response": "a"}, CONVERSATION]).tolist() == [0, 1, 2]


def test_equal_prompts_are_one_unit_whatever_their_answers():
    """As a prompt or as messages, with an answer or without."""
    asked = [{"prompt": "a", "response": "x"}, {"prompt": "b"}, {"prompt": "a", "response": "y"}]
    asked += [{"messages": [{"role": "user", "content": "a"}]}, CONVERSATION]
    other = CONVERSATION["messages"][:-1] + [{"role": "assistant", "content": "another"}]
    assert units([*asked, {"messages": other}]).tolist() == [0, 1, 0, 0, 2, 2]


def test_the_turns_of_a_conversation_are_one_unit_and_those_of_another_another():
    """Also where the two begin with the same words, and beside prompts of the user's that name their own."""
    other = {"messages": CONVERSATION["messages"] + [{"role": "assistant", "content": "c"}]}
    assert units(turn_records([CONVERSATION, {"prompt": "q"}, other])).tolist() == [0, 0, 1, 2, 2, 2]
    assert units([{"prompt": p, "conversation": [1]} for p in "ab"]).tolist() == [0, 0]


def test_statistics_are_summed_within_each_unit():
    """By the prompt's index, whatever the order of the rows and the number of a unit's prompts."""
    rows = {"m": [{"index": i, "v": v} for i, v in [(2, 10), (0, 1), (1, 5), (0, 2)]]}
    rows["n"] = [{"index": 2, "v": 7}]
    got = per_unit(rows, np.array([0, 1, 0]), lambda x: (x["v"], 1))
    assert got["m"].tolist() == [[13, 3], [5, 1]] and got["n"].tolist() == [[7, 1], [0, 0]]


def test_intervals_of_prompts_that_depend_on_each_other_are_wider():
    """Ten equal answers to one prompt are one observation: the interval is √10 times as wide."""
    x = np.random.default_rng(0).normal(size=30)
    rows = {"m": [{"index": i, "v": x[i // 10]} for i in range(300)]}

    def width(unit: np.ndarray) -> float:
        low, high = corpus_interval(per_unit(rows, unit, lambda r: (r["v"], 1))["m"], ratio)
        return high - low

    together = units([{"prompt": f"p{i // 10}"} for i in range(300)])
    assert width(together) / width(np.arange(300)) == pytest.approx(10**0.5, rel=0.1)


# Views and ratios


def test_a_ratio_is_a_sum_over_a_sum_and_undefined_for_nothing():
    assert ratio(np.array([[3.0, 2.0], [0.0, 5.0]])).tolist() == [1.5, 0.0]
    assert isnan(ratio(np.zeros((1, 2)))[0])


def test_plain_numbers():
    assert [or_none(x) for x in (nan, inf, -inf, 1)] == [None, None, None, 1.0]
    assert type(or_none(np.float64(2))) is float


def test_a_view_tells_greedy_from_sampled():
    rows = [{"index": 0, "sample": k} for k in (-1, 0, 1)]
    view = view_of(TestSet("", [{"prompt": "a"}], {"m": rows}, {"m": []}, {"reward": "merit"}), 9)
    assert view.greedy == {"m": rows[:1]} and view.sampled == {"m": rows[1:]}
    assert (view.unit.tolist(), view.reward, view.vocabulary) == ([0], "merit", 9)


def test_a_mean_is_over_the_samples_unless_other_rows_or_weights_are_given():
    rows = [{"index": i, "sample": k, "v": 10 * i + k, "w": 1 + i} for i in range(2) for k in (-1, 0, 1)]
    view = view_of(TestSet("", [{"prompt": "a"}, {"prompt": "b"}], {"m": rows}))
    value = lambda x: x["v"]
    assert whole([view.mean("x", 1, value)], "x")["m"] == (0 + 1 + 10 + 11) / 4
    assert whole([view.mean("x", 1, value, view.greedy)], "x")["m"] == (-1 + 9) / 2
    weighted = view.mean("x", 1, value, None, lambda x: x["w"])
    assert whole([weighted], "x")["m"] == (0 + 1 + 10 + 11) / (1 + 1 + 2 + 2)


def test_a_value_of_all_samples_of_a_prompt_is_known_or_not():
    rows = {"m": [{"index": i, "sample": 0, "v": v} for i, v in [(0, 1.0), (1, nan), (0, 4.0)]]}
    metric = view_of(TestSet("", [{"prompt": "a"}, {"prompt": "b"}], rows)).mean_of_prompts(
        "x", 1, lambda xs: sum(x["v"] for x in xs)
    )
    assert metric.statistics["m"].tolist() == [[5, 1], [0, 0]]


# What is achievable


MDP = TokenMDP(3, 0, 3, ((1,),), lambda x, y: len(set(y)) / 2 - 0.3 * (2 in y), missing_eos=-0.5)
UNIT = np.arange(40)


def mdp_items(share: float = 0.5, n: int = 4000, prompts: int = 40) -> tuple[dict, list]:
    """Items of a reference, a policy and the optimum for β = 0.3 on the oracle's MDP, and their tables."""
    g = torch.Generator().manual_seed(0)
    tables = [torch.randn(1, len(MDP.prefixes), 3, generator=g, dtype=torch.float64).log_softmax(-1) for _ in "ab"]
    tables.append(optimum(tables[0], MDP, 0.3)[0])
    ref, policy, best = (response_logprobs(table, MDP)[0].numpy() for table in tables)
    rng, items = np.random.default_rng(0), {}
    for name, law, count in (("ref", ref, int(share * n)), ("best", best, n), ("pi", policy, n - int(share * n))):
        chosen = rng.choice(len(law), count, p=np.exp(law) / np.exp(law).sum())
        items[name] = [
            {"index": i % prompts, "sample": i // prompts, "tokens": 3, "scores": {"reward": float(MDP.scores[0][y])},
             "log_ratio": float(policy[y] - ref[y]), "kl": float(law[y] - ref[y])}
            for i, y in enumerate(chosen.tolist())
        ]  # fmt: skip
    return items, tables


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_objective_and_share_equal_the_oracles(share):
    """Of the reference 0, of the optimum 100 %, of a policy between (J − J_ref) / (J* − J_ref)."""
    items, (ref, policy, best) = mdp_items(share, 40_000)
    metrics, known = regret_metrics(items, "ref", "pi", 0.3, UNIT)
    J = {name: float(objective(x, ref, MDP, 0.3)) for name, x in (("ref", ref), ("pi", policy), ("best", best))}
    assert whole(metrics, "J = reward - 0.3 KL") == pytest.approx(J, abs=0.01)
    got = whole(metrics, "share of J* - J(ref), %")
    assert got["ref"] == 0
    assert got["best"] == pytest.approx(100, abs=3)
    assert got["pi"] == pytest.approx(100 * (J["pi"] - J["ref"]) / (J["best"] - J["ref"]), abs=6)
    assert known["low"] < known["value"] < known["high"]
    assert known["value"] == pytest.approx(J["best"], abs=0.01)
    assert J["best"] - J["pi"] == pytest.approx(0.3 * float(kl(policy, best, MDP)), abs=1e-9)


def test_the_share_is_left_out_on_few_effective_samples():
    """With a small β all rests on the best of them."""
    items, _ = mdp_items(n=400)
    assert regret_metrics(items, "ref", "pi", 0.3, UNIT)[1]["value"] is not None
    metrics, known = regret_metrics(items, "ref", "pi", 1e-3, UNIT)
    assert known["value"] is None and known["effective_size"] < 200
    assert [m.name for m in metrics] == ["J = reward - 0.001 KL"]


def test_best_of_n_of_the_reference_is_told_whoever_was_sampled():
    """From half as many samples of its own; best-of-1 is its reward, and the policy is worth what it earns."""
    items, (ref, _, _) = mdp_items(n=40_000)
    _, known = regret_metrics(items, "ref", "pi", 0.3, UNIT)
    assert known["best_of"]["1"] == pytest.approx(float(objective(ref, ref, MDP, 0.3)), abs=0.01)
    assert list(known["best_of"].values()) == sorted(known["best_of"].values())
    assert known["tokens"] == {"ref": 3, "pi": 3}
    assert known["reward"] == pytest.approx(np.mean([x["scores"]["reward"] for x in items["pi"]]))


def test_an_optimum_known_from_training_is_taken_instead():
    """Also where the samples at hand could not tell; the share is measured against it."""
    items, _ = mdp_items(n=400)
    known = {"value": 1.5, "low": 1.4, "high": 1.6, "effective_size": 900.0}
    metrics, optimum = regret_metrics(items, "ref", "pi", 1e-3, UNIT, known)
    J = whole(metrics, "J = reward - 0.001 KL")
    share = whole(metrics, "share of J* - J(ref), %")
    assert share["pi"] == pytest.approx(100 * (J["pi"] - J["ref"]) / (1.5 - J["ref"])) and share["ref"] == 0
    assert {k: optimum[k] for k in known} == known and optimum["beta"] == 1e-3
    assert "beta" not in known


def test_where_there_is_nothing_to_gain_the_share_is_undefined():
    """Rewards that are all the same, and one that beats the mean by less than a tenth of a nat of KL costs."""
    items, _ = mdp_items(n=400)
    for rows in items.values():
        for x in rows:
            x["scores"]["reward"] = 0.25 + 1e-3 * (x["index"] == 0)
    metrics, known = regret_metrics(items, "ref", "pi", 0.3, UNIT)
    assert isnan(whole(metrics, "share of J* - J(ref), %")["pi"]) and known["value"] == pytest.approx(0.25, abs=0.01)


def test_the_optimum_from_samples_of_the_reference_alone_is_the_oracles():
    """With an interval around it, and none where a few samples decide."""
    items, (ref, _, _) = mdp_items(0.5, 40_000)
    known = reference_optimum(items["ref"], 0.3, UNIT)
    assert known["value"] == pytest.approx(float(optimum(ref, MDP, 0.3)[2]), abs=0.01)
    assert known["low"] < known["value"] < known["high"] and known["effective_size"] > 200
    few = reference_optimum(items["ref"][:300], 1e-3, UNIT)
    assert few["value"] is None and few["effective_size"] < 200
    metrics, told = regret_metrics(items, "ref", "pi", 1e-3, UNIT, few)  # together with the policy they are enough
    assert told["value"] == pytest.approx(float(optimum(ref, MDP, 1e-3)[2]), abs=0.01) and len(metrics) == 2
    none = {"ref": items["ref"][:90], "pi": items["pi"][:90]}
    metrics, told = regret_metrics(none, "ref", "pi", 1e-3, UNIT, few)
    assert [m.name for m in metrics] == ["J = reward - 0.001 KL"] and told["effective_size"] < 200


def test_the_optimum_is_uncertain_by_units_and_not_by_prompts():
    """Forty prompts of four conversations, which the reward distinguishes."""
    items, _ = mdp_items(n=4000)
    for x in items["ref"]:
        x["scores"]["reward"] += x["index"] % 4

    def width(unit: np.ndarray) -> float:
        known = reference_optimum(items["ref"], 3.0, unit)
        return known["high"] - known["low"]

    assert width(UNIT % 4) > 2 * width(UNIT)
