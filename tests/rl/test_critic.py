"""The critic's start: the value head is the least-squares fit of the returns of a round of its own."""

import dataclasses
from math import nan

import pytest
import torch

from minirlhf.harness.loop import Run
from minirlhf.lm.generation import Sampling
from minirlhf.lm.model import ScalarHead
from minirlhf.rl import critic
from minirlhf.rl.config import PPOConfig
from minirlhf.rl.critic import FOLDS, RIDGES, best_fit, fit_value_head, start_critic
from minirlhf.rl.ppo import models_of, train
from minirlhf.rl.rollout import Models, collect, response_hidden, score_tokens

RECORDS = [{"prompt": "a"}, {"prompt": "longer"}, {"prompt": "bc"}, {"prompt": "b"}] * 2
CONFIG = PPOConfig(iterations=4, batch=8, minibatches=3, epochs=2, lr=1e-2, warmup=0, gamma=0.9, max_new=8)
LENGTH = lambda prompt, response, record: float(len(response))


def random_head() -> ScalarHead:
    """A value head that says something."""
    torch.manual_seed(7)
    head = ScalarHead(16)
    with torch.no_grad():
        head.weight.normal_()
        head.bias.fill_(0.5)
    return head


@pytest.fixture
def made(make_policy, tokenizer):
    """(policy, a ragged rollout of it)"""
    models = Models(make_policy(0), None, make_policy(1), tokenizer)
    return models.policy, collect(models, RECORDS, lambda record: LENGTH, range(8), Sampling(10, 0.7), -1.0)


def test_the_fitted_value_head_is_the_least_squares_fit(made):
    """Against the normal equations with a column of ones; the intercept is not shrunk."""
    policy, r = made
    r.returns = torch.where(r.mask, torch.randn(r.mask.shape, generator=torch.Generator().manual_seed(0)), nan)
    head = ScalarHead(16)
    fit_value_head(policy, head, r, ridges=(0.1,))
    with torch.no_grad():
        hidden, n = response_hidden(policy, r)  # (N', C)
        X = hidden[:n].double()  # (N, C)
    penalty = 0.1 * float(X.var(0, correction=0).mean()) * len(X) * torch.diag(torch.tensor([1.0] * 16 + [0.0])).double()
    X = torch.cat([X, torch.ones(len(X), 1)], 1)  # (N, C + 1)
    best = torch.linalg.solve(X.T @ X + penalty, X.T @ r.returns[r.mask].double())  # (C + 1,)
    fitted = torch.cat([head.weight[0], head.bias]).detach().double()
    torch.testing.assert_close(fitted, best, atol=1e-4, rtol=1e-4)


