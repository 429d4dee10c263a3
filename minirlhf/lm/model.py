"""GPT-2's architecture, written out: the model that every other chapter trains, samples and scores.

    x = E[ids] + P[positions]                            token and position embeddings
    x = x + Attention(LN(x));  x = x + MLP(LN(x))        for each block (pre-LN)
    logits = LN(x) Eᵀ                                     the head is the embedding, tied

    Attention(Q, K, V) = softmax(Q Kᵀ / √D + mask) V

Source: Vaswani et al. 2017, eq. 1; Radford et al. 2019 (GPT-2), section 2.3. The parameters are GPT-2's one for one
(`checkpoint.py` reads and writes its files). Training, sampling with a cache and scoring all use the one `attention`
below. Proved by tests/lm/test_model.py.

Shapes: B batch, T sequence, S keys (T plus what the cache holds), C width, H heads, D head size, V vocabulary.
"""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. Raises ValueError for a shape that cannot be built."""

    vocab_size: int
    context: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    attention: str = "manual"

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.context, self.layers, self.heads, self.width) < 1:
            raise ValueError(f"every size of a model must be at least 1: {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be split among {self.heads} heads evenly")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is outside [0, 1)")
        if self.attention not in ("manual", "sdpa"):
            raise ValueError(f"attention {self.attention!r} is neither 'manual' nor 'sdpa'")


class KVCache:
    """Keys and values of the tokens seen so far, with their gradients.

    Every row writes to the same column, so a ragged batch has its padding on the left. `key_mask` (B, S) bool says
    which columns are real tokens. S grows by 16, and all of it is read: a product of a part would copy that first.
    """

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values, (B, H, S, D) each
        self.key_mask = torch.empty(0, 0, dtype=torch.bool)  # (B, S)
        self.length = 0

    def note(self, real: Tensor) -> Tensor:
        """Which columns will be real tokens with the next ones, `real` (B, T) bool: key_mask, (B, S)."""
        seen = torch.cat([self.key_mask[:, : self.length], real], 1) if self.length else real  # (B, past + T)
        self.key_mask = F.pad(seen, (0, -seen.shape[1] % 16))
        return self.key_mask

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, H, T, D) behind what is there; return the whole storage, 0 where nothing was written."""
        kept = self.layers[layer] if layer < len(self.layers) else (k[:, :, :0], v[:, :, :0])
        if more := self.key_mask.shape[1] - kept[0].shape[2]:
            kept = F.pad(kept[0], (0, 0, 0, more)), F.pad(kept[1], (0, 0, 0, more))  # (B, H, S, D) each
        for storage, new in zip(kept, (k, v)):
            storage[:, :, self.length : self.length + k.shape[2]] = new
        self.layers[layer : layer + 1] = [kept]
        return kept

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; a row can be taken more than once. rows: (n,) indices."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        self.key_mask = self.key_mask[rows]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float = 0.0, kernel: str = "manual") -> Tensor:
    """softmax(Q Kᵀ / √D + bias) V.

    q: (B, H, T, D).  k, v: (B, H, S, D).  bias: broadcasts to (B, H, T, S). It is 0 where a query may look, else the
    most negative finite number: −∞ would turn a row that sees nothing into NaN.
    kernel: manual, or sdpa: torch's, of the same numbers.  Returns (B, H, T, D).  Source: Vaswani et al. 2017, eq. 1.
    """
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropout)  # (B, H, T, D)
    scores = (q / sqrt(q.shape[-1])) @ k.transpose(-2, -1) + bias  # (B, H, T, S)
    weights = F.dropout(scores.softmax(-1), dropout)  # (B, H, T, S)
    return weights @ v  # (B, H, T, D)


