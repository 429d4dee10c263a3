"""What a GPU must do as the CPU does. Skipped without one; `.ci/gpu.sh` runs these and the bench."""

import copy

import numpy as np
import pytest
import torch

from minirlhf.harness.device import autocast
from minirlhf.lm.chat import Example
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.generation import Sampling, generate
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.lm.model import GPT, GPTConfig
from minirlhf.lm.sft import accumulate
from minirlhf.tools import measure

DEVICE = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
MODELS = [GPT(GPTConfig(64, 64, 2, 2, 32)), Llama(LlamaConfig(64, 64, 2, 4, 32, kv_heads=2))]


@pytest.fixture(params=MODELS, ids=["gpt2", "llama"])
def both(request) -> tuple:
    """A model on the CPU, and its copy on the GPU."""
    return request.param, copy.deepcopy(request.param).to(DEVICE)


def test_cuda_samples_what_the_cpu_does(both):
    prompts = [list(range(1, n)) for n in (3, 9, 5)]
    here, there = (generate(x, prompts, Sampling(40), 0, range(3)) for x in both)
    assert torch.equal(here.ids, there.ids.cpu()) and torch.equal(here.mask, there.mask.cpu())
    assert torch.allclose(here.logprobs, there.logprobs.cpu(), atol=1e-4)


def test_cuda_gives_the_gradient_of_the_cpu(both):
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(64, size=n).tolist(), [False] + [True] * (n - 1)) for n in (9, 30, 17, 5)]
    losses = [accumulate(x, examples, 2, torch.float32)[0] for x in both]
    gradients = [torch.cat([p.grad.flatten().cpu() for p in x.parameters()]) for x in both]
    for model in both:
        model.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("algo", ["ppo", "grpo"])
@pytest.mark.parametrize("rank", [0, 2])
def test_cuda_learns_by_reinforcement_in_bfloat16(algo, rank):
    lora = LoRAOptions(lora=rank)
    load = measure.Load(GPTConfig(300, 96, 2, 2, 32), prompts=8, new=16, device=DEVICE, dtype=torch.bfloat16, lora=lora)
    tokens = measure.rl(load, algo)()
    assert tokens == 8 * 16 if algo == "ppo" else tokens == 32 * 40


def test_cuda_trains_in_bfloat16(both):
    """The loss of a pass under autocast is that of float32 to bfloat16's rounding."""
    examples = [Example(list(range(1, 40)), [False] + [True] * 38)] * 4
    with autocast(DEVICE, torch.bfloat16):
        rough = accumulate(both[1], examples, 4, torch.bfloat16)[0]
    assert rough == pytest.approx(accumulate(both[0], examples, 4, torch.float32)[0], rel=0.02)


def test_cuda_sampling_does_not_wait_for_each_token():
    """Waits of the host for the GPU do not grow with the answers: each would leave the GPU without work."""
    model = GPT(GPTConfig(64, 256, 2, 2, 32)).to(DEVICE)
    waits = []
    for new in (20, 200):
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning) as caught:
            generate(model, [[1, 2, 3]] * 4, Sampling(new), 64, range(4))
        torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(w.message) for w in caught))
    assert waits[1] - waits[0] <= 180 / 8
