"""A checkpoint is a folder in Hugging Face's layout, of GPT-2 or the Llama family, written and read without their code.

    config.json          GPT2Config's keys, or LlamaConfig's
    model.safetensors    the names and shapes of their classes, a tied head stored once, as the embedding
    tokenizer.json       see tokenizer_files.py
    run.json             how it was made: arguments, seed, versions, data, cost
    train_state.pt       what `--resume` needs; tensors and plain types, read with weights_only=True

Nothing is ever pickled code. Proved by tests/lm/test_checkpoint.py.
"""

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minirlhf.harness import folders
from minirlhf.harness.files import UserError, read_json, write_json
from minirlhf.harness.folders import stands_in
from minirlhf.lm import lora_files, tokenizer_files
from minirlhf.lm.chat_formats import FORMATS, choose_format, missing_specials
from minirlhf.lm.config import LoRAOptions
from minirlhf.lm.config import MOST_EXAMPLES
from minirlhf.lm.families import Config, Model, build, config_from_json, config_to_json, family_of
from minirlhf.lm.gguf_models import read_gguf
from minirlhf.lm.lora import layers_of, merge
from minirlhf.lm.safetensors import Safetensors, raw_bytes, write_safetensors
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.weights import fill, read_weights, to_float

COUNT = range(2**63)
RUN = {  # of run.json: all that anything reads of it, as an example
    "stage?": "", "base?": "", "seed?": COUNT, "tasks?": {"*": 1.0}, "reference?": "", "max_new?": COUNT,
    "data?": {
        "examples?": range(MOST_EXAMPLES + 1), "init?": "", "reward?": ("", [""]), "data?": [""], "prompts?": [""],
        "map?": "",
    },
    "training?": {"beta?": 0.0, "temperature?": 0.0, "missing_eos?": 0.0},
    "cost?": {"steps": COUNT, "tokens": COUNT, "seconds": 0.0},
    "optimum?": {"*": {"effective_size": 0.0, "value": (0.0, None), "low?": (0.0, None), "high?": (0.0, None)}},
}  # fmt: skip


def fingerprint(model: Model, tokenizer: Tokenizer | None = None) -> str:
    """SHA-256 of the weights, and of a tokenizer: two names for one model are found out, and one name for two."""
    digest = hashlib.sha256(repr((tokenizer.token_bytes, tokenizer.special_ids)).encode() if tokenizer else b"")
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def to_huggingface(model: Model) -> dict[str, Tensor]:
    """The model's parameters under the names of Hugging Face's class, in its shapes."""
    family, state = family_of(model.config), model.state_dict()
    return {family.their_name(name): x.t() if name.endswith(family.TRANSPOSED) else x for name, x in state.items()}


