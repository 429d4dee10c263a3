"""How much better is one model than another? Two logistic regressions on judged pairs of their answers.

    P(b beats a) = σ(θ_b − θ_a)                        θ: the strengths of any number of models
    P(b beats a) = σ(b0 + b1 tanh(Δ / sd(Δ)))          Δ: difference in length.  σ(b0): the win rate at Δ = 0

A tie is half a win for each side. Newton's method finds the likelihood's one maximum, for all resamples of the
prompts at once. A model that never lost, for example, has no finite maximum: PSEUDO prompts are then added.
Source: Bradley and Terry 1952; Dubois et al. 2024. Proved by tests/metrics/test_bradley_terry.py.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np

from minirlhf.metrics.agreement import Measure
from minirlhf.metrics.intervals import TAILS, percentiles

STEPS = 200  # of Newton's method, each at most 2 long; a handful suffice unless it runs off to infinity
LEAST = 1e-6  # information about any parameter; with less the likelihood rises without end
PSEUDO = 0.5  # prompts, as often judged as others, that are then added to each outcome for each pair of models
ADDED = "a model never lost or never won: half a prompt of each outcome is added"


def newton(X: np.ndarray, wins: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maximum of Σ wins log σ(X φ) + losses log σ(−X φ), for each of B tables of counts.

    X: (n, K).  wins, losses: (B, n).
    Returns φ (B, K), the information at φ (B, K, K), and (B,) bool, True where no finite maximum exists.
    """
    N, phi, lost = wins + losses, np.zeros((len(wins), X.shape[1])), np.zeros(len(wins), dtype=bool)
    for _ in range(STEPS):
        p = (1 + np.tanh(phi @ X.T / 2)) / 2  # (B, n), σ without overflow
        H = ((N * p * (1 - p))[:, None] * X.T) @ X  # (B, K, K)
        lost |= np.linalg.eigvalsh(H)[:, 0] < LEAST
        H[lost] = np.eye(X.shape[1])
        step = np.linalg.solve(H, ((wins - N * p) @ X)[..., None])[..., 0]  # (B, K)
        step[lost] = 0
        size = np.abs(step).max(1, keepdims=True)  # (B, 1)
        phi = phi + step * np.minimum(1, 2 / np.maximum(size, 1e-300))  # (B, K)
        if size.max() < 1e-10:
            break
    return phi, H, lost | (size[:, 0] > 1e-6)


def places(names: Sequence[Hashable]) -> tuple[list, np.ndarray]:
    """The different names in order of appearance, and where each of the n names stands among them: (n,)."""
    place = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return list(place), np.array([place[name] for name in names], dtype=int)


def fits(
    X: np.ndarray, scores: Sequence[float], prompts: Sequence[Hashable], pseudo: np.ndarray, resamples: int, seed: int
) -> list[np.ndarray]:
    """φ of all judgements, then of each resample of the prompts: (1 + R, K). With one prompt, resamples are nan.

    X: (n, K).  scores, pseudo: (n,); pseudo is added to wins and losses where no finite maximum exists.
    The list also holds the information, (1 + R, K, K), and whether `pseudo` was added, (1 + R,).
    """
    (questions, prompt), y = places(prompts), np.asarray(scores, dtype=float)
    even = np.full(len(questions), 1 / len(questions))  # (P,)
    drawn = np.random.default_rng(seed).multinomial(len(questions), even, resamples)  # (R, P)
    weights = np.concatenate([np.ones((1, len(y))), drawn[:, prompt]])  # (1 + R, n)
    parts = []
    for part in np.array_split(weights, 10):
        phi, H, lost = newton(X, part * y, part * (1 - y))
        if lost.any():
            phi[lost], H[lost], _ = newton(X, part[lost] * y + pseudo, part[lost] * (1 - y) + pseudo)
        parts.append((phi, H, lost))
    phi, H, added = (np.concatenate(part) for part in zip(*parts))
    if len(questions) < 2:
        phi[1:] = np.nan
    return [phi, H, added]


