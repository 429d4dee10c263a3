"""DPO: the policy's own reward, and a reward model's loop that trains it."""

from math import log

import pytest
import torch

from minirlhf.harness.loop import Run
from minirlhf.lm.lora import WithoutAdapters, adapt, layers_of
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.preferences.comparisons import Judged
from minirlhf.preferences.config import RewardConfig
from minirlhf.preferences.dpo import ImplicitReward, implicit_reward
from minirlhf.preferences.train_reward import accumulate_pairs, fit_rewards, preference_loss
from minirlhf.rl.reward_model import predict_rewards

CUE = 7
TEXTS = [(3, 4, CUE, 5, 6, 1), (3, CUE, 2, 1), (8, 9, 3, CUE, 4, 4, 4, 1)]


def policy(seed: int = 0, dropout: float = 0.0) -> GPT:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(20, context=16, layers=1, heads=2, width=16, dropout=dropout))
    for parameter in model.parameters():  # so that it is sure of something
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def moved(beta: float = 0.5) -> ImplicitReward:
    """A policy that is no longer its reference."""
    model = ImplicitReward(policy(0), [CUE], beta)
    model.trunk.load_state_dict(policy(1).state_dict())
    return model.eval()


def by_hand(model: GPT, ids: tuple[int, ...]) -> float:
    """log p of what stands behind the cue, token by token."""
    start = ids.index(CUE) + 1
    logp = model.logits(model(torch.tensor([ids]))).log_softmax(-1)[0]
    return sum(logp[t - 1, ids[t]].item() for t in range(start, len(ids)))


def reference_of(model: ImplicitReward) -> GPT:
    """The model that the rewards are against."""
    return model.reference_nll.args[0]


def test_the_reward_is_beta_times_the_log_ratio_of_the_response_to_the_reference():
    """Prompt and cue have none; EOS has."""
    model = moved(beta=0.5)
    want = [0.5 * (by_hand(model.trunk, ids) - by_hand(reference_of(model), ids)) for ids in TEXTS]
    assert model(TEXTS).tolist() == pytest.approx(want, abs=1e-5)


def test_the_reward_of_dpo_is_beta_times_the_log_ratio():
    got = implicit_reward(torch.tensor([-3.0, -6.0]), torch.tensor([-4.0, -5.0]), 0.1)
    assert got.tolist() == pytest.approx([0.1, -0.1])


def test_the_preference_loss_and_dpo_gradcheck():
    def loss(chosen: torch.Tensor, ref_chosen: torch.Tensor, rejected: torch.Tensor, ref_rejected: torch.Tensor):
        margins = implicit_reward(chosen, ref_chosen, 0.3) - implicit_reward(rejected, ref_rejected, 0.3)
        return preference_loss(margins, p)

    x = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    p = torch.tensor([1, 0.2, 0.7, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, x)


def test_padding_has_no_influence():
    model = moved()
    alone = [model([ids]).item() for ids in TEXTS]
    assert model(TEXTS).tolist() == pytest.approx(alone, abs=1e-5)


def test_at_the_start_every_reward_is_0_and_the_loss_log_2():
    model = ImplicitReward(policy(), [CUE], 0.1)
    assert model(TEXTS).abs().max() == 0
    pairs = [Judged((TEXTS[0], TEXTS[1]), p) for p in (1.0, 0.3)]
    assert accumulate_pairs(model, pairs, 1, torch.float32) == pytest.approx(log(2))


def test_the_reference_is_neither_trained_nor_saved_nor_moved(tmp_path):
    start = policy()
    model = ImplicitReward(policy(), [CUE], 0.1)
    assert len(list(model.parameters())) == len(list(start.parameters())) == len(model.state_dict())
    fit_rewards(model, [[Judged((TEXTS[0], TEXTS[1]))]], RewardConfig(epochs=5), Run(tmp_path))
    frozen, now = reference_of(model).state_dict(), model.trunk.state_dict()
    assert all(torch.equal(x, frozen[k]) for k, x in start.state_dict().items())
    assert any(not torch.equal(x, now[k]) for k, x in start.state_dict().items())


def test_the_reference_has_no_dropout():
    """Not even while the policy has: it is the same distribution in every step."""
    model = ImplicitReward(policy(dropout=0.5).train(), [CUE], 0.1).train()
    model.trunk.eval()
    assert model(TEXTS).abs().max() == 0


def test_a_reference_that_is_given_is_taken_and_neither_trained_nor_saved():
    """That of adapters: the policy itself without them, which has no dropout either."""
    adapted = adapt(policy(dropout=0.5), 4, 8.0)
    reference = WithoutAdapters(adapted)
    model = ImplicitReward(adapted, [CUE], 0.5, reference).eval()
    assert reference_of(model) is reference and model(TEXTS).abs().max() == 0
    for layer in layers_of(adapted).values():
        torch.nn.init.normal_(layer.B)
    want = [0.5 * (by_hand(adapted, ids) - by_hand(policy(), ids)) for ids in TEXTS]
    assert model(TEXTS).tolist() == pytest.approx(want, abs=1e-5) and abs(want[0]) > 0.01
    model(TEXTS).sum().backward()
    assert all((p.grad is None) == name.endswith(("weight", "bias")) for name, p in model.named_parameters())
    assert len(model.state_dict()) == len(adapted.state_dict())


def test_a_text_without_its_question_is_no_response():
    with pytest.raises(ValueError):
        ImplicitReward(policy(), [CUE], 0.1)([(3, 4, 5)])


def test_training_makes_the_chosen_likelier_than_the_rejected(tmp_path):
    model = ImplicitReward(policy(), [CUE], 0.1)
    groups = [[Judged(((3, 4, CUE, 5, 1), (3, 4, CUE, 6, 1)))], [Judged(((9, CUE, 6, 6, 1), (9, CUE, 5, 1)))]]
    fit_rewards(model, groups, RewardConfig(epochs=40, lr=3e-3, batch=2, warmup=2), Run(tmp_path))
    chosen, rejected = (predict_rewards(model, [g[0].texts[k] for g in groups]) for k in (0, 1))
    assert (chosen > rejected + 0.2).all() and (chosen > 0).any() and (rejected < 0).all()


def test_a_soft_label_of_one_half_moves_nothing(tmp_path):
    model = ImplicitReward(policy(), [CUE], 0.1)
    loss = accumulate_pairs(model, [Judged((TEXTS[0], TEXTS[1]), 0.5)], 1, torch.float32)
    assert loss == pytest.approx(log(2)) and all(p.grad.abs().max() < 1e-9 for p in model.parameters())