class Attention(nn.Module):
    """Causal multi-head self-attention; queries, keys and values in one fused projection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.dropout, self.kernel = config.heads, config.dropout, config.attention
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, bias: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.heads, C // self.heads)  # (B, T, 3, H, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, H, S, D)
        y = attention(q, k, v, bias, self.dropout if self.training else 0.0, self.kernel)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, T, C)
        return F.dropout(self.c_proj(y), self.dropout, self.training)  # (B, T, C)


class MLP(nn.Module):
    """The position-wise network, with GPT-2's tanh form of GELU (the erf form is another function)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, C)


class Block(nn.Module):
    """One layer: attention, then MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, bias: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        x = x + self.attn(self.ln_1(x), bias, cache, layer)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


class GPT(nn.Module):
    """A GPT-2. `forward` gives the final hidden states; `logits` puts the tied head on those wanted.

    Most callers want logits at few positions (the response, the last token), and the head is the largest product of
    a small model. So these are two calls.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self._initialise()

    def _initialise(self) -> None:
        """Weights N(0, 0.02), biases 0. The two c_proj per layer, which add to the residual, get 1/√(2L) of it."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / sqrt(2 * self.config.layers))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, key_mask: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final LayerNorm, (B, T, C).

        ids: (B, T) int.  key_mask: (B, T) bool, True on real tokens. None is enough where all padding is on the right:
        no real token can see it.  Positions count real tokens, so the side of the padding does not matter.  With a
        cache, ids are the tokens behind those that it holds.  The output at padding is finite and means nothing.
        Raises ValueError if a row is longer than the context.
        """
        x = self.wte(ids)  # (B, T, C)
        positions, bias = locate(ids, key_mask, cache, self.config.context, x)  # (T,) or (B, T); (B or 1, 1, T, S)
        x = F.dropout(x + self.wpe(positions), self.config.dropout, self.training)  # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, bias, cache, layer)  # (B, T, C)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.ln_f(x)  # (B, T, C)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., C) -> (..., V), by the transposed token embedding."""
        return F.linear(hidden, self.wte.weight)  # (..., V)


def locate(
    ids: Tensor, key_mask: Tensor | None, cache: KVCache | None, context: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(positions, (T,) or (B, T), counted in real tokens; `attention_bias`) of ids (B, T), behind what the cache holds.

    Notes in the cache which of the new columns are real. Raises ValueError if a row is longer than the context.
    """
    T, past = ids.shape[1], cache.length if cache is not None else 0
    if cache is not None:
        key_mask = cache.note(torch.ones_like(ids, dtype=torch.bool) if key_mask is None else key_mask)  # (B, S)
    if key_mask is None:
        positions = torch.arange(T, device=ids.device)  # (T,)
    else:
        positions = (key_mask.cumsum(-1)[:, past : past + T] - 1).clamp(min=0)  # (B, T)
    if past + T > context and int(positions.max()) >= context:
        raise ValueError(f"{int(positions.max()) + 1} tokens do not fit the context of {context}")
    return positions, attention_bias(T, past, key_mask, like)  # (T,) or (B, T); (B or 1, 1, T, S)


def attention_bias(T: int, past: int, key_mask: Tensor | None, like: Tensor) -> Tensor:
    """What is added to the scores: 0 where a query may look, the most negative number elsewhere.

    Query i of T stands at column past + i. It sees the columns up to itself, of those that key_mask (B, S) calls real:
    the causal triangle, moved to the right.
    Returns (1 or B, 1, T, S) in the dtype of the matrix products. Without a mask S is past + T.
    """
    S = past + T if key_mask is None else key_mask.shape[1]
    visible = torch.ones(T, S, dtype=torch.bool, device=like.device).tril(past)  # (T, S)
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]  # (B, 1, T, S)
    kind = torch.get_autocast_dtype(like.device.type) if torch.is_autocast_enabled(like.device.type) else like.dtype
    bias = torch.zeros(visible.shape, dtype=kind, device=like.device)
    return bias.masked_fill(~visible, torch.finfo(kind).min).view(-1, 1, T, S)


class ScalarHead(nn.Linear):
    """One number per hidden state. Zero at first, so that it biases nothing.  Source: Ziegler et al. 2019's code."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).squeeze(-1)  # (...,)
