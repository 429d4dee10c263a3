"""From results to verdicts: the rule, the p and intervals it rests on, and the direction of every claim."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from minirlhf.experiments.claims import (
    BEST_OF, Claim, Estimate, Term, claim_p_value, claim_results, claim_verdict, claims, decisive, difference, estimate,
    nested_bootstrap, with_divergence,
)
from minirlhf.experiments.report import claim_line, verdict_table, write_report
from minirlhf.metrics.calibration import calibration_statistics, expected_calibration_error
from minirlhf.metrics.scores import perplexity

LABELS, OUTSIDE = [100, 10_000], ["reworded"]


def part(reward: float, n: int = 20, noise: float = 0.05, seed: int = 0, **drift: float) -> dict:
    """What a line holds of a set of n prompts whose mean reward is `reward`, with like noise in all of one seed."""
    wobble = noise * np.random.default_rng(seed).standard_normal(n)
    wobble -= wobble.mean()
    values = {"KL to reference, nats": 1.0, "length, tokens": 5.0, "distinct answers": drift.get("distinct", 0.5)}
    values |= {"distinct-2 per prompt": drift.get("distinct2", 0.5), "EAD-2": drift.get("ead2", 0.5)}
    values |= {"self-BLEU per prompt": drift.get("self_bleu", 50.0), "reward, greedy": reward}
    out = {key: [[float(x), 1.0]] * n for key, x in values.items()}
    for name in ("reward", *(f"reward, best of {k}" for k in BEST_OF)):
        out[name] = [[float(reward + w), 1.0] for w in wobble]
    out["entropy, nats/token"] = [[10 * drift.get("entropy", 1.0), 10.0]] * n
    out["reference perplexity"] = [[5 * drift.get("nll", 1.0), 5.0, 9.0]] * n
    calibration = calibration_statistics([drift.get("confidence", 0.5)] * 2, [0, 1])
    return out | {"calibration error": [calibration.tolist()] * n}


def once(us: float, **of_run: float) -> dict:
    """What a line holds of the run as a whole."""
    return {key: [[value, 1.0]] for key, value in {"us a token": us, **of_run}.items()}


def made(seed: int, arm: str, reward: float, outside: float | None = None, start: str = "", us: float = 1.0, **drift):
    """A line of results, as `estimate` and `with_divergence` read it."""
    sets = {"test": part(reward, seed=seed, **drift), "run": once(cpu=9.0, trained=5000, us=us)}
    sets["reworded"] = part(reward if outside is None else outside, seed=seed)
    return {"start": start, "failed": "", "sets": sets}


def world(arms: dict[str, dict], seeds: int = 3) -> dict:
    """Cells in which every seed says about the same, all but for a hundredth, with divergence."""
    rng = np.random.default_rng(0)

    def near(kwargs: dict) -> dict:
        return {k: v if isinstance(v, str) else v + 0.01 * rng.standard_normal() for k, v in kwargs.items()}

    cells = [("t", s, arm) for s in range(seeds) for arm in arms]
    return with_divergence({(t, s, arm): made(s, arm, **near(arms[arm])) for t, s, arm in cells})


def pair(*differences: float, noise: float = 0.05) -> dict:
    """Arms a and b of as many seeds, with reward a − b as given."""
    cells = {}
    for s, d in enumerate(differences):
        for arm, reward in (("a", 0.5 + d), ("b", 0.5)):
            line = made(s, arm, reward)
            line["sets"]["test"] = part(reward, noise=noise, seed=2 * s + (arm == "a"))
            cells["t", s, arm] = line
    return cells


A_BEATS_B = Claim("topic", "a beats b", (difference("a", "b"),))


def line_of(claim: Claim, cells: dict) -> str:
    """What is said of a claim when nothing else is tested."""
    return claim_line(claim_results(cells, "t", [claim])[0])


def said(*differences: float, **kwargs) -> str:
    return line_of(A_BEATS_B, pair(*differences, **kwargs))


def test_a_claim_holds_fails_or_is_not_shown():
    assert said(0.2, 0.25, 0.3).startswith("- **holds here**, p 0.013: a beats b. a - b: +0.250 [+0.")
    assert said(-0.2, -0.25, -0.3).startswith("- **does not hold here**, p 0.013: a beats b. a - b: -0.250 [")
    assert said(0.2, -0.2, 0.0).startswith("- **not shown**, p 1.000: a beats b. a - b: +0.000 [-")


def test_every_seed_and_their_number_are_shown():
    assert said(0.2, 0.25, 0.3).endswith("n = 3: +0.200 +0.250 +0.300")


def test_three_seeds_that_agree_only_in_direction_show_nothing():
    """The bootstrap alone, (0.01, 0.3), would call it shown: of three coins, all fall alike in one throw of four."""
    assert "[-0.196, +0.536]" in said(0.2, 0.3, 0.01, noise=0.0) and "not shown" in said(0.2, 0.3, 0.01, noise=0.0)
    assert "holds here" in said(0.2, 0.3, 0.25, noise=0.0)


def test_one_seed_shows_nothing():
    assert said(0.5).startswith("- **not shown**: ") and "n = 1" in said(0.5)


def test_seeds_that_agree_to_the_last_digit_show_nothing():
    """Nothing says then how much the next may differ. But arms that never differ, do not."""
    assert said(0.25, 0.25, 0.25, noise=0.0).startswith("- **not shown**: ")
    same = said(0.0, 0.0, 0.0, noise=0.0)
    assert same.startswith("- **not shown**, p 1.000: a beats b. a - b: +0.000, n = 3: ")


def test_p_is_that_of_t_where_seeds_differ_and_of_the_bootstrap_where_prompts_do():
    """t of 0.2, 0.3, 0.25 is 5 sqrt 3, and with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2). Seeds that
    agree by luck over prompts that differ: a normal p of 0.1 over sqrt(2 / 20 / 3)."""
    terms = A_BEATS_B.effects[0].terms
    t = 5 * math.sqrt(3)
    by_t = estimate(pair(0.2, 0.3, 0.25, noise=0.0), "t", terms)
    assert by_t.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))
    lucky = estimate(pair(0.1, 0.1001, 0.0999, noise=1.0), "t", terms)
    assert lucky.p_value == pytest.approx(math.erfc(0.1 / math.sqrt(2 / 20 / 3) / math.sqrt(2)), abs=0.06)
    mirrored = estimate(pair(-0.1, -0.1001, -0.0999, noise=1.0), "t", terms)
    assert mirrored.p_value == pytest.approx(lucky.p_value, abs=0.03)


def test_p_belongs_to_the_interval():
    """At most 5 % where the interval leaves out 0, and only there: by t or the bootstrap, on either side."""
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        spread, noise = rng.choice([0.01, 0.3]), rng.choice([0.0, 0.9])
        cells = pair(*rng.normal(rng.choice([-0.2, 0.2]), spread, 5), noise=noise)
        x = estimate(cells, "t", A_BEATS_B.effects[0].terms)
        assert (x.p_value <= 0.05) == (x.low > 0 or x.high < 0)
        seen.add((x.p_value <= 0.05, x.value > 0, spread, noise))
    assert len(seen) >= 10


def test_a_bootstrap_of_which_all_are_above_0_still_has_a_p_above_0():
    """Two of 10,001: B resamples can say no less."""
    x = estimate(pair(*(1 + 1e-6 * i for i in range(5)), noise=0.0), "t", A_BEATS_B.effects[0].terms)
    assert x.p_value == pytest.approx(2 / 10_001)


def effect(value: float, p: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, p, {0: value, 1: value})


def test_a_claim_of_several_effects_needs_all_of_them():
    """It holds as surely as its least sure effect."""
    up, weak = effect(0.5, 0.01), effect(0.1, 0.04)
    assert claim_p_value([up, weak]) == 0.04 and decisive([up, weak]) == weak
    assert claim_verdict([up, weak], 0.05) == "holds here" and claim_verdict([up, weak], 0.06) == "not shown"


def test_a_claim_of_several_effects_falls_with_one_and_each_has_its_chance():
    up, down, flat = effect(0.5, 0.001), effect(-0.5, 0.02), effect(-0.01, 0.9)
    assert decisive([up, down, flat]) == down and claim_p_value([up, down, flat]) == pytest.approx(0.06)
    assert claim_p_value([flat, flat]) == 1.0
    assert claim_verdict([up, down], 0.04) == "does not hold here"
    assert claim_verdict([up, down, flat], 0.06) == "not shown"


def test_of_effects_as_sure_the_smallest_is_said():
    assert decisive([effect(0.5, 0.01), effect(0.3, 0.01), effect(0.4, 0.01)]).value == 0.3
    assert decisive([effect(-0.3, 0.01), effect(-0.5, 0.01)]).value == -0.5


def test_what_holds_alone_may_not_hold_among_many():
    """Holm: p = 0.013 three times is 0.039, four times 0.052. The interval shown stays the plain one."""
    cells = pair(0.2, 0.25, 0.3)
    three, four = (claim_results(cells, "t", [A_BEATS_B] * m) for m in (3, 4))
    assert [x.verdict for x in three] == ["holds here"] * 3 and [x.verdict for x in four] == ["not shown"] * 4
    assert [x.p_value for x in four] == pytest.approx([4 * three[0].p_value / 3] * 4)
    assert four[0].effects == three[0].effects and four[0].effects[0].low > 0


def test_a_claim_that_was_not_run_or_is_at_the_floor_counts_among_the_many():
    """Or what is tested would depend on what was found."""
    absent, floor = Claim("", "c", (difference("c", "b"),)), Term(1, "low")
    cells = pair(0.2, 0.25, 0.3) | {("t", s, "low"): made(s, "low", 0.05) for s in range(3)}
    at_floor = Claim("", "d", A_BEATS_B.effects, need=(floor,))
    found = claim_results(cells, "t", [A_BEATS_B, absent, at_floor, at_floor])
    assert [x.verdict for x in found] == ["not shown", "not run", "not shown", "not shown"]
    assert found[0].p_value == pytest.approx(4 * found[0].effects[0].p_value)
    assert all(math.isnan(x.p_value) for x in found[1:])
    assert [x.floor for x in found] == [False, False, True, True]


def test_who_has_nothing_to_lose_shows_nothing():
    """All fall to 0: the loss of who earned more is larger, and says nothing."""
    floor = {"ppo10000": {"reward": 0.9, "outside": 0.0}, "more10000": {"reward": 0.5, "outside": 0.05}}
    (claim,) = (c for c in claims(LABELS, OUTSIDE, False) if c.text.startswith("RL generalises"))
    line = line_of(claim, world(WORLD | floor))
    assert line.startswith("- **not shown**") and line.endswith("no arm earns 0.1 there, so none has much to lose")
    floor["more10000"]["outside"] = 0.15
    assert "does not hold here" in line_of(claim, world(WORLD | floor))


def test_what_is_undefined_is_not_shown():
    nan = float("nan")
    undefined = Estimate(nan, nan, nan, nan, {0: nan, 1: nan})
    for effects in ([undefined], [effect(0.5, 0.01), undefined], [undefined, effect(-0.5, 0.01)]):
        assert math.isnan(claim_p_value(effects)) and claim_verdict(effects, nan) == "not shown"


def test_a_measure_undefined_on_some_resample_shows_nothing():
    """One prompt of 20 has it: a resample without it, and there are many, must not count for the claim."""
    cells = pair(0.2, 0.25, 0.3)
    for (_, s, arm), line in cells.items():
        line["sets"]["test"]["EAD-2"] = [[0.5 + s / 100 if arm == "a" else 0.1, 1.0]] + [[0.0, 0.0]] * 19
    x = estimate(cells, "t", [Term(1, "a", measure="EAD-2"), Term(-1, "b", measure="EAD-2")])
    assert x.value == pytest.approx(0.41) and x.p_value == 1.0


def test_a_missing_arm_leaves_no_number():
    cells = {key: line for key, line in pair(0.2, 0.3).items() if key[2] != "b"}
    assert line_of(A_BEATS_B, cells) == "- **not run**: a beats b."


def test_a_seed_that_lacks_an_arm_is_left_out_and_counted_out():
    cells = pair(0.2, 0.3, 0.9)
    del cells["t", 2, "b"]
    assert line_of(A_BEATS_B, cells).endswith("n = 2: +0.200 +0.300")


WORLD = {  # each arm of RL better than each of SFT, in every way
    "base": {"reward": 0.0},
    "sft100": {"reward": 0.1}, "ppo100": {"reward": 0.8}, "more100": {"reward": 0.2},
    "sft10000": {"reward": 0.4}, "more10000": {"reward": 0.5, "outside": 0.1},
    "ppo10000": {"reward": 0.9, "outside": 0.85, "us": 5.0, "entropy": 0.1, "distinct": 0.1, "distinct2": 0.1,
                 "ead2": 0.1, "self_bleu": 90.0, "nll": 3.0, "confidence": 0.9},
    "picked": {"reward": 0.6}, "ppo0": {"reward": 0.95}, "random": {"reward": 0.3}, "longest": {"reward": 0.2},
    "sft-hot": {"reward": 0.45, "start": "sft10000"}, "ppo-hot": {"reward": 0.1, "start": "sft10000"},
}  # fmt: skip
OPPOSITE = WORLD | {  # each arm of SFT better than each of RL, in every way
    "sft100": {"reward": 0.8}, "ppo100": {"reward": 0.6}, "more100": {"reward": 0.9},
    "sft10000": {"reward": 0.7}, "more10000": {"reward": 0.9, "outside": 0.85, "us": 5.0},
    "ppo10000": {"reward": 0.5, "outside": 0.1, "entropy": 3.0, "distinct": 0.9, "distinct2": 0.9, "ead2": 0.9,
                 "self_bleu": 10.0, "nll": 0.5, "confidence": 0.5},
    "base": {"reward": 0.2, "confidence": 0.9}, "ppo0": {"reward": 0.1}, "picked": {"reward": 0.8},
    "random": {"reward": 0.6, "confidence": 0.9}, "longest": {"reward": 0.7},
    "sft-hot": {"reward": 0.1, "start": "sft10000"}, "ppo-hot": {"reward": 0.45, "start": "ppo0"},
}  # fmt: skip
OPPOSITE["sft10000"]["confidence"] = 0.9
EXPECTED = {  # beginning of a claim -> whether it holds in the first world; in the second it is the other way
    "SFT needs labels": True,
    "after SFT on": True,
    "PPO and 100 labels": True,
    "RL needs no labels": True,
    "RL needs SFT first": False,
    "what PPO gains": True,
    "PPO does better than the best of": True,
    "RL generalises better": True,
    "RL does better on reworded": True,
    "RL is expensive": False,
    "RL is not needed": False,
    "a token of PPO": True,
    "RL is unstable": True,
    "RL lowers": True,
    "RL raises": True,
}


@pytest.fixture(scope="module")
def both_worlds() -> list[dict[str, str]]:
    """Claim -> verdict, in each world. Of 12 seeds: fewer cannot show a share of runs, whatever it is."""
    all_claims = claims(LABELS, OUTSIDE, True)
    found = (claim_results(world(arms, 12), "t", all_claims) for arms in (WORLD, OPPOSITE))
    return [{x.claim.text: x.verdict for x in each} for each in found]


@pytest.mark.parametrize("claim", claims(LABELS, OUTSIDE, True), ids=lambda claim: claim.text[:60])
def test_each_claim_has_the_right_direction(claim, both_worlds):
    """Two worlds, in one of which everything said for RL is true, and in the other the contrary."""
    (holds,) = {value for start, value in EXPECTED.items() if claim.text.startswith(start)}
    words = ["holds here", "does not hold here"]
    assert [found[claim.text] for found in both_worlds] == (words if holds else words[::-1])


def test_the_gap_is_what_is_lost_outside_of_training():
    """more: .5 − .1 = .4;  ppo: .9 − .85 = .05;  their difference .35."""
    (claim,) = (c for c in claims(LABELS, OUTSIDE, False) if c.text.startswith("RL generalises"))
    x = estimate(world(WORLD), "t", claim.effects[0].terms)
    assert x.value == pytest.approx(0.35, abs=0.03) and x.low > 0.25


def test_a_diverged_run_is_counted_and_keeps_its_reward():
    cells = {("t", 0, "sft"): made(0, "sft", 0.8), ("t", 1, "sft"): made(1, "sft", 0.8)}
    cells["t", 0, "hot"] = made(0, "hot", 0.9, start="sft") | {"failed": "step 3: 10 bad steps in a row"}
    cells["t", 1, "hot"] = made(1, "hot", 0.9, start="sft")
    lost = estimate(with_divergence(cells), "t", [Term(1, "hot", "run", "diverged")])
    assert lost.seeds == {0: 1.0, 1: 0.0}
    assert estimate(with_divergence(cells), "t", [Term(1, "hot")]).value == pytest.approx(0.9)


def test_a_share_of_runs_gets_the_sign_test_and_no_interval():
    """ppo-hot diverged in every seed, sft-hot in none: of n seeds p = 2 / 2^n. A t over equal seeds knows no
    noise, over unequal ones it goes beyond what shares can be."""
    terms = [Term(1, "ppo-hot", "run", "diverged"), Term(-1, "sft-hot", "run", "diverged")]
    (claim,) = (c for c in claims(LABELS, OUTSIDE, True) if c.text.endswith("than of SFT diverge"))
    assert claim.effects[0].terms == tuple(terms)
    for n in (1, 5, 6):
        cells = world(WORLD, n)
        assert estimate(cells, "t", terms).p_value == pytest.approx(2 / 2**n)
        line = line_of(claim, cells)
        assert line.startswith("- **holds here**" if n == 6 else "- **not shown**")
        assert f". share of runs, ppo-hot - sft-hot: +1.000, n = {n}: +1.000" in line
    for s in (0, 1):
        for arm, bad in (("ppo-hot", 0.0), ("sft-hot", 1.0 - s)):
            cells["t", s, arm]["sets"]["run"]["diverged"] = [[bad, 1.0]]
    mixed = estimate(cells, "t", terms)  # −1, 0, and four of 1: four to one
    assert mixed.p_value == pytest.approx(2 * (1 + 5) / 2**5) and math.isnan(mixed.low + mixed.high)


def test_a_run_that_ends_worse_than_it_began_has_diverged_unless_that_may_be_noise():
    def lost(end: float) -> float:
        cells = {("t", 0, "sft"): made(0, "sft", 0.8), ("t", 0, "hot"): made(0, "hot", end, start="sft")}
        noise = np.random.default_rng(5).permutation(np.linspace(-0.3, 0.3, 20))
        cells["t", 0, "hot"]["sets"]["test"]["reward"] = [[float(end + x), 1.0] for x in noise]
        return with_divergence(cells)["t", 0, "hot"]["sets"]["run"]["diverged"][0][0]

    assert [lost(x) for x in (0.2, 0.79, 0.8, 0.95)] == [1.0, 0.0, 0.0, 0.0]


def means(runs: list[np.ndarray], n_resamples: int = 2000) -> np.ndarray:
    """Resampled means of one value a prompt."""
    tables = [[[np.column_stack([x, np.ones(len(x))])]] for x in runs]
    return nested_bootstrap(tables, lambda sums: sums[0][:, 0] / sums[0][:, 1], n_resamples)


def test_the_interval_covers_the_truth():
    """200 experiments of 12 seeds and 20 prompts, noise between seeds and within: 95 % ± what 200 coin flips allow,
    less what a bootstrap of 12 lacks."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        x = rng.standard_normal((12, 1)) + rng.standard_normal((12, 20))
        low, high = np.quantile(means(list(x), 300), [0.025, 0.975])
        hits += low < 0 < high
    assert 0.87 <= hits / 200 <= 0.99


