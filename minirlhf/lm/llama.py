"""The Llama family, written out beside GPT-2: SmolLM2, Llama 3, Qwen2, Qwen3 and Mistral are settings of this file.

    x = E[ids]
    x = x + Attention(RMS(x));  x = x + MLP(RMS(x))       for each block
    logits = RMS(x) Eᵀ, or Wᵀ of a head of its own

    RMS(x) = g ⊙ x / √(mean x² + ε)                       a LayerNorm without mean and bias
    MLP(x) = W_down (silu(W_gate x) ⊙ W_up x)             SwiGLU

Positions are not added to x. They turn queries and keys: number i and number i + D/2 of a head are a point in a
plane, which turns by m θ_i at position m, with θ_i = base^(−2i / D). So q · k depends on distances alone.
H heads of queries share K heads of keys and values (grouped-query attention): the cache is H/K times smaller.

Attention, cache, masks and interface are those of `model.py`. Shapes as there, and K heads of keys, G = H / K
queries to each. Proved by tests/lm/test_llama.py, against values of another implementation.
Source: Touvron et al. 2023 (Llama); Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021 (RoPE); Shazeer 2020 (SwiGLU);
Ainslie et al. 2023 (grouped queries); Meta's code of Llama 3.1 (the slower turns of long contexts). Su et al. pair
neighbours i and i + 1, Hugging Face's files the two halves.
"""

from dataclasses import dataclass
from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirlhf.lm.model import GPTConfig, KVCache, attention, locate

