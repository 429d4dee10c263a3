"""How much better one model is than another, from judgements of pairs of their answers.

    P(i beats j) = e^d / (e^d + 1)                        d = θ_i − θ_j + δ s,  Σ θ = 0
    P(win) : P(tie) : P(loss) = e^{d/2} : ν : e^{−d/2}    where ties are an outcome of their own

δ is what a judge gives the left side for nothing; s is 1 where i stood there, −1 where j did. Counting a tie
as half a win of each pulls θ towards 0; Davidson's ν does not. Both laws are logits linear in (θ, log ν, δ):
the likelihood has one maximum, found by Newton's method, for all resamples of the prompts at once.
Source: Bradley and Terry 1952; Davidson 1970; Davidson and Beaver 1977 (order). Proved by
tests/metrics/test_bradley_terry.py.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from minirlhf.metrics.agreement import Measure, undefined
from minirlhf.metrics.intervals import percentiles

FAR = 15.0  # odds of 3 million to 1: no data at hand say that, the likelihood rises without end
STEPS = 200  # of Newton's method, no longer than 2 each; a handful are enough unless it runs off to infinity
PSEUDO = 0.5  # judgements added to each outcome of each pair of models where it does


class Judgement(NamedTuple):
    """One comparison of two models' answers to a prompt."""

    a: str
    b: str
    score: float  # of a: 1 a win, 0.5 a tie, 0 a loss
    prompt: Hashable
    side: int = 0  # 1: a stood on the left; −1: b did; 0: not known


@dataclass(frozen=True)
class Strengths:
    """θ with intervals; nan, with the reason, where the comparisons do not determine it."""

    models: tuple[str, ...]
    judgements: int
    theta: np.ndarray  # (M,) log strength, sum 0
    nu: float  # 0 where there are no ties, or they are halved
    side: float  # δ, 0 where it is not fitted
    errors: np.ndarray  # (M, M) of θ_i − θ_j, from the information: as if every judgement were independent
    differences: np.ndarray  # (M, M, 2) of θ_i − θ_j: what to quote, for θ alone hangs on the other models
    side_interval: tuple[float, float]  # of δ
    regularised: bool  # no finite maximum (an undefeated model): PSEUDO judgements were added
    undefined: str = ""