def test_both_seeds_and_prompts_are_resampled():
    """Var of the mean: between seeds σ²/S, within them τ²/(S n); each alone, and both."""
    S, n = 8, 10
    between, within = np.repeat(np.arange(8.0)[:, None], n, 1), np.tile(np.arange(10.0), (S, 1))
    sigma2, tau2 = between.var() / S, within.var() / (S * n)
    for x, expected in ((between, sigma2), (within, tau2), (between + within, sigma2 + tau2)):
        assert means(list(x), 8000).var() == pytest.approx(expected, rel=0.08)


def test_seeds_may_have_unequal_numbers_of_prompts():
    """The mean is that of seeds, not of prompts."""
    assert means([np.zeros(3), np.ones(30)]).mean() == pytest.approx(0.5, abs=0.03)


def test_arms_are_compared_on_the_same_resample():
    """Prompts differ by far more than the arms do."""
    cells = {("t", s, arm): made(s, arm, 0.0) for s in range(3) for arm in "ab"}
    for (_, s, arm), line in cells.items():
        line["sets"]["test"]["reward"] = [[i + (0.01 + 1e-5 * s) * (arm == "a"), 1.0] for i in range(20)]
    x = estimate(cells, "t", A_BEATS_B.effects[0].terms)
    assert x.low == pytest.approx(0.01, abs=1e-4) and x.high == pytest.approx(0.01, abs=1e-4)


