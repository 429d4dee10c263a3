"""Log-probs, entropy and KL against slow loops in float64."""

from itertools import product
from math import exp, log

import pytest
import torch

from minirlhf.evaluation.ask import exact_kl
from minirlhf.lm.logits import entropy, log_softmax, token_logprobs

# torchtune's and evaluation.md's categorical distributions, and log-probs of four sampled tokens
P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
KL_PQ = 0.2180119109


def H_of(logits: torch.Tensor) -> torch.Tensor:
    return entropy(log_softmax(logits))


def test_token_logprobs_are_the_log_of_softmax():
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(1))
    got = token_logprobs(logits, ids)
    for b, t in product(range(3), range(4)):
        weights = [exp(x) for x in logits[b, t].tolist()]
        assert float(got[b, t]) == pytest.approx(log(weights[ids[b, t]] / sum(weights)), abs=1e-12)


def test_token_logprobs_of_large_logits_are_finite():
    logits = torch.tensor([[1000.0, 0.0, -1000.0]])
    assert token_logprobs(logits, torch.tensor([0])).tolist() == [0.0]
    assert token_logprobs(logits, torch.tensor([2])).tolist() == [-2000.0]


@pytest.mark.parametrize("function", [lambda x: token_logprobs(x, torch.zeros(1, dtype=torch.long)), H_of])
def test_bfloat16_logits_are_summed_in_float32(function):
    """50,000 equal logits: a sum in bfloat16 stops growing at 256."""
    got = function(torch.zeros(1, 50_000, dtype=torch.bfloat16))
    assert got.dtype == torch.float32 and float(got.abs()) == pytest.approx(log(50_000), rel=1e-5)


def test_bfloat16_logits_are_divided_by_the_temperature_in_float32():
    """A quotient in bfloat16 would be rounded again, by up to 0.4 %."""
    logits = (7 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))).bfloat16()
    exact = (logits.double() / 0.7).log_softmax(-1)
    torch.testing.assert_close(log_softmax(logits, 0.7).double(), exact, atol=1e-5, rtol=0)
    assert float(((logits / 0.7).double().log_softmax(-1) - exact).abs().max()) > 1e-2
    assert torch.equal(log_softmax(logits.double(), 0.7), exact)


def test_entropy_lies_between_0_and_log_v():
    logits = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0))
    logits *= torch.logspace(-3, 3, 1000)[:, None]
    H = H_of(logits)
    assert bool((H >= 0).all()) and bool((H <= log(7) + 1e-6).all())
    assert H_of(torch.zeros(7)).item() == pytest.approx(log(7), abs=1e-6)
    assert H_of(torch.tensor([0.0, 1e4, 0.0])).item() == 0


def test_entropy_of_a_known_distribution():
    H = -0.5 * log(0.5) - 0.3 * log(0.3) - 0.2 * log(0.2)
    assert H_of(P.log()).item() == pytest.approx(H, abs=1e-12)


def test_exact_kl_of_a_known_pair_in_float64():
    assert float(exact_kl(P.log(), Q.log())) == pytest.approx(KL_PQ, abs=1e-10)


def test_exact_kl_of_a_distribution_with_itself_is_exactly_0():
    logp = (9 * torch.randn(50, 260, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    assert bool((exact_kl(logp, logp.clone()) == 0).all())


def test_rao_blackwell_kl_of_a_two_step_policy():
    """π(0) = .7, π(0|0) = .6, π(0|1) = .2 against uniform; notes/evaluation.md, section 3, item 9."""
    first, second = torch.tensor([0.7, 0.3]), torch.tensor([[0.6, 0.4], [0.2, 0.8]])
    steps = torch.stack([torch.stack([first, second[y]]) for y in (0, 1)]).log()  # (first token, step, V)
    samples = exact_kl(steps, torch.full_like(steps, 0.5).log()).sum(1)
    assert samples.tolist() == pytest.approx([0.1024183921, 0.2750276355], abs=1e-6)
    assert float(first @ samples) == pytest.approx(0.1542011651, abs=1e-6)
