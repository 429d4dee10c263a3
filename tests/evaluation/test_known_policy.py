"""The evaluator on a policy so small that all it can say is listed: what it makes of samples, against the truth.

From the sampler to J*, with the modules that an evaluation uses; `theory/oracle.py` knows the truth. What rests on
chance may be ERRORS standard errors off.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch

from minirlhf.evaluation.ask import token_statistics
from minirlhf.evaluation.optimum import regret_metrics
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.metrics.intervals import standard_error
from minirlhf.metrics.scores import expected_best_of_n
from minirlhf.rl.optimum import best_of_n
from minirlhf.theory import oracle

ERRORS = 4  # one check in 16,000 is further off by chance
BETA, N = 0.3, 2000
MDP = oracle.TokenMDP(4, 0, 4, ((2,), (3, 1, 2)), lambda prompt, said: min(said.count(1), 2) / 2)


@pytest.fixture(scope="module")
def models() -> tuple[GPT, GPT]:
    """What 30 exact gradient steps on J make of a random GPT; and that GPT, the reference."""
    noise = torch.Generator().manual_seed(1)
    reference = GPT(GPTConfig(MDP.vocab_size, context=8, layers=1, heads=2, width=16)).eval()
    for p in reference.parameters():
        p.data = 1.0 * (p.data.mean() > 0.5) + 0.2 * torch.randn(p.shape, generator=noise)
    policy, log_ref = deepcopy(reference), oracle.gpt_table(reference, MDP).detach()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (-oracle.objective(oracle.gpt_table(policy, MDP), log_ref, MDP, BETA)).backward()
        optimizer.step()
    return policy, reference


@pytest.fixture(scope="module")
def tables(models) -> list[torch.Tensor]:
    """log π and log ref of every token behind every prefix, (X, S, V) each."""
    return [oracle.gpt_table(model, MDP).detach() for model in models]


@pytest.fixture(scope="module")
def sampled(models) -> list[dict[str, np.ndarray]]:
    """Of N responses of each model to each of the two prompts, (2 N,), their statistics, reward and length."""
    policy, reference = models
    place = {said: i for i, said in enumerate(MDP.responses)}
    asked, rng = np.arange(2).repeat(N), np.random.default_rng(0)
    out = []
    for model in models:
        seeds = rng.integers(2**62, size=2 * N).tolist()
        g = generate(model, [MDP.prompts[x] for x in asked], Sampling(MDP.max_new), MDP.eos_id, seeds)
        said = [place[tuple(ids[:end])] for ids, end in zip(g.ids.tolist(), g.mask.sum(1).tolist())]
        found = {k: x.double().sum(1).numpy() for k, x in token_statistics(model, reference, g).items()}
        found["log_ratio"] = token_statistics(policy, reference, g)["k1"].double().sum(1).numpy()
        out.append(found | {"reward": MDP.scores[asked, said].numpy(), "tokens": MDP.mask[said].sum(1).numpy()})
    return out


@pytest.mark.parametrize("name", ["kl", "k1", "k3", "entropy", "reward"])
def test_the_mean_of_what_was_sampled_is_the_oracles_expectation(name, tables, sampled):
    log_pi, log_ref = tables
    if name == "entropy":
        exact = (oracle.visits(log_pi, MDP) * oracle.expectation(log_pi.exp(), -log_pi)).sum(1)
    elif name == "reward":
        exact = oracle.expectation(oracle.response_logprobs(log_pi, MDP).exp(), MDP.scores)
    else:
        exact = oracle.kl(log_pi, log_ref, MDP)
    seen = sampled[0][name]
    assert seen.mean() == pytest.approx(float(exact.mean()), abs=ERRORS * standard_error(seen))


def test_the_kl_that_is_exact_at_each_position_is_less_noisy_than_k1(sampled):
    assert sampled[0]["kl"].var() < sampled[0]["k1"].var() / 4


def test_the_optimum_and_the_share_of_it_are_the_oracles(tables, sampled):
    """Of the first prompt, each sample a unit."""
    log_pi, log_ref = tables
    items = {
        model: [{"index": i, "sample": 0, "scores": {"reward": rows["reward"][i]}, "kl": rows["kl"][i],
                 "tokens": rows["tokens"][i], "log_ratio": rows["log_ratio"][i]} for i in range(N)]
        for model, rows in zip(("policy", "ref"), sampled)
    }  # fmt: skip
    (objective, share), known = regret_metrics(items, "ref", "policy", BETA, np.arange(N))
    after, before = (
        float(oracle.expectation(oracle.response_logprobs(table, MDP)[0].exp(), MDP.scores[0])) for table in tables
    )
    J = after - BETA * float(oracle.kl(log_pi, log_ref, MDP)[0])
    J_star = float(oracle.optimum(log_ref, MDP, BETA)[1][0, 0])
    error = (known["high"] - known["low"]) / 3.92
    assert known["value"] == pytest.approx(J_star, abs=ERRORS * error)
    for metric, exact in ((objective, J), (share, 100 * (J - before) / (J_star - before))):
        rows, rng = metric.statistics["policy"], np.random.default_rng(0)
        again = [float(metric.combine(rows[rng.integers(0, N, N)].sum(0)[None])[0]) for _ in range(100)]
        seen = float(metric.combine(rows.sum(0)[None])[0])
        assert seen == pytest.approx(exact, abs=ERRORS * np.std(again))


def test_the_best_of_four_of_the_reference_is_the_oracles(tables, sampled):
    """By its reward, from all samples at once; and the length of the favourite, from eight at a time."""
    law = oracle.best_of_n_law(tables[1], MDP, 4)[0]  # (N,)
    reward, tokens = sampled[1]["reward"][:N], sampled[1]["tokens"][:N]
    rng = np.random.default_rng(0)
    again = [best_of_n(rng.choice(reward, N), np.ones(N), 4)[0] for _ in range(100)]
    exact = float(law @ MDP.scores[0])
    assert best_of_n(reward, np.ones(N), 4)[0] == pytest.approx(exact, abs=ERRORS * np.std(again))
    length = MDP.mask.sum(1).double()
    eights = zip(reward.reshape(-1, 8), tokens.reshape(-1, 8))
    of_eight = np.array([expected_best_of_n(*pair, 4) for pair in eights])
    assert of_eight.mean() == pytest.approx(float(law @ length), abs=ERRORS * standard_error(of_eight))
