"""The PPO loop: what a round trains on, that it learns, and that it can be repeated and resumed."""

import dataclasses
import inspect
import json
import signal
from copy import deepcopy
from math import log, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.folders import load_state
from minirlhf.harness.loop import Run
from minirlhf.lm.batches import Mixture, micro_batches
from minirlhf.lm.generation import Sampling
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.optim import Stepper, make_adamw
from minirlhf.rl import ppo
from minirlhf.rl.algorithms import advantages_of, surrogate
from minirlhf.rl.config import ALGORITHMS, PPOConfig, adapt_beta
from minirlhf.rl.critic import start_critic
from minirlhf.rl.losses import gae, policy_loss, token_rewards, token_weights, value_loss, whiten
from minirlhf.rl.ppo import models_of, train, update
from minirlhf.rl.rollout import Models, collect, score_tokens
from minirlhf.rl.watch import Description, Optimum

CONFIG = PPOConfig(
    iterations=4, batch=8, minibatches=3, epochs=2, lr=1e-2, warmup=0, save_every=1, temperature=0.7, max_new=8
)
GROUPED = {name: {"group": 2} for name, algorithm in ALGORITHMS.items() if algorithm.group > 1}  # of 8 responses
PROMPTS = [{"prompt": "a"}, {"prompt": "longer"}, {"prompt": "bc"}, {"prompt": "b"}] * 2


def ascii_for_a(prompt: str, response: str, record: dict) -> float:
    """The share of ASCII characters in an answer to "a", of others in an answer to anything else."""
    return sum(c.isascii() == (prompt == "a") for c in response) / max(len(response), 1)


def config_of(algo: str, **more) -> PPOConfig:
    """CONFIG with another algorithm's choices."""
    return dataclasses.replace(CONFIG, algo=algo, **GROUPED.get(algo, {}) | more)


def run(policy, tokenizer, out, config=CONFIG, records_of=lambda step: PROMPTS, watchers=(), **told):
    """`start_critic` and `train` for `ascii_for_a`; the rollouts are described in the log."""
    reward_of = lambda record: ascii_for_a
    config = dataclasses.replace(config, max_new=config.max_new or 8)
    watchers = [Description(config.algorithm), *watchers]
    models, told = models_of(policy, tokenizer, config.algorithm, told.get("dtype", torch.float32)), Run(out, **told)
    start_critic(models, records_of, reward_of, config, told)
    cost = train(models, records_of, reward_of, config, told, watchers)
    return models.value_head, cost


