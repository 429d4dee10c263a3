"""Published and closed-form values of every score, interval and test: what `--selftest` compares with.

GOLDENS: what is computed, by name; what it must be; how far it may be off. The values are those of sacreBLEU
2.6.0, rouge_score 0.1.2, scikit-learn 1.9.1 and scipy on the same input, or follow by hand from the formula;
none is a float of our own. Proved by tests/test_selftest.py.
"""

from collections.abc import Callable

import numpy as np
import torch

from minirlhf import agreement, bradley_terry, calibration, intervals, metrics, overlap, stats
from minirlhf.algos import exact_kl, kl_estimate, token_logprobs

CAT, ON, LEARN, DEEP = "the cat sat on the mat", "the cat is on the mat", "我喜欢机器学习", "我喜欢深度学习"
FOX = "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"
SPEECH = [text.split() for text in ("i am going", "i am going", "lets go i i")]
TRIO = [CAT, "the cat sat on a mat", "a dog ran in the park"]
SURE = [0.1, 0.2, 0.35, 0.35, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0], [0, 0, 0, 1, 1, 1, 1, 0, 1, 1]
LOGITS = [[2, 0, 0], [3, 1, 0], [0, 4, 0], [1, 0, 5], [2, 2.5, 0], [0, 0, 3]]
PAIR = [0.62, 0.71, 0.55, 0.8, 0.66, 0.59, 0.73, 0.68], [0.6, 0.65, 0.57, 0.7, 0.66, 0.5, 0.7, 0.69]
BEST = [0.1, 0.9, 0.4, 0.7, 0.3], [1, 2, 5, 4, 3]  # proxy, gold
THREE = [0, 1, 2, 2, 2, 1, 0, 1, 2, 0], [0, 2, 2, 2, 1, 1, 0, 0, 2, 1]  # true, predicted
VOTES = "AABBAABBTT", "AABAABBBTA", "ABBBAATBTT"  # of three raters on ten items
THIRD = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 0, 0]]).double(), torch.tensor([2, 0, 1])  # logits, targets
STEPS, PI = (
    [torch.tensor(x, dtype=torch.float64) for x in pair]
    for pair in (([-1, -0.5, -2, -0.1], [-1.2, -0.4, -2.5, -0.1]), ([0.5, 0.3, 0.2], [0.25, 0.25, 0.5]))
)
KINDS = ("k1", "k2", "k3")


def rouge_f(hypothesis: str, reference: str, *kinds: str) -> list[float]:
    scores = overlap.rouge(hypothesis, [reference])
    return [scores[kind].f1 for kind in kinds]


def odds(ties: str) -> list[float]:
    """log strength over strength, and ν, after 30 wins, 10 ties and 20 losses."""
    scores = [1] * 30 + [0.5] * 10 + [0] * 20
    judgements = [bradley_terry.Judgement("a", "b", score, i) for i, score in enumerate(scores)]
    fit = bradley_terry.strengths(judgements, ties, n_resamples=2)
    return [fit.theta[0] - fit.theta[1], fit.nu]


def difference_figures(a: list[float], b: list[float]) -> list[float]:
    d = stats.paired_difference(a, b)
    return [d.difference, d.standard_error, d.p_value]