def test_measures_are_those_of_the_corpus():
    """Perplexity, entropy and ECE are not means over prompts, and the bytes beside the nats are of no account."""
    rng = np.random.default_rng(0)
    confidence = [rng.random(n).tolist() for n in (3, 1, 8, 5)]
    confidence[0][:2] = [0.0, 1.0]
    correct = [rng.integers(0, 2, len(row)).tolist() for row in confidence]
    sums = {
        "reference perplexity": [11.0, 11.0, 99.0], "entropy, nats/token": [10.0, 50.0], "reward": [2.0, 4.0],
        "calibration error": np.sum([calibration_statistics(*x) for x in zip(confidence, correct)], axis=0),
    }  # fmt: skip
    found = {name: float(Term(1, "a", "test", name).combine(np.array([row]))[0]) for name, row in sums.items()}
    ece = expected_calibration_error(sum(confidence, []), sum(correct, []))
    assert found["calibration error"] == pytest.approx(ece)
    assert found["reference perplexity"] == pytest.approx(perplexity(11.0, 11.0)) == pytest.approx(np.e)
    assert found["entropy, nats/token"] == pytest.approx(0.2) and found["reward"] == 0.5
    assert np.isnan(Term(1, "a", "test", "EAD-2").combine(np.zeros((1, 2)))[0])


