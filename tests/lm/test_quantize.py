"""Blocks by another implementation's bytes and by what the formats promise; pruning by a slow twin."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llamas import CASES, by_formula, some_ids
from torch import nn

from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint
from minirlhf.lm.families import config_to_json
from minirlhf.lm.gguf import Gguf, write
from minirlhf.lm.gguf_models import write_gguf
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.quantize import KINDS, WRITTEN, BlockLinear, encode, in_blocks, prune
from minirlhf.lm.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parent.parent / "golden.json").read_text(encoding="utf-8"))["blocks"]
BLOCKS = "Q8_0", "Q4_0", "Q4_1"
FEW = torch.tensor([
    [0.0] * 32, [1.5] * 32, [-0.3] * 32, [0.0] * 31 + [-0.7], [1.0, -1.0] * 16, [-1.0, 1.0] * 16,
    [(i - 11) / 8 for i in range(32)], [((i * 37) % 32 - 16) / 16 for i in range(32)],
    [((i * 7) % 16 - 7.5) / 4 for i in range(32)],
])  # fmt: skip
MODELS = {"gpt2": GPTConfig(260, 97, 2, 2, 64), "llama": replace(CASES["llama"], width=64, inner=96, tied=False)}


def kind_named(name):
    return KINDS[WRITTEN[name]]


def decoded(x, name):
    return kind_named(name).decode(encode(x, kind_named(name))).view(x.shape)


def weights(seed=0, n=500):
    """Blocks of many sizes and centres, (n, 32)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 32, generator=generator) + torch.randn(n, 1, generator=generator)
    return x * 10 ** (2 * torch.rand(n, 1, generator=generator) - 1)


def model_of(family):
    return by_formula(replace(MODELS[family], vocab_size=260))


def matrices(model):
    return {path: x.weight for path, x in model.h.named_modules() if isinstance(x, nn.Linear)}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_ggml_to_the_bit(name):
    """By the gguf package: blocks with ties, zeros, equals and one sign; and the hash of 5,000 made by a formula."""
    assert [bytes(raw.tolist()).hex() for raw in encode(FEW, kind_named(name))] == GOLDEN[name]["few"]
    numbers = ((torch.arange(32 * 5000) * 2654435761) % 2**32 >> 12) - 2**19
    raw = encode((numbers.double() / 2**22).float().view(-1, 32), kind_named(name))
    assert hashlib.sha256(raw.numpy().tobytes()).hexdigest() == GOLDEN[name]["many"]


def test_a_weight_moves_by_half_a_step_and_what_rounding_the_scales_adds():
    """Steps by their definitions; in Q4_0 a whole one on the side that has a level less."""
    w, half = weights(), 2**-11
    d = w.abs().amax(1, keepdim=True) / 127
    assert bool(((decoded(w, "Q8_0") - w).abs() <= d * (0.5001 + 127 * half)).all())
    m = w.amin(1, keepdim=True)
    d = (w.amax(1, keepdim=True) - m) / 15
    assert bool(((decoded(w, "Q4_1") - w).abs() <= d * (0.5001 + 15 * half) + m.abs() * half).all())
    v = w.gather(1, w.abs().argmax(1, keepdim=True))
    step, beyond = v.abs() / 8, w / v < -7.5 / 8
    error = (decoded(w, "Q4_0") - w).abs() / step
    assert float(error[~beyond].max()) <= 0.5001 + 8 * half and 0.9 < float(error[beyond].max()) <= 1 + 8 * half


@pytest.mark.parametrize("name", BLOCKS)
def test_a_file_holds_what_memory_would(name, tmp_path):
    """Written and read is encoded and decoded, for a matrix that is a view, too."""
    w = weights(1, 96).view(64, 48).t()
    write(tmp_path / "m.gguf", {}, {"w": w, "x": weights(2, 4)}, name)
    file = Gguf(tmp_path / "m.gguf")
    assert torch.equal(file["w"], decoded(w, name)) and torch.equal(file["x"], decoded(weights(2, 4), name))


def test_what_is_just_below_a_half_is_rounded_down():
    """Adding a half in float32 would make it 1."""
    w, below = torch.zeros(1, 32), torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    w[0, :6] = torch.stack([torch.tensor(127.0), below, -below, torch.tensor(0.5), torch.tensor(-0.5), torch.tensor(2.5)])
    assert decoded(w, "Q8_0")[0, :6].tolist() == [127, 0, 0, 1, -1, 3]


