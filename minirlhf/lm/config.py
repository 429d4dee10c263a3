"""The options of this wing: a new model, its training, LoRA. A module of options loads no torch: --help is quick.

Proved by tests/lm/test_lora.py and tests/lm/test_families.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minirlhf.harness.options import option

if TYPE_CHECKING:
    import torch

    from minirlhf.lm.families import Model
    from minirlhf.lm.lora import WithoutAdapters

MOST_EXAMPLES = 1_000_000  # made for a task: what run.json says is made again by an evaluation


@dataclass(frozen=True)
class Base:
    """Base model, where none is given by --init."""

    model: str = option("gpt2", "its family", choices=("gpt2", "llama"), needs="-init")
    layers: int = option(2, "transformer blocks", most=1000, needs="-init")
    heads: int = option(4, "attention heads", needs="-init")
    width: int = option(128, "size of the embedding", needs="-init")
    context: int = option(128, "longest sequence, in tokens", needs="-init")
    vocab: int = option(1024, "size of the tokenizer that is trained; 260: bytes, special tokens", needs="-init")
    dropout: float = option(0.0, "in training", needs="-init")
    attention: str = option("manual", "manual (to be read), or sdpa: torch's kernel, same numbers", needs="-init")
    base_steps: int = option(250, "optimizer steps of pretraining", least=0, needs="-init")
    base_lr: float = option(2e-3, "peak learning rate of pretraining", least=0, needs="-init base_steps")


@dataclass(frozen=True)
class FitConfig:
    """Training."""

    steps: int = option(700, "optimizer steps of SFT", least=0)
    lr: float = option(2e-3, "peak learning rate of SFT; falls to a tenth on half a cosine", least=0)
    warmup: int = option(50, "steps of rising learning rate, at most", least=0)
    weight_decay: float = option(0.01, "AdamW's, on matrices", least=0)
    max_norm: float = option(1.0, "the gradient is clipped to this norm", above=0)
    micro_rows: int = option(32, "rows per forward pass: memory against speed, not the result", least=1)
    eval_every: int = option(200, "steps between validations", least=1)
    save_every: int = option(500, "steps between saved states", least=1)


@dataclass(frozen=True)
class LoRAOptions:
    """LoRA."""

    lora: int = option(0, "rank of the adapters that are trained; 0: all weights are trained", least=0, needs="init")
    lora_alpha: float = option(0.0, "their weight is alpha / rank; 0: alpha is twice the rank", least=0, needs="lora")
    lora_on: tuple[str, ...] = option((), "layers that get one, as q_proj v_proj; else all of each block", needs="lora")
    merge: bool = option(False, "write the whole model instead of the adapters", needs="lora")

    def adapt(self, model: "Model", dtype: "torch.dtype | None" = None) -> "Model":
        """The model, with adapters where they are asked for. Raises UserError.

        dtype: of matrix products in training. What is frozen is stored in it, unless adapters are to be merged with it.
        """
        import torch  # here and below, not above: --help does not wait for it

        from minirlhf.harness.device import hold_frozen
        from minirlhf.lm.lora import adapt

        adapted = adapt(model, self.lora, self.lora_alpha or 2 * self.lora, self.lora_on) if self.lora else model
        return adapted if self.merge else hold_frozen(adapted, dtype or torch.float32)

    def reference(self, model: "Model") -> "WithoutAdapters | None":
        """What the adapted model came from; None where there are no adapters: then it takes a copy."""
        from minirlhf.lm.lora import WithoutAdapters

        return WithoutAdapters(model) if self.lora else None

    def mark(self, fingerprint: str) -> str:
        """What a training starts from, so that a resume with other adapters is refused."""
        return f"{fingerprint} {self}" if self.lora else fingerprint