def test_the_report_has_every_arm_claim_and_seed(tmp_path):
    cells = world(WORLD)
    del cells["t", 2, "picked"]
    said = write_report(cells, {"t": ["test", *OUTSIDE]}, LABELS, ["t"], tmp_path)
    assert (tmp_path / "study.md").read_text() == said
    for claim in claims(LABELS, OUTSIDE, True):
        assert said.count(f": {claim.text}. ") == said.count(f" | {claim.text} | ") == 1
    x = estimate(cells, "t", [Term(1, "ppo100")])
    each = " ".join(f"{v:.3f}" for v in x.seeds.values())
    sd = np.std([*x.seeds.values()], ddof=1)
    assert len(x.seeds) == 3
    assert f"| ppo100 | {x.value:.3f} [{x.low:.3f}, {x.high:.3f}] | {each} | {sd:.3f} |" in said
    assert said.count("| ppo-hot |") == 2 and "| 3 of 3 |" in said and "not run" not in said
    dots = {"t": 13 * 3 - 1, "labels": 6 * 3 + 3}  # 3 are the legend's
    for name, n in dots.items():
        tree = ElementTree.fromstring((tmp_path / f"study.{name}.svg").read_text())
        assert len(tree.findall("{http://www.w3.org/2000/svg}circle")) == n