def test_zeros_stay_zeros_but_in_blocks_with_a_least_value():
    w = weights(3, 50)
    w[:, ::3], w[7] = 0, 0
    assert all(not decoded(w, name)[w == 0].any() for name in ("Q8_0", "Q4_0"))
    assert decoded(w, "Q4_1")[w == 0].any() and not decoded(w, "Q4_1")[7].any() and not decoded(w.abs(), "Q4_1")[w == 0].any()


@pytest.mark.parametrize("name, most", [("Q8_0", 8.3e6), ("Q4_0", 5.2e5), ("Q4_1", 6.5e4)])
def test_what_is_too_large_for_float16_is_refused(name, most):
    """It would be infinite, and the weights of its block not numbers. Q4_1 holds the least weight itself."""
    x = torch.linspace(-most, 0, 32)
    assert decoded(x, name).isfinite().all()
    with pytest.raises(UserError, match="too large for the scale of a block"):
        encode(1.02 * x, kind_named(name))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_a_model_in_blocks_is_the_model_of_the_file(name, family, tmp_path):
    """To the bit: opened as float32, and then held in the same blocks."""
    model, tokenizer = model_of(family), Tokenizer()
    raw = config_to_json(model.config, tokenizer.eos_id)
    write_gguf(tmp_path / "m.gguf", raw, checkpoint.to_huggingface(model), tokenizer, name)
    opened, _ = checkpoint.load(tmp_path / "m.gguf")
    assert all(torch.equal(x, decoded(matrices(model)[path], name)) for path, x in matrices(opened).items())
    wanted = opened.logits(opened(some_ids(2, 9)))
    assert not torch.equal(wanted, model.logits(model(some_ids(2, 9))))
    held = in_blocks(opened, name)
    assert torch.equal(held.logits(held(some_ids(2, 9))), wanted) and not matrices(held)


@pytest.mark.parametrize("name, size", [("Q8_0", 34), ("Q4_0", 18), ("Q4_1", 20)])
def test_blocks_are_all_that_is_held_of_a_matrix(name, size):
    model = model_of("llama")
    n, rest = sum(x.numel() for x in matrices(model).values()), model.wte.weight
    in_blocks(model, name)
    held = [layer for layer in model.modules() if isinstance(layer, BlockLinear)]
    assert sum(x.nbytes for layer in held for x in layer.state_dict().values()) == n // 32 * size
    assert model.wte.weight is rest


def test_a_layer_in_blocks_answers_in_the_type_that_it_is_asked_in():
    layer, x = nn.Linear(32, 3).bfloat16(), torch.randn(2, 32).bfloat16()
    assert BlockLinear(layer, kind_named("Q8_0"))(x).dtype == torch.bfloat16


def test_rows_that_are_no_whole_blocks_stay_as_they_are():
    model = in_blocks(by_formula(replace(CASES["llama"], inner=48)), "Q8_0")
    assert {path.rpartition(".")[2] for path in matrices(model)} == {"down_proj"}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_pruning_takes_the_share_of_least_magnitude_from_each_matrix_and_nothing_else(share, family):
    """By a slow twin: sort by magnitude and then by place. Weights in steps, so that many tie."""
    model = model_of(family)
    with torch.no_grad():
        for x in matrices(model).values():
            x.copy_((x * 20).round() / 20 + 0.05 * (x >= 0))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    pruned = {f"h.{path}.weight" for path in matrices(model)}
    for name, x in prune(model, share).state_dict().items():
        flat = before[name].flatten().tolist()
        if name in pruned:
            for i in sorted(range(len(flat)), key=lambda i: (abs(flat[i]), i))[: round(share * len(flat))]:
                flat[i] = 0.0
        assert torch.equal(x.flatten(), torch.tensor(flat)), name


def test_pruning_again_changes_nothing_and_pruning_more_is_as_if_at_once():
    once, twice, steps, more = (model_of("llama") for _ in range(4))
    prune(once, 0.5), prune(prune(twice, 0.5), 0.5), prune(prune(steps, 0.3), 0.7), prune(more, 0.7)
    for a, b in ((once, twice), (steps, more)):
        assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