def logged(out) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def state(module: torch.nn.Module) -> list[torch.Tensor]:
    """A copy of every parameter."""
    return [p.detach().clone() for p in module.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Whether they are the same to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def calls_of(monkeypatch):
    """A function that records the calls of a function of `ppo`: each has its arguments by name, and its `result`."""
    def listen(name: str) -> list[SimpleNamespace]:
        function, calls = getattr(ppo, name), []

        def spy(*args, **kwargs):
            bound = inspect.signature(function).bind(*args, **kwargs)
            bound.apply_defaults()
            calls.append(SimpleNamespace(**bound.arguments))
            calls[-1].result = function(*args, **kwargs)
            return calls[-1].result

        monkeypatch.setattr(ppo, name, spy)
        return calls

    return listen


@pytest.fixture
def value_head() -> ScalarHead:
    """One that says something."""
    torch.manual_seed(7)
    head = ScalarHead(16)
    torch.nn.init.normal_(head.weight, std=0.1)
    return head


@pytest.fixture
def made(make_policy, value_head, tokenizer) -> tuple:
    """(policy, value head, a ragged rollout whose scores tell the responses apart)"""
    policy = make_policy(0)
    models = Models(policy, value_head, make_policy(1), tokenizer)
    r = collect(models, PROMPTS, lambda record: ascii_for_a, range(8), Sampling(8, CONFIG.temperature), 0.0)
    r.scores = torch.arange(8.0)
    assert len(set(r.mask.sum(1).tolist())) >= 3
    return policy, value_head, r


def models_with(policy, head) -> Models:
    """Who takes part in an update, which asks nothing of the others."""
    return Models(policy, head, policy, None)


def one_round(made, config=CONFIG, lr=0.0):
    """The metrics of a round's update of copies, and what became of the parameters.

    By plain gradient descent: Adam would blow up the rounding of a gradient that is 0.
    """
    policy, head, r = deepcopy(made)
    r = advantages_of(r, config.algorithm, 0.1)
    stepper = Stepper(torch.optim.SGD([*policy.parameters(), *head.parameters()]), config.max_norm)
    metrics = update(models_with(policy, head), r, config, 0.1, stepper, lr, np.random.default_rng(3))
    return metrics, state(policy) + state(head)


def one_gradient(made, config, parts):
    """The gradient of one optimizer step on the rollout, in the given parts, and the watched sums."""
    policy, head, r = deepcopy(made)
    r = advantages_of(r, config.algorithm, 0.1)
    weights = token_weights(r.mask, config.algorithm.aggregate, config.max_new)
    total: dict[str, float] = {}
    for index in parts:
        rows = r.rows(index) if len(parts) > 1 else r
        logprobs, values, _ = score_tokens(policy, head, rows, config.temperature)
        loss, watch = surrogate(logprobs, values, rows, weights[index, : rows.ids.shape[1]], config.algorithm, 0.1)
        loss.backward()
        total = {k: total.get(k, 0.0) + float(v) for k, v in watch.items()}
    return [p.grad for p in [*policy.parameters(), *head.parameters()]], total


# What a round trains on


@pytest.mark.parametrize("micro_rows", [1, 2, 64])
def test_the_ratio_is_1_before_the_first_step(made, micro_rows):
    """On every row of every minibatch, however it is trimmed: with learning rate 0 no step is a step."""
    policy, head, r = made
    with torch.no_grad():
        for start in range(0, 8, 3):
            for part in micro_batches(r.mask.sum(1)[start : start + 3].tolist(), micro_rows):
                rows = r.rows([start + i for i in part])
                logprobs, _, _ = score_tokens(policy, head, rows, CONFIG.temperature)
                assert float(((logprobs - rows.logprobs).exp() - 1)[rows.mask].abs().max()) < 1e-6
    config = dataclasses.replace(CONFIG, micro_rows=micro_rows)
    metrics, _ = one_round(made, config)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6) and metrics["clip_frac"] == 0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_no_metric_and_no_gradient_depends_on_padding(made, pad_rollout, algo):
    """Every number that a round logs, with more columns on both sides and NaN in them, after real steps."""
    config = config_of(algo)
    policy, head, r = made
    wide = pad_rollout(r, 5, 3)
    wider = policy, head, wide
    described, wide_described = (
        Description(config.algorithm)(advantages_of(rows, config.algorithm, 0.1), PROMPTS, 0.1) for rows in (r, wide)
    )
    assert wide_described == pytest.approx(described, rel=1e-5)
    clean, weights = one_round(made, config, lr=0.1)
    same_metrics, same_weights = one_round(wider, config, lr=0.1)
    assert same_metrics == pytest.approx(clean, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(same_weights, weights, atol=1e-5, rtol=1e-4)
    everything = [list(range(8))]
    gradients, sums = one_gradient(made, config, everything)
    wide_gradients, wide_sums = one_gradient(wider, config, everything)
    assert wide_sums == pytest.approx(sums, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(wide_gradients, gradients, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_gradient_does_not_depend_on_micro_batches(made, algo, size):
    config = config_of(algo)
    whole, sums = one_gradient(made, config, [list(range(8))])
    cut, cut_sums = one_gradient(made, config, [list(range(s, s + size)) for s in range(0, 8, size)])
    assert cut_sums == pytest.approx(sums, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("micro_rows", [1, 2])
def test_a_round_does_not_depend_on_micro_rows(made, micro_rows):
    metrics, weights = one_round(made, lr=0.1)
    cut_metrics, cut_weights = one_round(made, dataclasses.replace(CONFIG, micro_rows=micro_rows), lr=0.1)
    assert cut_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(cut_weights, weights, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("algo, epochs", [("ppo", 3), ("reinforce", 1)])
def test_every_response_is_used_once_an_epoch_in_a_new_order(made, calls_of, algo, epochs):
    calls = calls_of("surrogate")
    one_round(made, config_of(algo, epochs=epochs))
    used = [call.rows.scores.tolist() for call in calls]
    assert max(map(len, used)) == 3  # the minibatch; 8 responses make 3 + 3 + 2
    flat = [score for part in used for score in part]
    orders = [flat[8 * e : 8 * e + 8] for e in range(epochs)]
    assert len(flat) == 8 * epochs and all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == epochs


def test_rows_keep_their_own_advantages_and_returns(made, calls_of):
    """Through shuffling, minibatches, sorting by length and trimming."""
    whole, calls = advantages_of(made[2], CONFIG.algorithm, 0.1), calls_of("surrogate")
    one_round(made)
    for rows in (call.rows for call in calls):
        for b, score in enumerate(rows.scores.long().tolist()):
            for got, all_of_them in ((rows.advantages, whole.advantages), (rows.returns, whole.returns)):
                assert torch.equal(got[b, rows.mask[b]], all_of_them[score, whole.mask[score]])
    assert len(calls) >= 6 and float(whole.advantages.abs().sum()) > 0


def test_advantages_are_whitened_over_the_batch_and_returns_are_not(made):
    """Whitening a row at a time would erase which response was better; whitened returns teach no value."""
    _, _, r = made
    r = advantages_of(r, dataclasses.replace(CONFIG, lam=1.0).algorithm, 0.0)
    advantages = r.advantages
    assert float(advantages[r.mask].mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages[r.mask].var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert float(advantages[7, 0]) - float(advantages[0, 0]) > 2  # of responses that scored 7 and 0
    expected = torch.where(r.mask, r.scores[:, None], 0.0)  # λ = γ = 1, β = 0: the score itself
    torch.testing.assert_close(r.returns, expected, atol=1e-5, rtol=0)


def test_every_setting_of_ppos_loss_is_used(made):
    """Advantages, returns and loss are those of losses.py with β, γ, λ, the three clips and the coefficient."""
    policy, head, r = made
    algorithm = PPOConfig(lam=0.8, clip=0.01, clip_high=0.03, value_clip=0.02, value_coefficient=0.3).algorithm
    raw, returns = gae(token_rewards(r.scores, r.logprobs - r.ref_logprobs, r.mask, 0.4), r.values, r.mask, 0.9, 0.8)
    r = advantages_of(r, algorithm, 0.4, 0.9)
    assert torch.equal(r.advantages, whiten(raw, r.mask)) and torch.equal(r.returns, returns)
    r.logprobs, r.values = r.logprobs + 0.1 * r.mask, r.values + 0.1 * r.mask  # so that the clips bind
    weights = token_weights(r.mask, "token", 8)
    logprobs, values, _ = score_tokens(policy, head, r, 0.7)
    loss, _ = surrogate(logprobs, values, r, weights, algorithm, 0.4)
    wanted = policy_loss(logprobs, r.logprobs, r.advantages, weights, 0.01, 0.03)[0]
    wanted = wanted + 0.3 * value_loss(values, r.values, returns, weights, 0.02)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("setting", [
    {"gamma": 0.5}, {"value_clip": 0.01}, {"value_coefficient": 0.1}, {"lam": 0.5}, {"clip": 0.001},
    {"clip_high": 0.001}, {"beta": 0.5}, {"temperature": 0.9}, {"aggregate": "sequence"}, {"whiten": False},
    {"kl_in": "loss"}, {"kl": "k3"}, {"ratio": "none"}, {"baseline": "none"}, {"missing_eos": -1.0},
], ids=lambda setting: next(iter(setting)))  # fmt: skip
def test_the_loop_hands_on_every_setting(make_policy, tokenizer, tmp_path, setting):
    """Another value of it trains another policy."""
    results = []
    for name, more in (("a", {}), ("b", setting)):
        policy = make_policy(0)
        config = dataclasses.replace(CONFIG, **{"iterations": 2, "beta": 0.1, "lr": 3e-3, "max_norm": 9.0} | more)
        run(policy, tokenizer, tmp_path / name, config)
        results.append(state(policy))
    assert not same(*results)


def test_the_constant_of_dr_grpo_is_the_longest_response_allowed(make_policy, tokenizer, tmp_path, calls_of):
    """The 8 tokens of max_new, not the longest of a step, here of two responses."""
    calls = calls_of("surrogate")
    config = config_of("dr-grpo", iterations=1, minibatches=8)
    run(make_policy(0), tokenizer, tmp_path, config, records_of=lambda step: PROMPTS[:4])
    seen = [(call.weights[call.rows.mask].tolist(), int(call.rows.mask.sum())) for call in calls]
    assert all(weights == [1 / 16] * n for weights, n in seen) and min(n for _, n in seen) < 16


def test_a_group_answers_one_prompt(make_policy, tokenizer, tmp_path, calls_of):
    """Rows one after the other, each with random numbers of its own."""
    calls, config = calls_of("collect"), config_of("grpo", iterations=1, group=4)
    run(make_policy(0), tokenizer, tmp_path, config, records_of=lambda step: PROMPTS[:2])
    (call,) = calls  # and no round for a critic
    assert call.records == [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4 and len(set(call.seeds)) == 8


@pytest.mark.parametrize("micro_rows", [1, 64])
def test_losses_and_norms_are_logged_as_means_over_steps(made, calls_of, monkeypatch, micro_rows):
    """A step's loss is the sum of its micro-batches', a norm that before clipping."""
    calls, norms, step = calls_of("surrogate"), [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, lr: norms.append(step(self, lr)) or norms[-1])
    metrics, _ = one_round(made, dataclasses.replace(CONFIG, micro_rows=micro_rows), lr=0.1)
    policy_losses, value_losses = (
        [float(watch[name]) for _, watch in (call.result for call in calls)] for name in ("policy_loss", "value_loss")
    )
    assert len(norms) == 6 and len(calls) == {1: 16, 64: 6}[micro_rows]
    assert metrics["policy_loss"] == pytest.approx(sum(policy_losses) / 6, rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(sum(value_losses) / 6, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / 6) != pytest.approx(norms[-1])


def test_the_gradient_is_clipped_to_max_norm(make_policy, tokenizer, tmp_path):
    """To one that float32 does not tell from 0: nothing moves."""
    policy = make_policy(0)
    run(policy, tokenizer, tmp_path, dataclasses.replace(CONFIG, max_norm=1e-60))
    assert same(state(policy), state(make_policy(0)))


def test_entropy_lies_between_0_and_log_v_and_is_that_of_real_tokens(made, tokenizer):
    policy, head, r = made
    metrics, _ = one_round(made, dataclasses.replace(CONFIG, epochs=1))
    with torch.no_grad():
        _, _, H = score_tokens(policy, head, r, CONFIG.temperature)
    assert 0 < metrics["entropy"] < log(tokenizer.vocab_size)
    assert metrics["entropy"] == pytest.approx(float(H[r.mask].mean()), rel=1e-5)


def test_a_step_moves_towards_what_was_better_than_expected(made):
    """After small steps the tokens of positive advantage are likelier, those of negative less."""
    policy, head, r = made
    r = advantages_of(r, CONFIG.algorithm, 0.0)
    stepper = Stepper(make_adamw([policy, head], 1.0, 0.0), 1.0)
    update(models_with(policy, head), r, CONFIG, 0.0, stepper, 1e-4, np.random.default_rng(0))
    with torch.no_grad():
        logprobs, _, _ = score_tokens(policy, head, r, CONFIG.temperature)
    assert float((r.advantages * (logprobs - r.logprobs))[r.mask].sum()) > 0


# The loop


@pytest.mark.parametrize("seed, config", [
    (0, PPOConfig("ppo", iterations=30, epochs=2, minibatches=4, lr=1e-2, warmup=5, beta=0.0)),
    (1, PPOConfig("reinforce-baseline", iterations=60, minibatches=2, lr=1e-2, warmup=5, beta=0.0)),
    (0, PPOConfig("rloo", iterations=60, minibatches=2, lr=1e-2, warmup=5, beta=0.0)),
    (1, PPOConfig("grpo", iterations=60, minibatches=4, lr=1e-2, warmup=5, beta=0.0)),
], ids=["ppo", "reinforce-baseline", "rloo", "grpo"])
def test_it_learns(make_policy, tokenizer, tmp_path, config, seed):
    """To end, and to answer in ASCII to "a" and not to "b": blind to the prompt it would earn 0.5."""
    prompts = [{"prompt": "a"}, {"prompt": "b"}] * (32 // config.algorithm.group)
    run(make_policy(seed), tokenizer, tmp_path, config, lambda step: prompts, seed=seed)
    rewards = [record["reward"] for record in logged(tmp_path)]
    assert rewards[0] < 0.2 and np.mean(rewards[-5:]) > 0.85


def test_a_larger_beta_keeps_the_policy_nearer_to_the_reference(make_policy, tokenizer, tmp_path):
    """A reward model is exploited where the KL costs nothing: with β = 2 the policy stays."""
    kl = {}
    for beta in (0.0, 2.0):
        config = dataclasses.replace(CONFIG, iterations=12, beta=beta, temperature=1.0, save_every=20)
        run(make_policy(0), tokenizer, tmp_path / str(beta), config, records_of=lambda step: PROMPTS * 4)
        kl[beta] = np.mean([record["kl"] for record in logged(tmp_path / str(beta))[-4:]])
    assert kl[2.0] < 0.5 * kl[0.0]


@pytest.mark.parametrize("algo", ["ppo", "rloo"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make_policy, tokenizer, tmp_path, algo):
    config = config_of(algo)
    results = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        policy = make_policy(0)
        head, _ = run(policy, tokenizer, tmp_path / name, config, seed=seed)
        results.append(state(policy) + (state(head) if head else []))
    assert same(results[0], results[1]) and not same(results[0], results[2])


def test_every_round_and_seed_draws_its_own_random_numbers(make_policy, tokenizer, tmp_path, calls_of):
    """The policy hardly moves, the prompts are the same, and yet no two rounds sample the same responses."""
    calls = calls_of("collect")
    for seed in (0, 1):
        run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, lr=1e-12), seed=seed)
    sampled = [call.result for call in calls]
    assert len({str(r.ids[r.mask].tolist()) for r in sampled}) == len(sampled) == 2 * (1 + 4)


@pytest.mark.parametrize("stop_in, kl_target", [(0, 0.5), (2, 0.5), (2, 0.0)])
def test_a_run_that_is_interrupted_and_resumed_gives_the_same_bits(
    make_policy, tokenizer, tmp_path, monkeypatch, stop_in, kl_target
):
    """Weights, value head, learning rate, β that adapts, what a watcher counts, and log with a step skipped in
    round 1; after a SIGTERM in round 1 or 3 of 4."""
    config = dataclasses.replace(CONFIG, kl_target=kl_target, kl_horizon=50.0, save_every=3)
    whole, cut = make_policy(0), make_policy(0)
    monkeypatch.setattr(ppo, "surrogate", breaking(surrogate, {1}))
    seen = [Optimum(config.beta), Optimum(config.beta), Optimum(config.beta)]
    head, cost = run(whole, tokenizer, tmp_path / "whole", config, watchers=seen[:1])
    monkeypatch.setattr(ppo, "surrogate", breaking(surrogate, {1}))

    def records_of(step):
        if step == stop_in:
            signal.raise_signal(signal.SIGTERM)
        return PROMPTS

    with pytest.raises(Interrupted, match=f"after step {stop_in + 1} of 4"):
        run(cut, tokenizer, tmp_path / "cut", config, records_of, seen[1:2])
    monkeypatch.setattr(ppo, "surrogate", surrogate)
    again = make_policy(0)
    resumed_head, resumed_cost = run(again, tokenizer, tmp_path / "cut", config, watchers=seen[2:], resume=True)
    assert same(state(again) + state(resumed_head), state(whole) + state(head))
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in logged(tmp_path / name)]
               for name in ("whole", "cut")]
    assert untimed[0] == untimed[1] and [record["step"] for record in untimed[0]] == [1, 2, 3, 4]
    assert len({record["beta"] for record in untimed[0]}) == (4 if kl_target else 1)
    assert seen[2].best() == seen[0].best() != seen[1].best()
    del cost["seconds"], resumed_cost["seconds"]
    assert resumed_cost == cost and cost["skipped"] == 1


def test_a_resumed_run_keeps_the_first_policy_as_its_reference(make_policy, tokenizer, tmp_path, monkeypatch):
    """And not the weights it goes on with, from which the KL would be counted anew."""
    references = []

    def spy(models, *rest):
        references.append(state(models.reference))
        return collect(models, *rest)

    def records_of(step):
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
        return PROMPTS

    monkeypatch.setattr(ppo, "collect", spy)
    with pytest.raises(Interrupted):
        run(make_policy(0), tokenizer, tmp_path, records_of=records_of)
    run(make_policy(0), tokenizer, tmp_path, resume=True)
    assert all(same(reference, state(make_policy(0))) for reference in references)


def test_a_resume_with_other_settings_or_nothing_to_resume_is_refused(make_policy, tokenizer, tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run(make_policy(0), tokenizer, tmp_path, resume=True)
    run(make_policy(0), tokenizer, tmp_path)
    with pytest.raises(UserError, match="clip = 0.2, now 0.3"):
        run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, clip=0.3), resume=True)
    with pytest.raises(UserError, match="seed = 0, now 1"):
        run(make_policy(0), tokenizer, tmp_path, seed=1, resume=True)


def test_the_reference_is_frozen_and_shares_no_storage(make_policy, tokenizer, tmp_path, calls_of):
    calls = calls_of("collect")
    run(make_policy(0), tokenizer, tmp_path)
    policy, reference = calls[-1].models.policy, calls[-1].models.reference
    assert same(state(reference), state(make_policy(0))) and not same(state(policy), state(reference))
    assert not any(p.requires_grad or p.grad is not None for p in reference.parameters())
    pointers = [{p.data_ptr() for p in module.parameters()} for module in (policy, reference)]
    assert not pointers[0] & pointers[1]


def test_dropout_is_off_whatever_the_config_says(make_policy, tokenizer, tmp_path):
    """A policy that comes in train mode with dropout learns what one without does, to the bit."""
    plain, dropping = make_policy(0), make_policy(0, dropout=0.5).train()
    run(plain, tokenizer, tmp_path / "a")
    run(dropping, tokenizer, tmp_path / "b")
    assert same(state(dropping), state(plain))


def test_the_learning_rate_rises_and_falls_to_0_on_a_line(make_policy, tokenizer, tmp_path, monkeypatch):
    used = []
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self, lr: used.append(lr) or step(self, lr))
    run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, iterations=6, warmup=2))
    line = [5e-3, 1e-2, 1e-2, 7.5e-3, 5e-3, 2.5e-3]  # and 0 where a seventh round would be
    assert [record["lr"] for record in logged(tmp_path)] == pytest.approx(line)
    assert used == pytest.approx([lr for lr in line for _ in range(2 * 3)])  # epochs × minibatches


def test_adaptive_beta_follows_the_kl_of_each_round(make_policy, tokenizer, tmp_path):
    """Down while the policy is the reference, up once it is further off than the target."""
    config = dataclasses.replace(CONFIG, iterations=6, beta=0.05, kl_target=0.2, kl_horizon=20.0)
    run(make_policy(0), tokenizer, tmp_path, config)
    records = logged(tmp_path)
    assert records[0]["beta"] == 0.05 and records[0]["kl"] == pytest.approx(0, abs=1e-5)
    for now, then in zip(records, records[1:]):
        assert then["beta"] == pytest.approx(adapt_beta(now["beta"], now["kl"], 0.2, 20.0, 8), rel=1e-6)
    changes = [then["beta"] > now["beta"] for now, then in zip(records, records[1:])]
    assert changes[0] is False and True in changes


def test_beta_stays_without_a_target(make_policy, tokenizer, tmp_path):
    run(make_policy(0), tokenizer, tmp_path)
    assert {record["beta"] for record in logged(tmp_path)} == {CONFIG.beta}


def test_what_is_logged_is_complete_and_finite(make_policy, tokenizer, tmp_path):
    run(make_policy(0), tokenizer, tmp_path)
    names = "reward kl objective entropy length ended approx_kl clip_frac ratio policy_loss value_loss "
    names += "explained_variance grad_norm skipped sampler_gap"
    for record in logged(tmp_path):
        assert set(names.split()) <= set(record)
        assert None not in [v for k, v in record.items() if k not in ("optimum/all", "share/all")]
        assert record["skipped"] == 0
        assert record["approx_kl"] >= 0 and 0 <= record["clip_frac"] <= 1
        assert record["explained_variance"] <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_one_step_a_round_every_round_is_on_policy(make_policy, tokenizer, tmp_path, dtype):
    """Sampled, scored and trained at one temperature, in one dtype: the ratio is 1 whenever the first step is taken."""
    config = dataclasses.replace(CONFIG, epochs=1, minibatches=1)
    run(make_policy(0), tokenizer, tmp_path, config, dtype=dtype)
    for record in logged(tmp_path):
        assert record["ratio"] == pytest.approx(1, abs=1e-6) and record["clip_frac"] == 0
        assert record["approx_kl"] == pytest.approx(0, abs=1e-6) and record["sampler_gap"] < 1e-5


def test_a_run_scores_what_did_not_end_as_it_is_told(make_policy, tokenizer, tmp_path):
    run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, iterations=1, missing_eos=-100.0))
    (record,) = logged(tmp_path)
    assert record["ended"] < 1
    assert -100 * (1 - record["ended"]) <= record["reward"] <= -100 * (1 - record["ended"]) + record["ended"]


