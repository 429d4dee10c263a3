"""AdamW's groups and numbers, the schedule of the learning rate, clipping, and steps that are skipped."""

from math import inf, nan, sqrt

import pytest
import torch
from torch import nn

from minirlhf.harness.files import Diverged
from minirlhf.lm.model import ScalarHead
from minirlhf.lm.optim import MAX_BAD_STEPS, Stepper, learning_rate, make_adamw


def adamw_slowly(p, gradients, lr, decay, beta1, beta2, eps):
    """Algorithm 2 of Loshchilov & Hutter 2019, on one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps) - lr * decay * p
    return p


def sgd(values, max_norm=1.0):
    """A parameter, and a stepper of plain gradient descent on it: what is applied shows."""
    p = nn.Parameter(torch.tensor(values))
    return p, Stepper(torch.optim.SGD([p], lr=99.0), max_norm)


@pytest.mark.parametrize(
    "step, rate",
    [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (9, 0.55), (14, 0.1), (15, 0.1), (10**6, 0.1)],
)
@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_rate_at_the_corners(step, rate, shape):
    """Warm-up 4, end 14: the peak, half way down (where the cosine and the line meet), and the floor."""
    assert learning_rate(step, 1.0, 4, 14, 0.1, shape) == pytest.approx(rate, abs=1e-12)
    assert learning_rate(step, 3.0, 4, 14, 0.1, shape) == pytest.approx(3 * rate, abs=1e-12)


def test_a_quarter_of_the_way_tells_cosine_from_line():
    assert learning_rate(25, 1.0, 0, 100, 0.0) == pytest.approx((2 + sqrt(2)) / 4)
    assert learning_rate(25, 1.0, 0, 100, 0.0, "linear") == pytest.approx(0.75)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_no_warmup_and_nothing_but_warmup(shape):
    assert learning_rate(0, 1.0, 0, 10, 0.0, shape) == 1.0
    assert [learning_rate(step, 1.0, 4, 4, 0.1, shape) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert 0.1 <= learning_rate(4, 1.0, 4, 4, 0.1, shape) <= 1.0
    assert learning_rate(5, 1.0, 4, 4, 0.1, shape) == pytest.approx(0.1)
    assert learning_rate(0, 1.0, 0, 0, 0.5, shape) == 1.0


def test_a_slow_part_is_stepped_at_its_share_of_the_rate():
    """Adam's first step is the rate, whatever the gradient: here 0.1, and a quarter of it."""
    fast, slow = nn.Linear(2, 2), nn.Linear(2, 2)
    both = nn.ModuleList([fast, slow])
    before = [p.detach().clone() for p in both.parameters()]
    optimizer = make_adamw([both], 1.0, 0.0, slow=slow, share=0.25)
    for p in both.parameters():
        p.grad = torch.full_like(p, 3.0)
    Stepper(optimizer, 1e9).step(0.1)
    moved = [float((a - p.detach()).mean()) for a, p in zip(before, both.parameters())]
    assert moved == pytest.approx([0.1, 0.1, 0.025, 0.025], rel=1e-4)


def test_the_groups_hold_every_parameter_once(model):
    """Tied or shared parameters too: one that stood twice would be stepped twice."""
    head, tied = ScalarHead(16), nn.Linear(16, 260, bias=False)
    tied.weight = model.wte.weight
    modules = [model, tied, head, model]
    groups = make_adamw(modules, 1e-3, 0.1).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for module in modules for p in module.parameters()}


def test_what_is_frozen_is_in_no_group(model):
    """Neither of the rest nor of the slow part; the moments of a frozen weight would be memory for nothing."""
    model.requires_grad_(False)
    learning = [model.ln_f.weight, model.h[0].mlp.c_fc.weight]
    for p in learning:
        p.requires_grad_(True)
    groups = make_adamw([model], 1e-3, 0.1, slow=model.h, share=0.5).param_groups
    assert [(id(p), group["scale"]) for group in groups for p in group["params"]] == [
        (id(p), scale) for p, scale in zip(learning, (1.0, 0.5))
    ]


