"""The evaluator's test of itself: sound here, and each part of it finds the defects that it is there for."""

import builtins
from dataclasses import replace

import numpy as np
import pytest

from minirlhf import calibration, evaluation, goldens, intervals, metrics, overlap, regret, selftest, stats
from minirlhf.algos import kl_estimate
from minirlhf.checks import Finding
from minirlhf.files import UserError
from minirlhf.generation import generate

PARTS = ("goldens", "known_policy", "error_rates", "alarms_ring")


def broken(findings) -> set[str]:
    """The names of the checks that found something."""
    return {x.name for x in findings if x.ok is not True}


def test_this_installation_is_sound(capsys):
    """A line a check, none broken; the columns of the table stay apart."""
    assert selftest.run() is None
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") and " seen " in line and "expected " in line for line in lines)
    assert last == f"all {len(lines)} checks are ok" and len(lines) >= 70


def test_what_is_broken_is_named_at_the_end(capsys, monkeypatch):
    made = [Finding(name, ok, "seen 1", "why", "do") for name, ok in (("a", True), ("b", False), ("c", None))]
    monkeypatch.setattr(selftest, "findings", lambda seed: iter(made))
    with pytest.raises(UserError, match="^2 of 3 checks are broken: b, c$"):
        selftest.run()
    assert "BROKEN  b" in capsys.readouterr().out


def test_all_parts_are_run_and_one_that_raises_is_broken_and_no_end(monkeypatch):
    for part in PARTS:
        def one(*seed, part=part):
            if part == "known_policy":
                raise RuntimeError("no such thing")
            yield Finding(part, True, "", "", "")

        one.__name__ = part
        monkeypatch.setattr(selftest, part, one)
    found = {x.name: x for x in selftest.findings()}
    assert {name: x.ok for name, x in found.items()} == {part: part != "known_policy" for part in PARTS}
    assert "RuntimeError: no such thing" in found["known_policy"].figure


def test_nothing_is_read_from_disk(monkeypatch):
    def no(*args, **kwargs):
        raise AssertionError("a file was opened")

    selftest.known_models()  # torch reads sources of its own when an optimizer is first made
    monkeypatch.setattr(builtins, "open", no)
    monkeypatch.setattr("io.open", no)
    for part in (selftest.goldens(), selftest.known_policy(0, 400), selftest.error_rates(0, 5)):
        assert len(list(part)) > 5
    assert not broken(selftest.goldens()) and not broken(selftest.alarms_ring())


@pytest.mark.parametrize("part, n, first", [(selftest.known_policy, 400, 5), (selftest.error_rates, 20, 8)])
def test_the_seed_decides_what_rests_on_chance(part, n, first):
    """The first figures of the known policy are means over its responses, with no other chance in them."""
    one, again, other = ([x.figure for x in part(seed, n)][:first] for seed in (1, 1, 2))
    assert one == again != other


# goldens


def test_a_golden_a_little_off_is_broken(monkeypatch):
    """Each row's tolerance is far below what two definitions differ by."""
    off = [(name, compute, np.add(expected, 2e-6), near) for name, compute, expected, near in goldens.GOLDENS]
    monkeypatch.setattr(selftest, "GOLDENS", off)
    assert broken(selftest.goldens()) == {name for name, *_ in goldens.GOLDENS}
    assert len(broken(selftest.goldens())) == len(goldens.GOLDENS) >= 40


def test_every_row_of_every_result_counts(monkeypatch):
    """One figure of several, and one too few, are broken; so are nan and an exception."""
    rows = [("second", lambda: [1.0, 2.0], [1, 2.1], 1e-9), ("few", lambda: [1.0], [1, 1], 1e-9),
            ("nan", lambda: np.nan, 1, 1e-9), ("raises", lambda: 1 / 0, 1, 0), ("right", lambda: 1, 1, 0)]
    monkeypatch.setattr(selftest, "GOLDENS", rows)
    found = list(selftest.goldens())
    assert broken(found) == {"second", "few", "nan", "raises"}
    assert "ZeroDivisionError" in found[3].figure