def test_the_value_head_is_trained_with_the_policy(make_policy, tokenizer, tmp_path):
    """A critic that starts at 0 and not at a fit does not stay there."""
    models = models_of(make_policy(0), tokenizer, CONFIG.algorithm)
    train(models, lambda step: PROMPTS, lambda record: ascii_for_a, dataclasses.replace(CONFIG, max_new=8), Run(tmp_path))
    assert all(bool((p != 0).all()) for p in state(models.value_head))


def breaking(loss_of, rounds):
    """`surrogate` with a loss that is not finite on the calls numbered in `rounds`."""
    calls = []

    def broken(*arguments):
        loss, watch = loss_of(*arguments)
        calls.append(None)
        return (loss * nan if len(calls) - 1 in rounds else loss), watch

    return broken


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(make_policy, tokenizer, tmp_path, monkeypatch):
    """The second and third optimizer step of six; the weights stay finite, and the others count."""
    monkeypatch.setattr(ppo, "surrogate", breaking(surrogate, {1, 2}))
    policy = make_policy(0)
    head, cost = run(policy, tokenizer, tmp_path, dataclasses.replace(CONFIG, iterations=1))
    assert cost["skipped"] == 2 and logged(tmp_path)[-1]["skipped"] == 2
    assert all(bool(p.isfinite().all()) for p in state(policy) + state(head))
    assert not same(state(policy), state(make_policy(0)))