def test_matrices_decay_and_gains_and_biases_do_not(model):
    """With zero gradients a step is the decay alone: p ← p − lr · λ · p."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
            p.grad = torch.zeros_like(p)
    Stepper(make_adamw([model], 0.5, 0.1), 1.0).step(0.5)
    for name, p in model.named_parameters():
        assert torch.allclose(p, torch.full_like(p, 1.9 if p.dim() == 2 else 2.0)), name


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_adamw_equals_its_definition(scale):
    """Of gradients as small as ε too."""
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(0.7)
        linear.bias.fill_(-0.4)
    gradients = [scale * g for g in (0.5, -0.25, 0.0, 0.125, 0.75)]
    stepper = Stepper(make_adamw([linear], 1.0, 0.1), max_norm=10.0)
    for g in gradients:
        linear.weight.grad, linear.bias.grad = torch.full((1, 1), g), torch.full((1,), -g)
        stepper.step(0.05)
    weight = adamw_slowly(0.7, gradients, 0.05, 0.1, 0.9, 0.95, 1e-8)
    bias = adamw_slowly(-0.4, [-g for g in gradients], 0.05, 0.0, 0.9, 0.95, 1e-8)
    assert [linear.weight.item(), linear.bias.item()] == pytest.approx([weight, bias], rel=1e-5)


def test_gradients_are_clipped_before_the_step_and_the_norm_before_clipping_is_told():
    p, stepper = sgd([1.0, 1.0], max_norm=2.5)
    p.grad = torch.tensor([3.0, 4.0])
    assert stepper.step(1.0) == pytest.approx(5.0)
    assert p.tolist() == pytest.approx([1 - 1.5, 1 - 2.0], abs=1e-5)


def test_the_norm_is_that_of_all_parameters_together():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    groups = [{"params": [a]}, {"params": [b]}]
    assert Stepper(torch.optim.SGD(groups, lr=1.0), 1.0).step(1.0) == pytest.approx(5.0)
    assert [a.item(), b.item()] == pytest.approx([-0.6, -0.8], abs=1e-5)


def test_a_gradient_below_the_limit_is_left_as_it_is():
    p, stepper = sgd([1.0, 1.0], max_norm=6.0)
    p.grad = torch.tensor([3.0, 4.0])
    stepper.step(0.5)
    assert p.tolist() == [-0.5, -1.0]
    assert p.grad is None


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad, model):
    optimizer = make_adamw([model], 1e-3, 0.1)
    stepper = Stepper(optimizer, 1.0)
    for step in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        if step == 0:
            stepper.step(1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    moments = [v.clone() for state in optimizer.state.values() for v in state.values()]
    model.ln_f.bias.grad[3] = bad
    norm = stepper.step(1e-3)
    assert norm - norm != 0 and stepper.skipped == 1
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before))
    now = [v for state in optimizer.state.values() for v in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(now, moments)) and len(now) == len(moments)
    assert all(p.grad is None for p in model.parameters())


def test_several_bad_steps_in_a_row_and_only_in_a_row_are_divergence():
    p, stepper = sgd([1.0])

    def step(gradient):
        p.grad = torch.tensor([gradient])
        stepper.step(0.0)

    for _ in range(3):
        for _ in range(MAX_BAD_STEPS - 1):
            step(nan)
        step(1.0)
    assert stepper.skipped == 3 * (MAX_BAD_STEPS - 1)
    for _ in range(MAX_BAD_STEPS - 1):
        step(inf)
    with pytest.raises(Diverged, match="5 steps in a row"):
        step(inf)
    assert p.tolist() == [1.0]


def test_without_any_gradient_a_step_does_nothing():
    p, stepper = sgd([1.0])
    assert stepper.step(1.0) == 0.0
    assert p.tolist() == [1.0] and stepper.skipped == 0
