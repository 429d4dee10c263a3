"""What a report shows beside its table, against small cases worked out by hand."""

import json
from math import log

import numpy as np
import pytest

from minirlhf.evaluation.items import TestSet
from minirlhf.evaluation.metric import View, view_of
from minirlhf.evaluation.panels import (
    CURVES, DOTS, POINTS, best_of_curve, best_of_reference, calibration_panel, choose_examples, length_panel,
    read_curves, sample_panel, win_panel,
)
from minirlhf.metrics.calibration import expected_calibration_error, reliability_bins
from minirlhf.metrics.paired_tests import win_rate

REF = [[1, 1], [2, 0], [0, 0], [3, 1], [1, 1]]
POLICY = [[2, 1], [0, 2], [0, -1], [9, 9], [1, 2]]  # a win, a tie, a loss, a win, a win


def view(rewards: dict[str, list[list[float]]] | None, records=None, kl=None) -> View:
    """Of each model the rewards of its samples to each prompt (or their KL); a greedy answer earns 99."""
    items = {}
    for model, prompts in (rewards or kl).items():
        items[model] = [
            {"index": i, "sample": k, "prompt": f"p{i}", "reference": f"r{i}", "response": f"{model} {i} {k}",
             "stop": "eos", "tokens": 3 * i + k, "kl": float(x),
             "scores": {"reward": float(x)} if rewards else {}}
            for i, xs in enumerate(prompts) for k, x in enumerate([99, *xs], -1)
        ]  # fmt: skip
    n = 1 + max(x["index"] for rows in items.values() for x in rows)
    return view_of(TestSet("", records or [{"prompt": f"p{i}"} for i in range(n)], items))


# Wins


def test_wins_ties_and_losses_are_counted_by_the_mean_of_a_prompts_samples():
    got, expected = win_panel(view({"sft": REF, "ppo": POLICY}), "sft", "ppo"), win_rate(3, 1, 1)
    assert (got["wins"], got["ties"], got["losses"]) == (3, 1, 1) and got["rate"] == 0.7
    assert got == expected


def test_the_reference_wins_what_the_policy_loses():
    got = win_panel(view({"sft": REF, "ppo": POLICY}), "ppo", "sft")
    assert (got["wins"], got["ties"], got["losses"]) == (1, 1, 3)


def test_means_that_differ_by_rounding_alone_are_a_tie():
    got = win_panel(view({"a": [[0.1, 0.2]], "b": [[0.3, 0.0]]}), "a", "b")
    assert (got["wins"], got["ties"], got["losses"]) == (0, 1, 0)


def test_the_turns_of_a_conversation_win_or_lose_once():
    records = [{"prompt": "x", "conversation": 0}] * 3 + [{"prompt": "y"}] * 2
    got = win_panel(view({"sft": REF, "ppo": POLICY}, records), "sft", "ppo")
    assert (got["wins"], got["ties"], got["losses"]) == (1, 1, 0)


def test_without_a_reward_nobody_wins_and_there_is_no_length_to_weigh_it_with():
    v = view(None, kl={"sft": REF, "ppo": POLICY})
    assert win_panel(v, "sft", "ppo") is None and length_panel(v) is None


# Reward and KL


def test_best_of_n_stands_at_the_bound_of_its_kl():
    """KL(best-of-n ‖ reference) <= ln n − (n − 1)/n: 0 for one sample, 0.6362943611 for four."""
    got = best_of_curve({"1": 0.25, "4": 0.75})
    assert [(x["n"], x["reward"]) for x in got] == [(1, 0.25), (4, 0.75)]
    assert [x["kl_bound"] for x in got] == pytest.approx([0, log(4) - 0.75])


def test_best_of_n_of_rewards_of_0_and_1_is_one_less_the_chance_that_all_fail():
    """Of 1000 samples of which a quarter are right: as far as it rests on 200 of them, those that are right."""
    got = best_of_reference(view({"sft": [[0, 0, 0, 1]] * 250, "ppo": [[1, 1, 1, 1]] * 250}), "sft")
    assert got == {str(2**k): pytest.approx(1 - 0.75 ** 2**k) for k in range(8)}
    few = best_of_reference(view({"sft": [[0, 0, 0, 1]] * 190, "ppo": [[1, 1, 1, 1]] * 190}), "sft")
    assert list(few) == ["1", "2", "4", "8"]