def test_a_run_that_diverges_leaves_the_last_good_state(make_policy, tokenizer, tmp_path, monkeypatch):
    """From the second round on; the state is that of the first."""
    monkeypatch.setattr(ppo, "surrogate", breaking(surrogate, range(6, 99)))
    policy = make_policy(0)
    with pytest.raises(Diverged, match="step 2: .*5 steps in a row"):
        run(policy, tokenizer, tmp_path)
    saved = load_state(tmp_path / "train_state.pt")
    assert saved["step"] == 1 and same(list(saved["parts"]["policy"].values()), state(policy))


def test_a_round_too_large_for_the_horizon_is_refused(make_policy, tokenizer, tmp_path):
    """Twelve responses in a horizon of two could turn β negative, which would reward the KL."""
    config = dataclasses.replace(CONFIG, kl_target=6.0, kl_horizon=len(PROMPTS) / 5)
    message = "--kl-horizon .*: .* responses in a horizon of .*: beta could turn negative; give more than"
    with pytest.raises(UserError, match=message):
        run(make_policy(0), tokenizer, tmp_path, config)


def test_a_short_run_reaches_its_peak_rate(make_policy, tokenizer, tmp_path):
    run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, iterations=2, warmup=10))
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates == [CONFIG.lr, CONFIG.lr]