class Undrawn(TorchFunctionMode):
    """New weights are not drawn. Where they have no numbers at all, torch would import 800 modules to draw none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function is nn.init.normal_ else function(*args, **(kwargs or {}))


def from_huggingface(tensors: Mapping[str, Tensor], config: Config, name: str, beside: str = "") -> Model:
    """The model that tensors under Hugging Face's names describe, in float32. Raises UserError.

    beside: a tensor of something else.  One tensor at a time is read; the numbers of a new model are never drawn.
    """
    try:
        if config.layers > len(tensors):  # what config.json makes up is not to be built, not even as shapes alone
            raise OverflowError
        with torch.device("meta"), Undrawn():
            model = build(config)
    except (RuntimeError, TypeError, OverflowError):
        raise UserError(f"{name}: its {len(tensors)} tensors are too few for {config}") from None
    fill(model, tensors, family_of(config), name, beside)
    return model


def save(
    folder: str | Path, model: Model, tokenizer: Tokenizer, run: dict,
    head: dict[str, Tensor] | None = None, config: dict | None = None, value_head: nn.Module | None = None,
) -> None:  # fmt: skip
    """Write the model, its tokenizer and run.json. config.json goes first and comes last: it marks the folder whole.

    head, config: tensors beside the model's, and keys of config.json that differ from a language model's.
    value_head: in a file of its own; without one, what an earlier run left there is removed.
    """
    folder = Path(folder)
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors", "value_head.safetensors"):
        (folder / name).unlink(missing_ok=True)
    write_safetensors(folder / "model.safetensors", to_huggingface(model) | (head or {}))
    if value_head:
        write_safetensors(folder / "value_head.safetensors", value_head.state_dict())
    tokenizer_files.save(tokenizer, folder)
    write_json(folder / "run.json", run)
    write_json(folder / "config.json", config_to_json(model.config, tokenizer.eos_id) | (config or {}))


def save_adapter(
    folder: str | Path, model: Model, tokenizer: Tokenizer, run: dict, base: str, value_head: nn.Module | None = None
) -> None:  # fmt: skip
    """`save` of a model with adapters: these alone. base: the model that they stand beside, as a user names it."""
    folder = Path(folder)
    for name in ("config.json", "adapter_config.json", "model.safetensors", "value_head.safetensors"):
        (folder / name).unlink(missing_ok=True)
    if value_head:
        write_safetensors(folder / "value_head.safetensors", value_head.state_dict())
    tokenizer_files.save(tokenizer, folder)
    write_json(folder / "run.json", run)
    lora_files.save_adapter(folder, model, base)


def keeping(
    out: str | Path, model: Model, tokenizer: Tokenizer, lora: LoRAOptions, base: str,
    more: Callable[[], dict] = dict,
) -> dict:  # fmt: skip
    """`init`, `start`, `save` and `load` of a Run that trains the model, and a value head if there is one.

    base: what the model was loaded from; it has no adapters yet.  more: what is then added to run.json.
    """
    start = {"base": fingerprint(model)} if lora.lora and not lora.merge else {}

    def keep(run: dict, parts: dict, folder: str | Path = out) -> None:
        run, head = run | start | more(), parts.get("value_head")
        if lora.lora and not lora.merge:
            save_adapter(folder, model, tokenizer, run, base, head)
        else:
            whole = deepcopy(model) if lora.lora and folder != out else model  # which is to go on with its adapters
            save(folder, merge(whole) if lora.lora else model, tokenizer, run, value_head=head)

    told = {"init": lora.mark(fingerprint(model, tokenizer)), "start": base}
    return told | {"save": keep, "load": lambda parts: restore(out, model, parts.get("value_head"))}


def restore(folder: str | Path, model: Model, value_head: nn.Module | None = None) -> None:
    """Give a model of the same shape, or its adapters, and a value head what is in a folder. Raises UserError."""
    if layers_of(model):
        if not (Path(folder) / "adapter_config.json").exists():
            raise UserError(f"{folder}: finished, and its adapters are merged: start anew, with --init {folder}")
        lora_files.fill_adapter(folder, model)
    else:
        tensors, path = read_weights(Path(folder))
        fill(model, tensors, family_of(model.config), str(path))
    if value_head:
        load_value_head(folder, value_head)


def load_value_head(folder: str | Path, value_head: nn.Module) -> None:
    """Give a value head its weights in a folder, if there are any. Raises UserError."""
    path = Path(folder) / "value_head.safetensors"
    try:
        if path.exists():
            value_head.load_state_dict(Safetensors(path))
    except RuntimeError:
        raise UserError(f"{path}: is of another model than {folder}") from None


def load(path: str | Path) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a checkpoint folder, ours or Hugging Face's, or of a GGUF file. Raises UserError."""
    return load_with(path, "")[:2]