def test_the_fit_finds_a_linear_value_function(made):
    """Without ridge, from returns that are linear in the hidden state, in micro-batches of a row."""
    policy, r = made
    with torch.no_grad():
        _, r.returns, _ = score_tokens(policy, random_head(), r)
        head = ScalarHead(16)
        fit_value_head(policy, head, r, micro_rows=1, ridges=(1e-9,))
        _, values, _ = score_tokens(policy, head, r)
    torch.testing.assert_close(values, r.returns, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_few_answers_are_not_learnt_by_heart(seed):
    """States of 5 tokens that hardly differ within an answer, returns by luck, and about as many numbers as answers.

    On fresh answers the fit errs about as much as a constant. A small ridge, or tokens left out one by one, errs more.
    """
    draw = torch.Generator().manual_seed(seed)
    X, y = (torch.randn(2, 40, 1, n, generator=draw, dtype=torch.float64) for n in (36, 1))
    X = (X + 0.1 * torch.randn(2, 40, 5, 36, generator=draw, dtype=torch.float64)).flatten(1, 2)  # (2, 200, C)
    y = y.expand(2, 40, 5, 1).flatten(1)  # (2, 200)
    answers, tokens = torch.arange(200) // 5 % FOLDS, torch.arange(200) % FOLDS

    def error(*how) -> float:
        w, b = best_fit(X[0], y[0], *how)
        return float(((X[1] @ w + b - y[1]) ** 2).mean() / ((y[0].mean() - y[1]) ** 2).mean())

    assert error(answers, RIDGES) < 1.2
    assert error(answers, (1e-3,)) > 1.5 and error(tokens, RIDGES) > 1.5


def test_where_nothing_can_be_left_out_the_strongest_ridge_is_taken():
    """All answers to one prompt: more numbers than answers would learn any returns by heart."""
    X, y = (torch.randn(40, *n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) for n in ((64,), ()))
    w, b = best_fit(X, y, torch.zeros(40), RIDGES)
    assert float(((X @ w + b - y) ** 2).mean()) > 0.9 * float(y.var(correction=0))


def test_the_answers_to_a_prompt_are_left_out_together(made, monkeypatch):
    """Every token of a row, and every row of a prompt, is in one fold, whatever the micro-batches."""
    policy, r = made
    r.returns, seen = torch.zeros_like(r.returns), []
    monkeypatch.setattr(critic, "FOLDS", 3)
    monkeypatch.setattr(critic, "best_fit", lambda X, y, fold, ridges: seen.append(fold) or best_fit(X, y, fold, ridges))
    for micro_rows in (1, 64):
        fit_value_head(policy, ScalarHead(16), r, micro_rows, group=2)
        lengths = r.mask.sum(1).tolist()
        wanted = sorted(row // 2 % 3 for row, n in enumerate(lengths) for _ in range(n))
        assert sorted(seen.pop().tolist()) == wanted


def test_many_answers_choose_a_ridge_that_lets_them_speak(made):
    """Returns that are linear in the hidden state are found by the default, too."""
    policy, r = made
    with torch.no_grad():
        _, r.returns, _ = score_tokens(policy, random_head(), r)
        fit_value_head(policy, head := ScalarHead(16), r)
        _, values, _ = score_tokens(policy, head, r)
    assert float(((values - r.returns)[r.mask] ** 2).mean()) < 0.01 * float(r.returns[r.mask].var())


def test_the_critic_is_fitted_to_the_monte_carlo_returns_of_a_round_of_its_own(
    make_policy, tokenizer, tmp_path, monkeypatch
):
    """So that no response is judged by a critic that has seen its return."""
    fits, asked, trained = [], [], []
    monkeypatch.setattr(critic, "fit_value_head", lambda *a: fits.append(a[2:]) or fit_value_head(*a))
    models, records_of = models_of(make_policy(0), tokenizer, CONFIG.algorithm), lambda n: asked.append(n) or RECORDS
    config = dataclasses.replace(CONFIG, micro_rows=3)
    start_critic(models, records_of, lambda record: LENGTH, config, Run(tmp_path))
    ((rollout, micro_rows, group),) = fits
    for b, n in enumerate(rollout.mask.sum(1).tolist()):  # without a KL: the policy still is the reference
        discounted = [0.9 ** (n - 1 - t) * float(rollout.scores[b]) for t in range(n)]
        assert rollout.returns[b, rollout.mask[b]].tolist() == pytest.approx(discounted)
    assert float(rollout.scores.abs().sum()) > 0 and float(rollout.values.abs().sum()) == 0 and (micro_rows, group) == (3, 1)
    keep = lambda rollout, records, beta: trained.append(rollout) or {}
    train(models, records_of, lambda record: LENGTH, config, Run(tmp_path), [keep])
    assert asked == [4, 0, 1, 2, 3] and all(rollout.ids.tolist() != r.ids.tolist() for r in trained)
    assert float(trained[0].values.abs().sum()) > 0


@pytest.mark.parametrize("algo, resume", [("ppo", True), ("reinforce", False)])
def test_a_resume_and_an_algorithm_without_a_critic_start_none(make_policy, tokenizer, tmp_path, algo, resume):
    """Neither asks for a prompt."""
    models = models_of(make_policy(0), tokenizer, PPOConfig(algo).algorithm)
    start_critic(models, lambda n: pytest.fail("asked"), lambda record: LENGTH, CONFIG, Run(tmp_path, resume=resume))
    assert models.value_head is None if algo == "reinforce" else not models.value_head.weight.any()