GOLDENS: list[tuple[str, Callable[[], object], object, float]] = [
    ("perplexity, corpus", lambda: metrics.perplexity(10 + 12, 10 + 4), 4.8135197411, 1e-9),
    ("perplexity of logits", lambda: metrics.perplexity(-float(token_logprobs(*THIRD).sum()), 3),
     1.8925808106, 1e-9),
    ("bits/byte, bits/char", lambda: metrics.bits_per_byte(20, [34, 20]), (0.8486441417, 1.4426950409), 1e-9),
    ("BLEU, four smoothings", lambda: [overlap.corpus_bleu([CAT], [[ON]], smooth=s) for s in
     ("exp", "none", "floor", "add-k")], (37.9917842826, 0, 25.4066374077, 48.5491771707), 1e-9),
    ("BLEU, clipped", lambda: overlap.corpus_bleu(["the " * 7], [[ON]]), 7.8098498423, 1e-9),
    ("BLEU, brevity", lambda: overlap.corpus_bleu(["the cat is on"], [[ON]]), 60.6530659713, 1e-9),
    ("BLEU, closest length", lambda: overlap.corpus_bleu(["a b c d"], [["a b c d e f g h", "a b c d e"]]),
     77.8800783071, 1e-9),
    ("BLEU of a corpus", lambda: overlap.corpus_bleu(["", CAT], [["a b"], [CAT]]), 71.6531310574, 1e-9),
    ("BLEU, zh and char", lambda: [overlap.corpus_bleu([LEARN], [[DEEP]], t) for t in ("zh", "char", None)],
     [30.7394076476] * 3, 1e-9),
    ("BLEU, 13a on Chinese", lambda: overlap.corpus_bleu([LEARN], [[LEARN]], "13a"), 0, 0),
    ("chrF, chrF++, Chinese", lambda: [
        overlap.corpus_chrf([CAT], [[ON]]), overlap.corpus_chrf([CAT], [[ON]], 2),
        overlap.corpus_chrf([LEARN], [[DEEP]])], (64.5779420625, 66.3606707208, 23.5714285714), 1e-9),
    ("ROUGE-1, -2, -L", lambda: rouge_f(*FOX, "rouge1", "rouge2", "rougeL"),
     (12 / 17, 4 / 15, 10 / 17), 1e-9),
    ("ROUGE-Lsum, Chinese", lambda: rouge_f(
        "the dog ran.\na cat sat down.", "the cat sat.\nthe dog ran away.", "rougeL", "rougeLsum")
     + rouge_f(LEARN, DEEP, "rouge1", "rouge2"), (3 / 7, 5 / 7, 5 / 7, 1 / 2), 1e-9),
    ("P, R, F1, macro", lambda: metrics.precision_recall_f1(*THREE).macro, [7 / 12] * 3, 1e-9),
    ("F1, class never true", lambda: metrics.precision_recall_f1([0, 0, 1, 1], [0, 2, 1, 1]).macro,
     (2 / 3, 1 / 2, 5 / 9), 1e-9),
    ("F1, micro of 2 classes", lambda: metrics.precision_recall_f1(
        [0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], [0, 1]).micro, (0.4, 0.5, 4 / 9), 1e-9),
    ("F1, unparsable is wrong", lambda: metrics.precision_recall_f1(
        "aabb", ["a", None, "b", "b"], "ab").micro, (1, 3 / 4, 6 / 7), 1e-9),
    ("Matthews correlation", lambda: metrics.matthews_correlation(*THREE), 13 / 33, 1e-9),
    ("AUC with ties", lambda: metrics.roc_auc([0, 0, 1, 1, 1, 0], [0.5, 0.5, 0.5, 0.7, 0.2, 0.2]),
     11 / 18, 1e-9),
    ("distinct-1 to -4", lambda: [metrics.distinct_n(SPEECH, n) for n in range(1, 5)],
     (1 / 2, 5 / 7, 3 / 4, 1), 1e-9),
    ("EAD, 20 types", lambda: [metrics.expectation_adjusted_distinct(SPEECH, n, 20) for n in (1, 2)],
     (0.6230326797, 0.8287401683), 1e-9),
    ("self-BLEU-4 and -2", lambda: [metrics.self_bleu(TRIO, max_order=n) for n in (4, 2)],
     (39.8716879959, 55.4759212088), 1e-9),
    ("entropy of words", lambda: [metrics.unigram_entropy(SPEECH, m) for m in (False, True)],
     (1.4708084763, 1.6708084763), 1e-9),
    ("ECE, 5, 1 and 15 bins", lambda: [calibration.expected_calibration_error(*SURE, n) for n in (5, 1, 15)],
     (0.225, 0.015, 0.245), 1e-9),
    ("ECE, equal mass", lambda: calibration.expected_calibration_error(*SURE, 5, True), 0.205, 1e-9),
    ("ECE, confidence 0 and 1", lambda: [calibration.expected_calibration_error([0], [1]),
     calibration.expected_calibration_error([0.95, 1.0], [1, 0])], (1, 0.475), 1e-9),
    ("Brier", lambda: calibration.brier_score(*SURE), 0.16175, 1e-9),
    ("temperature", lambda: calibration.fit_temperature(LOGITS, [0, 1, 1, 2, 0, 2]), 1.257426, 1e-6),
    ("KL, k1 k2 k3 of tokens", lambda: [float(kl_estimate(*STEPS, kind).mean()) for kind in KINDS],
     (0.15, 0.0375, 0.0326080827), 1e-9),
    ("KL, exact E k1 k2 k3", lambda: [float(exact_kl(PI[0].log(), PI[1].log()))] + [
        float(PI[0] @ kl_estimate(PI[0].log(), PI[1].log(), kind)) for kind in KINDS],
     (0.2180119109, 0.2180119109, 0.2090582965, 0.2180119109), 1e-9),
    ("pass@5, 3 of 10 right", lambda: metrics.pass_at_k(10, 3, 5), 11 / 12, 1e-9),
    ("best-of-1 to -5", lambda: [metrics.expected_best_of_n(*BEST, n) for n in range(1, 6)],
     (3, 3.3, 2.9, 2.4, 2), 1e-9),
    ("best-of-4, KL bound", lambda: metrics.best_of_n_kl_bound(4), 0.6362943611, 1e-9),
    ("Wilson, 7/10 and 0/10", lambda: intervals.wilson(7, 10) + intervals.wilson(0, 10),
     (0.3967781475, 0.8922087326, 0, 0.2775327999), 1e-9),
    ("Clopper-Pearson, 0/300", lambda: intervals.clopper_pearson(0, 300, 0.9), (0, 0.0099360819), 1e-9),
    ("t, 1 2 4 7 degrees", lambda: [intervals.t_quantile(0.975, df) for df in (1, 2, 4, 7)],
     (12.7062047362, 4.3026527297, 2.7764451052, 2.3646242516), 1e-9),
    ("SE of clusters", lambda: [intervals.clustered_se([1, 1, 1, 0, 0, 0] * 2, np.arange(12) // 3, c)
     for c in (False, True)], (0.25, 0.2886751346), 1e-9),
    ("paired difference", lambda: difference_figures(*PAIR), (0.03375, 0.0160287131, 28 / 256), 1e-9),
    ("McNemar, exact", lambda: [stats.sign_test(*n) for n in ((15, 5), (8, 2), (3, 0), (0, 0))],
     (0.0413894653, 0.109375, 0.25, 1), 1e-9),
    ("Bradley-Terry, Davidson", lambda: odds("half") + odds("davidson"),
     (0.3364722366, 0, 0.4054651081, 0.4082482905), 1e-9),
    ("kappas, alpha, raw", lambda: [measure(list(zip(*VOTES[:raters]))).value for measure, raters in (
        (agreement.cohen_kappa, 2), (agreement.fleiss_kappa, 3), (agreement.krippendorff_alpha, 3),
        (agreement.raw_agreement, 3))], (0.5161290323, 0.4791666667, 0.4965277778, 2 / 3), 1e-9),
    ("Holm", lambda: stats.holm([0.001, 0.02, 0.03, 0.2]), (0.004, 0.06, 0.06, 0.2), 1e-9),
    ("detectable effect", lambda: stats.minimum_detectable_effect(0.5, 100), 0.1400792609, 1e-9),
    ("prompts needed", lambda: stats.prompts_needed(0.5, 0.1), 197, 0),
]  # fmt: skip
