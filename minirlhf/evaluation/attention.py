"""Where a model looks: its attention weights, read from the outside.

    A_h = softmax(Q_h K_hᵀ / √D + mask)    (T, T), row t: how token t weighs the tokens up to itself

Weights are not explanations: a token may be looked at and not used. Proved by tests/evaluation/test_attention.py.
"""

import numpy as np
import torch
from torch import Tensor

from minirlhf.evaluation.ask import pieces_of
from minirlhf.lm.llama import Llama
from minirlhf.lm.model import GPT
from minirlhf.lm.tokenizer import Tokenizer

MAPS, TOKENS = 16, 48  # drawn at most. With more maps: the mean of each of the last layers. With more tokens: the last


@torch.no_grad()
def attention_weights(model: GPT, ids: Tensor) -> Tensor:
    """(L, H, T, T): the weights of every layer and head on one sequence. ids: (T,) int.

    The model's own forward keeps no weights, and a picture is no reason to change that. So a hook catches each
    layer's input, and its queries and keys are multiplied again.
    """
    inputs: list[tuple] = []
    hooks = [block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args)) for block in model.h]
    try:
        model(ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    T, weights = len(ids), []
    future = torch.ones(T, T, dtype=torch.bool, device=ids.device).triu(1)  # (T, T)
    for block, (x, turn, *_) in zip(model.h, inputs):
        if isinstance(model, Llama):
            q, k = (y[0] for y in block.attn.queries_and_keys(x, turn))  # (H, T, D), (K, T, D)
            k = k.repeat_interleave(len(q) // len(k), 0)  # (H, T, D)
        else:
            q, k, _ = block.attn.c_attn(x[0]).view(T, 3, block.attn.heads, -1).permute(1, 2, 0, 3)  # (H, T, D) each
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (H, T, T)
        weights.append(scores.masked_fill(future, -torch.inf).softmax(-1))
    return torch.stack(weights)


def shown_attention(model: GPT, tokenizer: Tokenizer, ids: list[int]) -> dict:
    """The maps of one text as a report shows them: pieces of text, and rounded weights of each layer and head."""
    device = model.wte.weight.device
    weights = attention_weights(model, torch.tensor(ids, device=device)).double().cpu().numpy()  # (L, H, T, T)
    maps = [{"layer": l, "head": h, "weights": A} for l, heads in enumerate(weights) for h, A in enumerate(heads)]
    if len(maps) > MAPS:
        maps = [{"layer": l, "head": None, "weights": heads.mean(0)} for l, heads in enumerate(weights)][-MAPS:]
    for m in maps:
        m["weights"] = np.round(m["weights"][-TOKENS:, -TOKENS:], 3).tolist()
    return {"pieces": pieces_of(tokenizer, ids)[-TOKENS:], "maps": maps}