def spread(prompts: Sequence[Hashable]) -> float:
    """z of a 95 % interval, times √(judgements / prompts): what n judgements of P prompts know is that of P."""
    return NormalDist().inv_cdf(TAILS[1]) * (len(prompts) / len(set(prompts))) ** 0.5


def strengths(
    pairs: Sequence[tuple[str, str]], scores: Sequence[float], prompts: Sequence[Hashable], seed: int = 0
) -> dict[str, Measure]:
    """"b - a" -> θ_b − θ_a, log-odds, for each pair of models, with intervals by resampling prompts.

    pairs: (n,) of (a, b).  scores: (n,) of b: 1, 0.5 for a tie, or 0.  prompts: (n,). Ten wins in ten have no
    spread to resample. So where PSEUDO prompts were added, or in 2.5 % of the resamples, intervals are ± z standard
    errors, as if the judges of a prompt all said the same.
    """
    models, place = places([name for pair in pairs for name in pair])
    X = np.zeros((len(pairs), len(models)))  # (n, M)
    X[range(len(X)), place[::2]], X[range(len(X)), place[1::2]] = -1, 1
    X = X[:, 1:]  # (n, M − 1): θ of the first model is 0
    two = list(combinations(range(len(models)), 2))
    names = [f"{models[b]} - {models[a]}" for a, b in two]
    if np.linalg.matrix_rank(X) < len(models) - 1:
        return dict.fromkeys(names, Measure(n=len(X), note="no chain of comparisons joins all models"))
    asked = Counter(pair for pair, _ in {(frozenset(pair), prompt) for pair, prompt in zip(pairs, prompts)})
    pseudo = np.array([PSEUDO / asked[frozenset(pair)] for pair in pairs])  # (n,)
    phi, H, added = fits(X, scores, prompts, pseudo, 2000, seed)
    unit = np.eye(len(models))[:, 1:]  # (M, M − 1)
    D = np.array([unit[b] - unit[a] for a, b in two])  # (D, M − 1)
    values = phi @ D.T  # (1 + R, D)
    low, high = np.array([percentiles(x) for x in values[1:].T]).T  # (D,)
    if added.mean() > TAILS[0]:  # else an end would be that of what was added
        half = spread(prompts) * np.sqrt(np.einsum("dp,pq,dq->d", D, np.linalg.inv(H[0]), D))  # (D,)
        low, high = values[0] - half, values[0] + half
    note = ADDED if added[0] else ""
    return {name: Measure(*map(float, x), len(X), note) for name, *x in zip(names, values[0], low, high)}


def length_controlled(
    lengths: Sequence[float], scores: Sequence[float], prompts: Sequence[Hashable], seed: int = 0
) -> Measure:
    """b's win rate if both answers had the same length, with its interval by resampling prompts.

    lengths: (n,) Δ, length of b's answer minus that of a's.  scores, prompts, and the interval where PSEUDO prompts
    were added: as for `strengths`.
    Source: Dubois et al. 2024, without its term for the prompt.
    """
    delta = np.asarray(lengths, dtype=float)  # (n,)
    sd = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    if sd == 0:
        return Measure(n=len(delta), note="all pairs differ in length by the same amount")
    X = np.column_stack([np.ones(len(delta)), np.tanh(delta / sd)])  # (n, 2)
    phi, H, added = fits(X, scores, prompts, np.full(len(delta), PSEUDO / len(set(prompts))), 1000, seed)
    half = spread(prompts) * np.linalg.inv(H[0])[0, 0] ** 0.5
    ends = phi[0, 0] + half * np.array([-1, 1]) if added.mean() > TAILS[0] else percentiles(phi[1:, 0])
    rates = (1 + np.tanh(np.array([phi[0, 0], *ends]) / 2)) / 2  # value, low and high
    return Measure(*map(float, rates), len(delta), f"length alone decides, or {ADDED}" if added[0] else "")