def test_rewards_have_intervals_from_0_to_1(tmp_path):
    """Of 0.1, 0.9 and 0.95, where t reaches from −0.5 to 1.8."""
    cells = {("t", s, "sft10000"): made(s, "sft10000", x) for s, x in enumerate((0.1, 0.9, 0.95))}
    said = write_report(with_divergence(cells), {"t": ["test", *OUTSIDE]}, LABELS, ["t"], tmp_path)
    assert "| sft10000 | 0.650 [0.000, 1.000] | 0.100 0.900 0.950 |" in said


def test_the_table_of_verdicts_has_what_decides_each():
    """A row a claim and a column a task; the topic where it begins; empty where a task has no such claim."""
    cells = pair(0.2, 0.25, 0.3)
    cells |= {("u", s, arm): line for (_, s, arm), line in pair(-0.2, -0.3, 0.25).items()}
    back = Claim("topic", "b beats a", (difference("a", "b"), difference("b", "a")))
    absent = Claim("other", "c beats b", (difference("c", "b"),))
    found = {"t": claim_results(cells, "t", [A_BEATS_B, back]), "u": claim_results(cells, "u", [A_BEATS_B, absent])}
    rows = [row.strip("| ") for row in verdict_table(found).splitlines()]
    assert rows[0] == "claim | t | u" and rows[1] == "--- | --- | --- | ---"
    first, second = (f"[{x.low:+.3f}, {x.high:+.3f}]" for x in (found[k][0].effects[0] for k in "tu"))
    decided = f"**holds** +0.250 {first}, p 0.026 | not shown -0.083 {second}, p 1.000"
    assert rows[2] == f"topic | a beats b | {decided}"
    assert rows[3].startswith("b beats a | **does not hold** -0.250 [") and rows[3].endswith(", p 0.026")
    assert rows[4] == "other | c beats b |  | not run"


def test_each_task_is_a_family_of_its_own(tmp_path):
    """What is said of one is the same when another is studied as well."""
    cells = world(WORLD)
    alone = write_report(cells, {"t": ["test", *OUTSIDE]}, LABELS, ["t"], tmp_path)
    both = cells | {("u", s, arm): line for (_, s, arm), line in cells.items()}
    said = write_report(both, {t: ["test", *OUTSIDE] for t in "tu"}, LABELS, ["t", "u"], tmp_path)
    lines = [line for line in alone.splitlines() if line.startswith("- **")]
    assert [line for line in said.splitlines() if line.startswith("- **")] == lines * 2


def test_a_report_of_nothing_run_invents_nothing(tmp_path):
    said = write_report({}, {"t": ["test", *OUTSIDE]}, LABELS, ["t"], tmp_path)
    verdicts = [line for line in said.splitlines() if line.startswith("- **")]
    assert verdicts and all(line.startswith("- **not run**: ") and line.endswith(".") for line in verdicts)
    assert said.count(" | not run |\n") == len(verdicts)