Turn = tuple[Tensor, Tensor]  # cos and sin of the angles, (B or 1, 1, T, D/2) each


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama. Raises ValueError for a shape that cannot be built."""

    vocab_size: int
    context: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 128
    kv_heads: int = 0  # K; 0: as many as heads
    head_size: int = 0  # D; 0: width / heads
    inner: int = 0  # of the MLP; 0: 8/3 of the width, in steps of 32
    rope_base: float = 10_000.0
    rope_scaling: tuple[float, float, float, int] | None = None  # Llama 3's: factor, low, high, original context
    norm_eps: float = 1e-5
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3: RMS over each head of q and k
    tied: bool = True  # the head is the embedding
    dropout: float = 0.0  # of the residual stream, as in GPT-2; the family's own models have none
    attention: str = "manual"

    def __post_init__(self) -> None:
        set_default = lambda name, value: object.__setattr__(self, name, getattr(self, name) or value)
        # What both families have is held to the same rules. Heads with a size of their own need not divide the width.
        width = self.heads * self.width if self.head_size else self.width
        GPTConfig(self.vocab_size, self.context, self.layers, self.heads, width, self.dropout, self.attention)
        set_default("kv_heads", self.heads)
        set_default("head_size", self.width // self.heads)
        set_default("inner", -(-8 * self.width // (3 * 32)) * 32)
        if self.heads % self.kv_heads or self.kv_heads < 0:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys evenly")
        if self.head_size % 2 or self.head_size < 2:
            raise ValueError(f"a head of {self.head_size} numbers cannot be turned in pairs")
        factor, low, high, original = self.rope_scaling or (1, 1, 2, 1)
        if not min(self.rope_base, self.norm_eps, factor, low, high - low, original) > 0:
            raise ValueError(f"positions cannot turn, or norms be taken, with these numbers: {self}")


def turning_rates(config: LlamaConfig) -> Tensor:
    """θ (D/2,) float32: by how much each plane turns per position.

    Llama 3.1 was trained at 8,192 positions and stretched: a plane that turns fewer than `low` times within the original
    context is slowed by `factor`, one that turns more than `high` times stays, those between are mixed.
    """
    D = config.head_size
    theta = config.rope_base ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)  # (D/2,)
    if config.rope_scaling is None:
        return theta
    factor, low, high, original = config.rope_scaling
    turns = original * theta / (2 * pi)  # (D/2,) within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)  # (D/2,)
    return (1 - kept) * theta / factor + kept * theta


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head: (x₁, x₂) -> (x₁ cos − x₂ sin, x₂ cos + x₁ sin), x₁ and x₂ its two halves.

    x: (B, H, T, D).  cos, sin: (B or 1, 1, T, D/2).  Returns x's shape and type.
    """
    first, second = x.chunk(2, -1)  # (B, H, T, D/2) each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class RMSNorm(nn.Module):
    """g ⊙ x / √(mean x² + ε) over the last dimension, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention of H heads of queries over K heads of keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        H, K, D, bias = config.heads, config.kv_heads, config.head_size, config.qkv_bias
        self.q_proj = nn.Linear(config.width, H * D, bias)
        self.k_proj = nn.Linear(config.width, K * D, bias)
        self.v_proj = nn.Linear(config.width, K * D, bias)
        self.o_proj = nn.Linear(H * D, config.width, False)
        if config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(D, config.norm_eps), RMSNorm(D, config.norm_eps)

    def queries_and_keys(self, x: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """x: (B, T, C) -> q (B, H, T, D), k (B, K, T, D), turned to their positions."""
        B, T, D = *x.shape[:2], self.config.head_size
        q, k = self.q_proj(x).view(B, T, -1, D), self.k_proj(x).view(B, T, -1, D)  # (B, T, H or K, D)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q.transpose(1, 2), *turn), rotate(k.transpose(1, 2), *turn)

    def forward(self, x: Tensor, turn: Turn, bias: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        B, T, _ = x.shape
        K, D = self.config.kv_heads, self.config.head_size
        q, k = self.queries_and_keys(x, turn)  # (B, H, T, D), (B, K, T, D)
        v = self.v_proj(x).view(B, T, K, D).transpose(1, 2)  # (B, K, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, K, S, D)
        # The G queries of a key stand one after the other, so that no key is copied.
        q = q.reshape(B, K, -1, D)  # (B, K, G T, D)
        y = attention(q, k, v, bias, kernel=self.config.attention)  # (B, K, G T, D)
        y = y.view(B, -1, T, D).transpose(1, 2).reshape(B, T, -1)  # (B, T, H D)
        return self.o_proj(y)  # (B, T, C)


class MLP(nn.Module):
    """SwiGLU: one half of the inner layer is a gate for the other."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.inner, False)
        self.up_proj = nn.Linear(config.width, config.inner, False)
        self.down_proj = nn.Linear(config.inner, config.width, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # (B, T, C)


class Block(nn.Module):
    """One layer: attention, then MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.ln_1 = RMSNorm(config.width, config.norm_eps)
        self.attn = Attention(config)
        self.ln_2 = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, turn: Turn, bias: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        kind = bias.dtype  # of the products: converted once here, and not by autocast for each layer that reads it
        y = self.attn(self.ln_1(x).to(kind), turn, bias, cache, layer)  # (B, T, C)
        x = x + F.dropout(y, self.dropout, self.training)  # (B, T, C)
        return x + F.dropout(self.mlp(self.ln_2(x).to(kind)), self.dropout, self.training)  # (B, T, C)


class Llama(nn.Module):
    """A model of the Llama family, with the interface of `model.GPT`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = RMSNorm(config.width, config.norm_eps)
        self.lm_head = None if config.tied else nn.Linear(config.width, config.vocab_size, False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / sqrt(2 * config.layers) if residual else 0.02)

    def turn(self, positions: Tensor) -> Turn:
        """(cos, sin) of m θ at each position m, (B or 1, 1, T, D/2) each. positions: (T,) or (B, T)."""
        angles = positions[..., None] * turning_rates(self.config).to(positions.device)  # (T or B, T, D/2)
        angles = angles.view(-1, 1, positions.shape[-1], angles.shape[-1])  # (B or 1, 1, T, D/2)
        return angles.cos(), angles.sin()

    def forward(self, ids: Tensor, key_mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, C). Arguments and errors as for `GPT.forward`."""
        x = F.dropout(self.wte(ids), self.config.dropout, self.training)  # (B, T, C)
        positions, bias = locate(ids, key_mask, cache, self.config.context, x)  # (T,) or (B, T); (B or 1, 1, T, S)
        turn, bias = self.turn(positions), bias.repeat(1, 1, self.config.heads // self.config.kv_heads, 1)
        for layer, block in enumerate(self.h):
            x = block(x, turn, bias, cache, layer)  # (B, T, C)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.ln_f(x)  # (B, T, C)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., C) -> (..., V)."""
        return F.linear(hidden, (self.lm_head or self.wte).weight)  # (..., V)
