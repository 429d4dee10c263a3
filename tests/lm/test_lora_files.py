"""Adapters in PEFT's format: what PEFT wrote is read, what it reads is written, and what is not computed is refused."""

import json
from pathlib import Path

import pytest
import torch
from llamas import SHAPE, by_formula, some_ids

from minirlhf.harness.files import UserError
from minirlhf.lm.checkpoint import to_huggingface
from minirlhf.lm.families import Model, config_to_json
from minirlhf.lm.lora import adapt, layers_of, merge
from minirlhf.lm.lora_files import load_adapter, save_adapter
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.safetensors import Safetensors, write_safetensors

GOLDEN = json.loads((Path(__file__).parent.parent / "golden.json").read_text(encoding="utf-8"))["lora"]
SHAPES = {"gpt2": GPTConfig(97, 64, 2, 4, 32), "llama": SHAPE}
IDS = some_ids(2, 20)
each_kind = pytest.mark.parametrize("kind", SHAPES)


def by_peft(kind: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(adapter_config.json, the tensors) as PEFT wrote them; their numbers are sines."""
    shapes = GOLDEN[kind]["shapes"]
    waves = [torch.sin(torch.arange(m * n, dtype=torch.float64) * 1.7 + i) for i, (m, n) in enumerate(shapes.values())]
    return dict(GOLDEN[kind]["config"]), {k: (0.3 * x).view(shapes[k]).float() for k, x in zip(shapes, waves)}


def write(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def learnt(kind: str) -> Model:
    """A model with adapters that have learnt something."""
    model = adapt(by_formula(SHAPES[kind]), 5, 12.0)
    for layer in layers_of(model).values():
        torch.nn.init.normal_(layer.B, std=0.1)
    return model


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model.logits(model(IDS))  # (2, 20, V)


@each_kind
def test_what_peft_wrote_computes_peft_s_logits(kind, tmp_path):
    """peft 0.21.2 and transformers 5.24, float32; of the Llama with its scale of alpha / √r, on some of the layers."""
    model = load_adapter(write(tmp_path, *by_peft(kind)), by_formula(SHAPES[kind]))
    got, wanted = logits(model)[:, -2:, :8], torch.tensor(GOLDEN[kind]["logits"])  # (2, 2, 8)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert (logits(by_formula(SHAPES[kind]))[:, -2:, :8] - wanted).abs().max() > 0.01
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"{path}.{x}" for path in layers_of(model) for x in "AB"
    }


@each_kind
def test_what_is_written_has_peft_s_names_shapes_and_keys(kind, tmp_path):
    config, tensors = by_peft(kind)
    model = load_adapter(write(tmp_path, config, tensors), by_formula(SHAPES[kind]))
    save_adapter(tmp_path / "again", model, "some/base")
    written = dict(Safetensors(tmp_path / "again" / "adapter_model.safetensors"))
    assert written.keys() == tensors.keys() and all(torch.equal(x, written[k]) for k, x in tensors.items())
    raw = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    for key in ("peft_type", "task_type", "r", "bias", "target_modules", "fan_in_fan_out", "inference_mode"):
        assert raw[key] == config[key], key
    assert raw["base_model_name_or_path"] == "some/base"
    assert raw["lora_alpha"] == pytest.approx(7 * (3**0.5 if config["use_rslora"] else 1))
    assert raw.keys() <= config.keys()


@each_kind
def test_what_was_written_is_read(kind, tmp_path):
    model = learnt(kind)
    save_adapter(tmp_path, model, "base")
    again = load_adapter(tmp_path, by_formula(SHAPES[kind]))
    assert torch.equal(logits(model), logits(again)) and {x.alpha for x in layers_of(again).values()} == {12.0}


@each_kind
def test_peft_opens_what_is_written(kind, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = by_formula(SHAPES[kind])
    config = transformers.AutoConfig.for_model(**config_to_json(base.config, 0))
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.load_state_dict(to_huggingface(base), strict=False)
    model = learnt(kind)
    save_adapter(tmp_path, model, "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs.merge_and_unload()(IDS).logits, logits(merge(model)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "key, value",
    [("use_dora", True), ("alpha_pattern", {"c_fc": 3}), ("rank_pattern", {"c_fc": 2}), ("bias", "all"),
     ("modules_to_save", ["lm_head"]), ("trainable_token_indices", [1]), ("peft_type", "IA3"), ("lora_bias", True),
     ("layer_replication", [[0, 2]]), ("alora_invocation_tokens", [5]), ("init_lora_weights", "pissa"),
     ("target_parameters", ["wte"]), ("use_qalora", True), ("a_way_of_tomorrow", {"on": 1})],
)  # fmt: skip
def test_what_is_computed_otherwise_is_refused_by_name(key, value, tmp_path):
    config, tensors = by_peft("gpt2")
    with pytest.raises(UserError, match=f"adapter_config.json: {key} is .* merge_and_unload"):
        load_adapter(write(tmp_path, config | {key: value}, tensors), by_formula(SHAPES["gpt2"]))


@pytest.mark.parametrize("key, value", [("r", 0), ("r", "8"), ("r", None), ("lora_alpha", None), ("lora_alpha", "7")])
def test_a_damaged_config_is_refused_in_one_line(key, value, tmp_path):
    config, tensors = by_peft("gpt2")
    with pytest.raises(UserError, match=f"adapter_config.json: damaged, {key}"):
        load_adapter(write(tmp_path, config | {key: value}, tensors), by_formula(SHAPES["gpt2"]))


A0 = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"


@pytest.mark.parametrize(
    "change, said",
    [(lambda c, x: c.update(r=4), r"h.0.attn.c_attn.lora_A.weight is \(3, 32\) in it and \(4, 32\) beside this model"),
     (lambda c, x: c.update(r=33), "adapter_config.json: rank 33; the smallest matrix has 32"),
     (lambda c, x: x.pop(A0), "c_attn.lora_A.weight is missing in it"),
     (lambda c, x: [x.pop(k) for k in list(x) if ".h.1." in k], "h.1.*missing in it.*not on every block"),
     (lambda c, x: x.clear(), "missing in it"),
     (lambda c, x: x.update({"lm_head.weight": torch.ones(1)}), r"lm_head.weight is \(1,\) in it and missing beside"),
     (lambda c, x: x.update({"a.q_proj.lora_A.weight": x[A0]}), "no layer 'q_proj'"),
     (lambda c, x: x.update({".lora_A.weight": x[A0]}), r"\.lora_A.weight is \(3, 32\) in it and missing"),
     (lambda c, x: x.update({A0: x[A0] * float("nan")}), "not finite")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(change, said, tmp_path):
    config, tensors = by_peft("gpt2")
    change(config, tensors)
    with pytest.raises(UserError, match=said) as error:
        load_adapter(write(tmp_path, config, tensors), by_formula(SHAPES["gpt2"]))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_an_adapter_of_a_llama_does_not_fit_a_gpt(tmp_path):
    with pytest.raises(UserError, match="no layer 'down_proj' in a block"):
        load_adapter(write(tmp_path, *by_peft("llama")), by_formula(SHAPES["gpt2"]))


def test_no_adapter_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="adapter_config.json: No such file"):
        load_adapter(tmp_path, by_formula(SHAPES["gpt2"]))


def test_the_config_goes_first_and_comes_last(tmp_path, monkeypatch):
    """A kill in between leaves no config that speaks of other tensors."""
    save_adapter(tmp_path, learnt("gpt2"), "base")
    monkeypatch.setattr("minirlhf.lm.lora_files.write_safetensors", lambda path, tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(tmp_path, learnt("gpt2"), "base")
    assert not (tmp_path / "adapter_config.json").exists()