def test_a_batch_smaller_than_a_group_is_refused(make_policy, tokenizer, tmp_path):
    """Half a prompt a round is none in the first."""
    rounds = Mixture({"data": (PROMPTS, 4 / 8)}, 0).step
    with pytest.raises(UserError, match="--batch 4: not one prompt a round, at 8 responses to each"):
        run(make_policy(0), tokenizer, tmp_path, config_of("rloo", batch=4, group=8), records_of=rounds)


def test_micro_rows_bounds_the_scoring_of_a_rollout_too(make_policy, tokenizer, tmp_path, calls_of):
    """Memory is what it is for: a pass of more rows anywhere would defeat it."""
    calls = calls_of("collect")
    run(make_policy(0), tokenizer, tmp_path, dataclasses.replace(CONFIG, iterations=1, micro_rows=3))
    assert [call.micro_rows for call in calls] == [3, 3]  # the critic's round, and the one of training


def test_two_watchers_of_one_class_go_on_each_where_it_stood(make_policy, tokenizer, tmp_path):
    """And a run that is watched otherwise is another run."""
    def records_of(step):
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
        return PROMPTS

    whole, cut = ([Optimum(0.1), Optimum(5.0)] for _ in range(2))
    run(make_policy(0), tokenizer, tmp_path / "a", watchers=whole)
    with pytest.raises(Interrupted):
        run(make_policy(0), tokenizer, tmp_path / "b", records_of=records_of, watchers=[Optimum(0.1), Optimum(5.0)])
    with pytest.raises(UserError, match="saved with parts = "):
        run(make_policy(0), tokenizer, tmp_path / "b", watchers=[Optimum(0.1)], resume=True)
    run(make_policy(0), tokenizer, tmp_path / "b", watchers=cut, resume=True)
    assert [watcher.best() for watcher in cut] == [watcher.best() for watcher in whole]