def test_best_of_1_is_there_however_few_samples():
    assert best_of_reference(view({"sft": [[0.5]]}), "sft") == {"1": 0.5}


def test_lengths_stand_beside_rewards_with_their_correlation():
    """Of the sampled responses: here length grows with the prompt's number, and one reward falls with it."""
    falling = {"a": [[-i] for i in range(5)], "b": [[7]] * 5, "c": [[i] for i in range(5)]}
    got = length_panel(view(falling))
    assert got["a"]["points"] == [[3 * i, -i] for i in range(5)]
    assert (got["a"]["correlation"], got["c"]["correlation"]) == (pytest.approx(-1), pytest.approx(1))
    assert got["b"]["correlation"] is None


def test_of_many_responses_some_are_shown_evenly_taken_and_all_are_correlated():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=1000)
    got = length_panel(view({"m": [[x] for x in rewards]}))["m"]
    shown = [x for x, _ in got["points"]]
    assert len(shown) == DOTS and (shown[0], shown[-1]) == (0, 3 * 999) and set(np.diff(shown)) <= {9, 12}
    assert got["correlation"] == pytest.approx(np.corrcoef(np.arange(1000), rewards)[0, 1])


# Calibration


def texts(n: int, tokens: int = 5) -> list[dict]:
    rng = np.random.default_rng(1)
    return [{"index": i, "confidence": rng.uniform(0.1, 1, tokens).tolist(),
             "correct": rng.integers(0, 2, tokens).tolist()} for i in range(n)]  # fmt: skip


def test_calibration_equals_the_direct_calls_on_all_tokens():
    rows = texts(8)
    p, y = (np.concatenate([x[key] for x in rows]) for key in ("confidence", "correct"))
    got, bins = calibration_panel({"m": rows}, 3)["m"], reliability_bins(p, y)
    assert got["ece"] == expected_calibration_error(p, y) and got["n"] == 40
    assert 0 < got["expected"] < got["ece"]
    assert got["bins"] == bins


def test_a_model_that_scored_no_text_has_no_calibration():
    empty = [{"index": i, "confidence": [], "correct": []} for i in range(2)]
    assert list(calibration_panel({"a": empty, "b": [texts(1)[0], empty[1]]}, 0)) == ["b"]


# Samples


def test_the_prompts_shown_are_the_best_median_and_worst_by_gain():
    """Of gains 3, −1, 0, 5, 1: the prompts 3, 4 and 1; those of greedy answers do not count."""
    gains = [[3, 3], [-2, 0], [-1, 1], [4, 6], [1, 1]]
    v = view({"base": [[50 * i] for i in range(5)], "sft": [[2 * i] for i in range(5)],
              "ppo": [[2 * i + x for x in xs] for i, xs in enumerate(gains)]})  # fmt: skip
    got = choose_examples(v, "sft", "ppo", 0)
    assert {rule: got[rule] for rule in ("best", "median", "worst")} == {"best": 3, "median": 4, "worst": 1}


def test_without_a_reward_they_are_ranked_by_kl():
    got = choose_examples(view(None, kl={"sft": [[0]] * 3, "ppo": [[2], [1], [3]]}), "sft", "ppo", 0)
    assert (got["best"], got["median"], got["worst"]) == (2, 0, 1)


def test_a_model_alone_is_ranked_by_its_own_reward():
    got = choose_examples(view({"m": [[2], [1], [3]]}), "m", "m", 0)
    assert (got["best"], got["median"], got["worst"]) == (2, 0, 1)


def test_prompts_of_one_unit_are_ranked_apart():
    records = [{"prompt": "x", "conversation": 0}] * 3
    got = choose_examples(view({"a": [[0], [0], [0]], "b": [[2], [1], [3]]}, records), "a", "b", 0)
    assert (got["best"], got["median"], got["worst"]) == (2, 0, 1)


def test_another_prompt_is_chosen_by_the_seed_and_not_by_what_was_said():
    several = [[[i * j % 7] for i in range(50)] for j in (1, 2)]
    views = [view({"a": x, "b": [[0]] * 50}) for x in several]
    picks = [[choose_examples(v, "a", "b", seed)["random"] for seed in range(6)] for v in views]
    assert picks[0] == picks[1] and len(set(picks[0])) > 3 and set(picks[0]) <= set(range(50))


