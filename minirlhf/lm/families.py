"""The two families of models, GPT-2 and Llama, behind one interface: which file names whose parameters, and new ones.

Proved by tests/lm/test_families.py.
"""

from dataclasses import fields
from types import ModuleType

from minirlhf.harness.files import UserError
from minirlhf.lm import gpt2_files, llama_files
from minirlhf.lm.config import Base
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.lm.model import GPT, GPTConfig

Model, Config = GPT | Llama, GPTConfig | LlamaConfig


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