def counted(judgements: Sequence[Judgement]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Models (M,), cells (C, 3) of (i, j, side) with i < j, and wins, ties and losses of i: (prompts, C, 3).

    Raises ValueError for a score that is none of 1, 0.5 and 0, and for a model compared with itself.
    """
    models = tuple(dict.fromkeys(name for x in judgements for name in (x.a, x.b)))
    prompts = {prompt: k for k, prompt in enumerate(dict.fromkeys(x.prompt for x in judgements))}
    rows = []
    for x in judgements:
        if x.score not in (0, 0.5, 1) or x.a == x.b:
            raise ValueError(f"a judgement is of two models with a score of 1, 0.5 or 0, this is {x}")
        i, j = models.index(x.a), models.index(x.b)
        score, cell = (x.score, (i, j, x.side)) if i < j else (1 - x.score, (j, i, -x.side))
        rows.append((prompts[x.prompt], cell, round(2 * (1 - score))))
    cells = {cell: c for c, cell in enumerate(sorted({cell for _, cell, _ in rows}))}
    counts = np.zeros((len(prompts), len(cells), 3))  # (P, C, 3)
    for prompt, cell, outcome in rows:
        counts[prompt, cells[cell], outcome] += 1
    return models, np.array(list(cells), dtype=int).reshape(-1, 3), counts


def _information(X: np.ndarray, N: np.ndarray, p: np.ndarray, gauge: np.ndarray) -> np.ndarray:
    """Σ_c N_c Cov_p(x_c) of each table: (B, K, K); `gauge`, along which it is flat, is made steep."""
    K = X.shape[2]
    mean = np.einsum("bck,ckp->bcp", p, X)  # (B, C, K)
    squares = (X[..., :, None] * X[..., None, :]).reshape(-1, K * K)  # (C k, K²)
    second = ((N[..., None] * p).reshape(len(p), -1) @ squares).reshape(-1, K, K)  # (B, K, K)
    return second - mean.transpose(0, 2, 1) @ (N[..., None] * mean) + np.outer(gauge, gauge)


def _newton(X: np.ndarray, n: np.ndarray, gauge: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maximum of Σ n log softmax(X φ) for each of B tables of counts.

    X: (C, k, K) features of each outcome of each cell.  n: (B, C, k).  gauge: (K,).
    Returns φ (B, K), the information there (B, K, K), and (B,) whether it ran off to infinity.
    """
    N, phi, far = n.sum(2), np.zeros((len(n), X.shape[2])), np.zeros(len(n), dtype=bool)
    for _ in range(STEPS):
        u = np.einsum("bp,ckp->bck", phi, X)  # (B, C, k)
        far |= ((u.max(2) - u.min(2)) * (N > 0)).max(1) > FAR  # (B,)
        p = np.exp(u - u.max(2, keepdims=True))  # (B, C, k)
        p /= p.sum(2, keepdims=True)
        H = _information(X, N, p, gauge)  # (B, K, K)
        gradient = np.einsum("bck,ckp->bp", n - N[..., None] * p, X)  # (B, K)
        step = np.where(far[:, None], 0.0, np.linalg.solve(H, gradient[..., None])[..., 0])  # (B, K)
        size = np.abs(step).max(1, initial=0.0, keepdims=True)  # (B, 1)
        phi = phi + step * np.minimum(1.0, 2 / np.maximum(size, 1e-300))  # (B, K)
        if size.max() < 1e-10:
            break
    return phi, H, far | (size[:, 0] > 1e-6)


def _fit(
    X: np.ndarray, n: np.ndarray, pseudo: np.ndarray, gauge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """φ (B, K), information (B, K, K) and (B,) whether `pseudo`, (C, k), had to be added to the counts.

    It has to be where the comparisons made say nothing of some parameter, and where there is no finite maximum.
    """
    even = np.full(n.shape, 1 / X.shape[1])  # (B, C, k)
    added = np.linalg.eigvalsh(_information(X, n.sum(2), even, gauge))[:, 0] <= 1e-9  # (B,)
    phi, H, far = _newton(X, n + added[:, None, None] * pseudo, gauge)
    if far.any():
        phi[far], H[far], _ = _newton(X, n[far] + pseudo, gauge)
    return phi, H, added | far


def _resampled(prompts: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each prompt is drawn, in draws with replacement: (n_resamples, prompts)."""
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), n_resamples) * 1.0


def strengths(
    judgements: Sequence[Judgement],
    ties: str = "davidson",
    side: bool = False,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Strengths:
    """Maximum likelihood of θ (and ν, and δ with `side`), 95 % percentile intervals by resampling prompts.

    ties: "davidson", or "half" for half a win of each. An undefeated model has no finite θ: PSEUDO of each
    outcome is then added to each pair of models that was compared, `regularised` says so, and intervals are
    ± z standard errors of the information, for ten wins of ten have no spread to resample. Models that no
    chain of comparisons joins, or sides that were never swapped, leave θ undefined.
    """
    models, cells, counts = counted(judgements)
    M, (P, C, _), nan = len(models), counts.shape, np.nan
    a = np.zeros((C, M + 2))  # (C, K): d = a φ for φ = (θ, log ν, δ)
    a[range(C), cells[:, 0]], a[range(C), cells[:, 1]], a[:, -1] = 1, -1, cells[:, 2]
    reason = ""
    if M < 2:
        reason = "no judgements"
    elif np.linalg.matrix_rank(a[:, :M]) < M - 1:
        reason = f"no chain of comparisons joins all of {', '.join(models)}"
    elif side and np.linalg.matrix_rank(a) < M:
        reason = "the sides were never swapped: a side's advantage cannot be told from a model's"
    if reason:
        unknown = np.full(M, nan), nan, nan, np.full((M, M), nan), np.full((M, M, 2), nan), (nan, nan), False
        return Strengths(models, len(judgements), *unknown, reason)
    with_nu = ties == "davidson" and counts[:, :, 1].any()
    X = np.stack([a / 2, np.zeros((C, M + 2)), -a / 2], 1)  # (C, 3, K)
    X[:, 1, M] = 1
    if not with_nu:
        X, counts = X[:, ::2], counts[:, :, ::2] + counts[:, :, 1:2] / 2  # (C, 2, K), (P, C, 2)
    X = X[..., [True] * M + [with_nu, side]]  # (C, k, K)
    K = X.shape[2]
    gauge = np.array([1.0] * M + [0.0] * (K - M))  # (K,)
    same = (cells[:, None, :2] == cells[None, :, :2]).all(2).sum(1)  # (C,) cells of the same two models
    pseudo = np.repeat(PSEUDO / same[:, None], X.shape[1], 1)  # (C, k)

    (phi,), (H,), (regularised,) = _fit(X, counts.sum(0)[None], pseudo, gauge)
    unit = np.eye(K)  # (K, K)
    # What is asked of φ: each θ_i − θ_j, and δ where it is the last.
    contrasts = np.concatenate([(unit[:M, None] - unit[None, :M]).reshape(M * M, K), unit[-1:]])  # (D, K)
    errors = np.sqrt(np.einsum("dp,pq,dq->d", contrasts, np.linalg.inv(H), contrasts))  # (D,)
    if P < 2:
        intervals = np.full((len(contrasts), 2), nan)  # (D, 2)
    elif regularised:
        intervals = (contrasts @ phi)[:, None] + errors[:, None] * NormalDist().inv_cdf(0.975) * np.array([-1, 1])
    else:
        drawn = np.tensordot(_resampled(P, n_resamples, seed), counts, 1)  # (R, C, k)
        phis, _, _ = _fit(X, drawn, pseudo, gauge)  # (R, K)
        intervals = np.quantile(contrasts @ phis.T, [0.025, 0.975], axis=1).T  # (D, 2)
    return Strengths(
        models,
        len(judgements),
        theta=phi[:M],
        nu=float(np.exp(phi[M])) if with_nu else 0.0,
        side=float(phi[-1]) if side else 0.0,
        errors=errors[:-1].reshape(M, M),
        differences=intervals[:-1].reshape(M, M, 2),
        side_interval=tuple(intervals[-1].tolist()) if side else (0.0, 0.0),
        regularised=bool(regularised),
    )


def length_controlled(
    lengths: Sequence[float], scores: Sequence[float], prompts: Sequence[Hashable], seed: int = 0
) -> Measure:
    """What the win rate would be if both answers were of one length.

        P(a wins) = σ(b0 + b1 tanh(Δ / sd(Δ)))        rate = σ(b0)

    lengths: (n,) Δ, length of a's answer less that of b's.  scores: (n,) 1, 0.5 or 0, a tie half a win.
    prompts: (n,), resampled for the interval.  Where length parts wins from losses to the last, PSEUDO of each
    is spread over the items. Source: Dubois et al. 2024, without its term for the prompt.
    """
    delta, y = np.asarray(lengths, dtype=float), np.asarray(scores, dtype=float)  # (n,)
    if len(delta) < 2:
        return undefined(len(delta), "fewer than 2 judgements")
    sd = float(delta.std(ddof=1))
    if sd == 0:
        return undefined(len(delta), "all differ in length by as much")
    z = np.column_stack([np.ones(len(y)), np.tanh(delta / sd)])  # (n, 2)
    X, n = np.stack([z / 2, -z / 2], 1), np.column_stack([y, 1 - y])  # (n, 2, 2), (n, 2)
    pseudo = np.full(n.shape, PSEUDO / len(y))  # (n, 2)
    phi, _, _ = _fit(X, n[None], pseudo, np.zeros(2))
    order = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    draws = _resampled(len(order), 1000, seed)[:, [order[x] for x in prompts]]  # (R, n)
    parts = [_fit(X, part[..., None] * n, pseudo, np.zeros(2))[0] for part in np.array_split(draws, 10)]
    rates = 1 / (1 + np.exp(-np.concatenate([phi, *parts])[:, 0]))  # (1 + R,)
    interval = percentiles(rates[1:]) if len(order) > 1 else (np.nan, np.nan)
    return Measure(float(rates[0]), interval, len(y))