def test_a_sample_is_the_first_answer_of_each_model_with_its_reward():
    v = view({"sft": REF, "ppo": POLICY})
    (got,) = sample_panel(v, {"best": 3}, "ppo")
    assert {key: got[key] for key in ("rule", "index", "prompt", "reference")} == {
        "rule": "best", "index": 3, "prompt": "p3", "reference": "r3"
    }
    assert got["answers"] == {
        m: {"response": f"{m} 3 0", "stop": "eos", "reward": r} for m, r in (("sft", 3), ("ppo", 9))
    }
    assert "strip" not in got


def test_a_sample_shows_where_the_policy_moved_in_its_own_words(make_evaluation):
    _, (s,) = make_evaluation([{"prompt": "p"}, {"prompt": "q"}], lambda m, i, k: f"{m}{i}{k}", None)
    (got,) = sample_panel(view_of(s), {"worst": 1}, "ppo")
    assert got["strip"] == {"pieces": [*"ppo10"], "kl": [0.25] * 5, "log_ratio": [-0.5] * 5}
    assert got["answers"]["base"] == {"response": "base10", "stop": "eos", "reward": None}


# Curves


def logged(folder, records: list) -> list[dict]:
    """The curves of a log.jsonl of these lines."""
    lines = (x if isinstance(x, str) else json.dumps(x) for x in records)
    (folder / "log.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return read_curves(folder)


def test_a_curve_is_what_was_logged_where_it_was(tmp_path):
    """Known names in a fixed order, the shares of tasks behind them; null and steps without it left out."""
    got = logged(tmp_path, [
        {"step": 1, "reward": 0.5, "loss": 2.0, "seconds": 1, "share/b": 0.1, "share/a": 0.2},
        {"step": 2, "reward": None, "loss": 1.0, "seconds": 2, "share/b": 0.3, "share/a": 0.4},
        {"step": 3, "reward": 0.75, "loss": 0.5, "validation_loss": 9.0},
    ])  # fmt: skip
    assert [x["name"] for x in got] == ["loss", "reward", "share/a", "share/b"]
    assert got[1] == {"name": "reward", "x": "step", "points": [[1, 0.5], [3, 0.75]]}
    assert [x["name"] for x in got[:2]] == [name for name in CURVES if name in ("loss", "reward")]


@pytest.mark.parametrize("n", [POINTS, POINTS + 1, 2 * POINTS - 1, 1000, 10 * POINTS])
def test_a_long_curve_is_thinned_without_moving_it(n, tmp_path):
    """A straight line stays one, from end to end, and the mean of equal runs stays the mean."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=n)
    line, noise = logged(tmp_path, [{"step": i, "loss": 3 * i, "reward": y[i]} for i in range(n)])
    points = np.array(line["points"])
    assert len(points) == POINTS and points[:, 1] == pytest.approx(3 * points[:, 0])
    assert points[0, 0] <= n / POINTS and points[-1, 0] >= n - 1 - n / POINTS
    sizes = [len(part) for part in np.array_split(y, POINTS)]
    assert np.average([v for _, v in noise["points"]], weights=sizes) == pytest.approx(y.mean())
    if n % POINTS == 0:
        assert np.mean([v for _, v in noise["points"]]) == pytest.approx(y.mean())


def test_without_a_log_there_are_no_curves(tmp_path):
    assert read_curves(tmp_path) == [] == read_curves(tmp_path / "nowhere")


@pytest.mark.parametrize("lines", [
    ['{"step": 1, "loss": }'], [{"loss": 1.0}, {"loss": 2.0}], [{"step": 1, "loss": 1.0}], [], ["no JSON"],
    [{"step": 1, "loss": "high"}, {"step": 2, "loss": "low"}], ['{"step": 1, "loss": NaN}'] * 2,
    ['["step", {"loss": 1}'], ['{"step": "one", "loss": 1}', '{"step": "two", "loss": 2}'],
], ids=["broken", "no steps", "one step", "empty", "text", "words", "nan", "torn", "named steps"])
def test_a_log_of_another_kind_or_broken_has_no_curves(lines, tmp_path):
    assert logged(tmp_path, lines) == []


def test_a_line_that_was_being_written_is_passed_over(tmp_path):
    logged(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    got = read_curves(tmp_path)
    assert [x["points"] for x in got] == [[[1, 2.0], [2, 1.0]]]


def test_a_log_that_is_no_text_has_no_curves(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe{}\n")
    assert read_curves(tmp_path) == []