def normal_interval(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wald's, which is a point at 0 of n."""
    half = 1.96 * np.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


def strict_ece(confidence, correct, n_bins=15, equal_mass=False) -> float:
    """As in published code: a confidence of 0 belongs to no bin."""
    kept = np.asarray(confidence) > 0
    if not kept.any():
        return 0.0
    return kept.mean() * original_ece(np.array(confidence)[kept], np.array(correct)[kept], n_bins, equal_mass)


original_ece, original_bleu = calibration.expected_calibration_error, overlap.bleu_from_statistics
original_kl = goldens.exact_kl


@pytest.mark.parametrize("where, name, defect, row", [
    (metrics, "perplexity", lambda nll, n: np.exp(nll / n) - 1, "perplexity, corpus"),
    (metrics, "bits_per_byte", lambda nll, n: nll / np.asarray(n), "bits/byte, bits/char"),
    (overlap, "bleu_from_statistics", lambda s, smooth="exp", eff=False: original_bleu(s, "exp", eff),
     "BLEU, four smoothings"),
    (overlap, "default_tokenizer", lambda references: "13a", "BLEU, zh and char"),
    (metrics, "expectation_adjusted_distinct", lambda s, n, v: metrics.distinct_n(s, n), "EAD, 20 types"),
    (calibration, "expected_calibration_error", strict_ece, "ECE, confidence 0 and 1"),
    (calibration, "fit_temperature", lambda logits, labels: 1.0, "temperature"),
    (goldens, "kl_estimate", lambda p, q, kind: kl_estimate(q, p, kind), "KL, exact E k1 k2 k3"),
    (goldens, "exact_kl", lambda p, q: original_kl(q, p), "KL, exact E k1 k2 k3"),
    (metrics, "pass_at_k", lambda n, c, k: 1 - (1 - c / n) ** k, "pass@5, 3 of 10 right"),
    (metrics, "expected_best_of_n", lambda proxy, gold, n: max(gold[:n]), "best-of-1 to -5"),
    (intervals, "wilson", normal_interval, "Wilson, 7/10 and 0/10"),
    (intervals, "t_quantile", lambda p, df: 1.959963985, "t, 1 2 4 7 degrees"),
    (intervals, "clustered_se", lambda x, c, correction=True: intervals.standard_error(x), "SE of clusters"),
    (stats, "sign_test", lambda wins, losses: 0.0253 if wins > 10 else 0.5, "McNemar, exact"),
    (stats, "holm", lambda p: np.minimum(1, np.multiply(p, len(p))), "Holm"),
    (stats, "POWER_FACTOR", 1.96, "detectable effect"),
], ids=lambda x: x if isinstance(x, str) else "")  # fmt: skip
def test_a_wrong_definition_is_found(monkeypatch, where, name, defect, row):
    monkeypatch.setattr(where, name, defect)
    assert row in broken(selftest.goldens())


# the known policy


def known(monkeypatch, where=None, name="", defect=None) -> set[str]:
    if where is not None:
        monkeypatch.setattr(where, name, defect)
    return broken(selftest.known_policy(0, 800))


def test_a_sampler_at_another_temperature_is_found(monkeypatch):
    def colder(model, prompts, max_new, eos, seeds):
        return generate(model, prompts, max_new, eos, seeds, 0.6)

    found = known(monkeypatch, selftest, "generate", colder)
    assert {"KL, k3", "entropy", "J"} <= found


def test_a_kl_with_the_sign_turned_is_found(monkeypatch):
    """log ref − log π under samples of π has minus the KL as its mean."""
    found = known(monkeypatch, evaluation, "kl_estimate", lambda p, q, kind: kl_estimate(q, p, kind))
    assert {"KL, k1", "KL, k3"} <= found and "KL, exact a position" not in found


original_statistics = evaluation.token_statistics


def test_statistics_that_leave_the_eos_out_are_found(monkeypatch):
    def without(model, reference, g):
        last = g.mask & (g.mask.cumsum(1) == g.mask.sum(1, keepdim=True)) & g.ended[:, None]  # (B, R)
        return {k: x.masked_fill(last, 0.0) for k, x in original_statistics(model, reference, g).items()}

    assert {"KL, exact a position", "entropy"} <= known(monkeypatch, selftest, "token_statistics", without)


def test_a_kl_to_itself_that_is_not_0_is_found(monkeypatch):
    """Dropout, or two passes of different precision."""
    def noisy(model, reference, g):
        return {k: x + 1e-7 for k, x in original_statistics(model, reference, g).items()}

    assert known(monkeypatch, selftest, "token_statistics", noisy) == {"KL to itself"}


def test_an_exact_kl_no_less_noisy_than_k1_is_found(monkeypatch):
    """k1 in its place is unbiased all the same."""
    def same(model, reference, g):
        found = original_statistics(model, reference, g)
        return found | {"kl": found["k1"]}

    assert known(monkeypatch, selftest, "token_statistics", same) == {"KL, variance"}


def test_an_optimum_of_another_beta_is_found(monkeypatch):
    original = selftest.regret_metrics
    wrong = lambda items, a, b, beta, unit: original(items, a, b, 1.3 * beta, unit)  # noqa: E731
    assert {"J", "J*"} <= known(monkeypatch, selftest, "regret_metrics", wrong)


original_best = regret.best_of_n


@pytest.mark.parametrize("where, name, defect, check", [
    (regret, "best_of_n", lambda rewards, weights, n: original_best(rewards, weights, 2 * n), "best-of-4"),
    (metrics, "expected_best_of_n", lambda proxy, gold, n: max(gold[:n]), "best-of-4, by a proxy"),
], ids=["law", "proxy"])  # fmt: skip
def test_a_wrong_best_of_n_is_found(monkeypatch, where, name, defect, check):
    assert check in known(monkeypatch, where, name, defect)


# error rates


def rates(monkeypatch, where=None, name="", defect=None, n=1000) -> set[str]:
    if where is not None:
        monkeypatch.setattr(where, name, defect)
    return broken(selftest.error_rates(0, n))


original_corpus = stats.paired_corpus


def test_a_one_sided_p_value_is_found(monkeypatch):
    """It rejects 10 % of true nulls at 5 %."""
    def halved(*args):
        d = original_corpus(*args)
        return replace(d, p_value=d.p_value / 2)

    assert {"sign-flip, nulls", "BLEU by swaps, nulls"} <= rates(monkeypatch, stats, "paired_corpus", halved)


def test_an_unpaired_test_is_found(monkeypatch):
    """On prompts of unequal difficulty it has no power, and rejects too few nulls."""
    def unpaired(a, b, metric, seed, resamples):
        rng = np.random.default_rng(seed)
        return original_corpus(a, b[rng.permutation(len(b))], metric, seed, resamples)

    found = rates(monkeypatch, stats, "paired_corpus", unpaired)
    assert "power at the MDE" in found


def test_a_detectable_effect_without_its_power_is_found(monkeypatch):
    """z(0.975) sd / √n is found every other time."""
    assert rates(monkeypatch, stats, "POWER_FACTOR", 1.96, 300) == {"power at the MDE"}


def test_uncorrected_p_values_are_found(monkeypatch):
    assert "Holm, any of 4 nulls" in rates(monkeypatch, stats, "holm", np.asarray, 300)


@pytest.mark.parametrize("name, check", [
    ("bootstrap_interval", "bootstrap covers"), ("wilson", "Wilson covers"),
    ("clopper_pearson", "Clopper-Pearson covers"),
])  # fmt: skip
def test_an_interval_of_another_level_is_found(monkeypatch, name, check):
    original = getattr(intervals, name)
    narrow = lambda *args: original(*args, level=0.85)  # noqa: E731
    assert rates(monkeypatch, intervals, name, narrow, 500) == {check}


def test_an_exact_interval_may_cover_more_and_an_approximate_one_may_not(monkeypatch):
    def wide(k: int, n: int) -> tuple[float, float]:
        return 0.0, 1.0

    monkeypatch.setattr(intervals, "clopper_pearson", wide)
    assert rates(monkeypatch, intervals, "wilson", wide, 500) == {"Wilson covers"}


# alarms


def test_alarms_that_never_ring_are_found(monkeypatch):
    monkeypatch.setattr(selftest, "alarms", lambda **evidence: [])
    assert broken(selftest.alarms_ring()) == set(selftest.DEFECTS) - {"no alarm"}


def test_alarms_that_ring_for_nothing_are_found(monkeypatch):
    original = selftest.alarms
    extra = {"what": "no end: as always", "why": "", "remedy": ""}
    monkeypatch.setattr(selftest, "alarms", lambda **evidence: [extra, *original(**evidence)])
    assert broken(selftest.alarms_ring()) == set(selftest.DEFECTS)
