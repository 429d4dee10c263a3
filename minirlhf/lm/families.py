"""The two families of models, GPT-2 and Llama, behind one interface: which file names whose parameters, and new ones.

Proved by tests/lm/test_families.py.
"""

from dataclasses import dataclass, fields
from types import ModuleType

from minirlhf.harness.files import UserError
from minirlhf.harness.options import option
from minirlhf.lm import gpt2_files, llama_files
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.lm.model import GPT, GPTConfig

Model, Config = GPT | Llama, GPTConfig | LlamaConfig


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


def family_of(config: Config) -> ModuleType:
    """The chapter with the names of a model's family."""
    return llama_files if isinstance(config, LlamaConfig) else gpt2_files


def config_to_json(config: Config, eos_id: int) -> dict:
    """The keys of config.json for our config."""
    return family_of(config).config_to_json(config, eos_id)


def config_from_json(raw: dict, name: str) -> Config:
    """Our config from the keys of config.json. Raises UserError for what is neither GPT-2 nor of the Llama family."""
    if (kind := raw.get("model_type", "gpt2")) not in (known := ("gpt2", *llama_files.FAMILY)):
        raise UserError(f"{name}: model_type is {kind!r:.40}, this code knows {', '.join(known)} alone")
    return (gpt2_files if kind == "gpt2" else llama_files).config_from_json(raw, name)


def build(config: Config) -> Model:
    """A new model of that shape."""
    return Llama(config) if isinstance(config, LlamaConfig) else GPT(config)


def new_model(vocab_size: int, base: Base) -> Model:
    """A new model of the options' family and sizes. Raises ValueError, which says why it cannot be."""
    config = LlamaConfig if base.model == "llama" else GPTConfig
    return build(config(vocab_size, **{f.name: getattr(base, f.name) for f in fields(config) if hasattr(base, f.name)}))