def load_with(path: str | Path, head: str, above: tuple[Path, ...] = ()) -> tuple[Model, Tokenizer, Tensor | None]:
    """`load`, and the tensor `head` of a model that is more, or None. above: folders of adapters that stand on it."""
    path = Path(path)
    if (path / "adapter_config.json").exists():
        base, above = lora_files.base_of(path), (*above, path.resolve())
        if Path(base).resolve() in above:
            raise UserError(f"{path}/adapter_config.json: {base} stands on these adapters itself; name a whole model")
        model, tokenizer, found = load_with(base, head, above)
        if (path / "tokenizer.json").exists():
            tokenizer = tokenizer_files.load(path)
            resize_vocabulary(model, tokenizer.vocab_size)  # new rows are the mean of the old ones, as in training
        if (made := read_run(path).get("base")) and made != fingerprint(model):
            raise UserError(f"{path}: its adapters were trained beside other weights than those of {base} now")
        return merge(lora_files.load_adapter(path, model)), tokenizer, found
    if path.is_file():
        raw, tensors, tokenizer = read_gguf(path)
        config, weights = config_from_json(raw, str(path)), path
    else:
        if not path.is_dir():
            raise UserError(f"{path}: no such checkpoint folder or GGUF file; train one first, or name another")
        if not (path / "config.json").exists() and stands_in(path):
            raise UserError(f"{path}: no config.json, not whole: a run goes on or was killed; resume it, or train again")
        if not (path / "config.json").exists() and (inside := sorted(str(x.parent) for x in path.glob("*/config.json"))):
            raise UserError(f"{path}: no checkpoint itself, it holds {', '.join(inside)}; name one of them")
        config = config_from_json(read_json(path / "config.json"), str(path / "config.json"))
        (tensors, weights), tokenizer = read_weights(path), None
    found = to_float(tensors[head], head, str(weights)) if head in set(tensors) else None
    model = from_huggingface(tensors, config, str(weights), head)
    tokenizer = tokenizer or tokenizer_files.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model embeds {config.vocab_size}"
        raise UserError(f"{path}: the tokenizer has {sizes}: they are of two models")
    # Rows that no token stands for could be sampled, and then not be decoded.
    resize_vocabulary(model, tokenizer.vocab_size)
    return model, tokenizer, found


def resize_vocabulary(model: Model, size: int) -> None:
    """Cut the embedding, and a head of its own, to `size` rows, or add rows, each the mean of the old ones."""
    if size == model.config.vocab_size:
        return  # nothing is copied
    for layer in (model.wte, getattr(model, "lm_head", None)):
        if layer is not None:
            old = layer.weight.data[:size]  # (V, C)
            new = old.mean(0, keepdim=True).expand(size - len(old), -1)  # (n, C)
            layer.weight = nn.Parameter(torch.cat([old, new]))  # (size, C)
    model.wte.num_embeddings = size
    model.config = replace(model.config, vocab_size=size)


def read_run(folder: str | Path) -> dict:
    """run.json of a checkpoint, or {} where it has none (GPT-2 from elsewhere). Raises UserError."""
    return folders.read_run(folder, RUN)


def load_with_roles(path: str | Path, form: str = "") -> tuple[Model, Tokenizer]:
    """`load` of a model to fine-tune: special tokens that it does not know get new rows of the embedding.

    form: the name of a chat format; none takes that of the tokenizer, or else our own.
    """
    model, tokenizer = load(path)
    wanted = FORMATS[form] if form else tokenizer.chat
    tokenizer.add_specials(missing_specials(wanted, tokenizer))
    resize_vocabulary(model, tokenizer.vocab_size)
    return model, choose_format(tokenizer, form) if form else tokenizer


def load_chat(path: str | Path, form: str = "") -> tuple[Model, Tokenizer]:
    """`load` of a model that knows who speaks. Raises UserError for one that was not fine-tuned.

    form: the name of a chat format; none takes that of the tokenizer.
    """
    model, tokenizer = load(path)
    tokenizer = choose_format(tokenizer, form) if form else tokenizer
    if missing := missing_specials(tokenizer.chat, tokenizer):
        raise UserError(f"{path}: its tokenizer has no {missing[0]}; fine-tune it with train_sft.py first")
    return model, tokenizer
