"""Small models of the Llama family, and models made by a formula, for the tests of several modules."""

from dataclasses import replace

import torch

from minirlhf.lm.families import Config, Model, build
from minirlhf.lm.llama import LlamaConfig

SHAPE = LlamaConfig(97, 256, 2, 4, 32, 2, inner=48, norm_eps=1e-5)
CASES = {
    "llama": SHAPE,
    "llama3": replace(SHAPE, rope_scaling=(8.0, 1.0, 4.0, 32), tied=False),
    "qwen2": replace(SHAPE, qkv_bias=True, tied=False),
    "qwen3": replace(SHAPE, qk_norm=True, head_size=16),
    "mistral": replace(SHAPE, tied=False),
}


def by_formula(config: Config) -> Model:
    """A model whose parameters are sines, each matrix with a phase of its own, so that every one of them counts."""
    model = build(config).eval()
    with torch.no_grad():
        for i, (name, p) in enumerate(model.named_parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + i).view(p.shape)
            p.copy_(0.2 * wave if p.dim() > 1 or name.endswith("bias") else 1 + 0.1 * wave)
    return model


def some_ids(rows: int, columns: int) -> torch.Tensor:
    return (torch.arange(rows * columns).view(rows, columns) * 37 + 11) % 97
