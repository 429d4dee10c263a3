"""Trainings with adapters on models from elsewhere, from end to end: a Llama's folder, a GGUF file and a GPT-2."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bad_inputs.world import a_signal_after_the_first_step, jsonl, run, succeed

from minirlhf.harness.folders import load_state
from minirlhf.lm import checkpoint
from minirlhf.lm.chat_formats import FORMATS, choose_format
from minirlhf.lm.families import Config, Model, build, config_to_json, family_of
from minirlhf.lm.gguf_models import write_gguf
from minirlhf.lm.llama import Llama, LlamaConfig
from minirlhf.lm.model import GPTConfig
from minirlhf.lm.safetensors import Safetensors
from minirlhf.lm.tokenizer import Tokenizer
from minirlhf.lm.vocabulary import CUTS, VocabularyTokenizer

KINDS = {"llama": "llama", "gguf": "qwen.gguf", "gpt2": "gpt2"}
RL = "train_ppo.py --prompts prompts.jsonl --reward mine.py:length --iterations 2 --batch 8 --minibatches 1 --max-new 6"
STAGES = {
    "sft": "train_sft.py --data pairs.jsonl --steps 2 --batch 4",
    "ppo": f"{RL} --missing-eos -1",
    "grpo": f"{RL} --missing-eos -1 --algo grpo",
    "dpo": "train_dpo --data prefs.jsonl --epochs 1 --batch 4 --held-out 0",
    "reward": "train_reward --data prefs.jsonl --epochs 1 --batch 4 --held-out 0",
}
COMMON = "--lora 2 --lr 0.02 --warmup 0 --save-every 1 --threads 1"
LONGER = {"sft": "--steps 3", "ppo": "--iterations 3", "dpo": "--epochs 1.5", "reward": "--epochs 1.5"}
LLAMA3 = LlamaConfig(1, 64, 1, 4, 16, 2, rope_base=5e5, rope_scaling=(8.0, 1.0, 4.0, 8192), tied=False)


def from_elsewhere(system: str = "") -> VocabularyTokenizer:
    """A vocabulary whose special tokens come first, and whose turns are written in ChatML."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    ours = Tokenizer.train(["system user assistant say be brief"] * 4, 285, "gpt2", names)
    tokens = {token: 3 + i for i, token in enumerate(reversed(ours.token_bytes))}
    merges = [(ours.token_bytes[left], ours.token_bytes[right]) for left, right in ours.merges]
    specials = {name: i for i, name in enumerate(names)}
    tokenizer = choose_format(VocabularyTokenizer(tokens, merges, specials, CUTS["smollm"], names[2]), "chatml")
    tokenizer.chat = replace(tokenizer.chat, system=system)
    return tokenizer


def brief(config: Config, tokenizer) -> Model:
    """A new model that ends about every sixth token."""
    torch.manual_seed(0)
    model, eos = build(replace(config, vocab_size=tokenizer.vocab_size)), tokenizer.eos_id
    with torch.no_grad():
        if isinstance(model, Llama):  # a number that is large in every hidden state, and in the EOS's row of the head
            model.wte.weight[:, 0] = 1
            (model.lm_head or model.wte).weight[eos, 0] += 1
        else:
            model.ln_f.bias += 4 * model.wte.weight[eos] / model.wte.weight[eos].square().sum()
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the three models as they come from elsewhere, and a user's own files."""
    folder = tmp_path_factory.mktemp("real")
    tokenizer = from_elsewhere("be brief")
    checkpoint.save(folder / "llama", brief(LLAMA3, tokenizer), tokenizer, {})
    tokenizer = from_elsewhere()
    qwen = brief(LlamaConfig(1, 64, 1, 4, 16, 2, qkv_bias=True), tokenizer)
    raw = config_to_json(qwen.config, tokenizer.eos_id)
    write_gguf(folder / "qwen.gguf", raw, checkpoint.to_huggingface(qwen), tokenizer)
    tokenizer = Tokenizer.train(["user assistant say"] * 4, 270, "gpt2", ["<|endoftext|>"])
    checkpoint.save(folder / "gpt2", brief(GPTConfig(1, 64, 1, 2, 16), tokenizer), tokenizer, {})
    for name in ("llama", "gpt2"):
        (folder / name / "run.json").unlink()
    files = {
        "pairs": [{"prompt": f"say {c}", "response": 2 * c} for c in "abcdefgh"],
        "prompts": [{"prompt": f"say {c}"} for c in "abcdefgh"],
        "prefs": [{"prompt": f"say {c}", "chosen": 2 * c, "rejected": c} for c in "abcdefgh"],
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_bytes(jsonl(*records))
    (folder / "mine.py").write_text("def length(prompt, response, record):\n    return len(response) / 10\n")
    return folder


@pytest.fixture
def here(models, monkeypatch) -> Path:
    """The folder of `models` as the current one."""
    monkeypatch.chdir(models)
    return models


def start_of(kind: str, stage: str) -> str:
    """What a training starts from: the model, or, of a GPT-2 that knows no roles, the adapters of its SFT."""
    return f"straight/{kind}/sft/sft" if kind == "gpt2" and stage != "sft" else KINDS[kind]


def command(kind: str, stage: str, out: str, *more: str) -> str:
    """A training of that kind of model with adapters."""
    return " ".join([STAGES[stage], COMMON, "--init", start_of(kind, stage), "--out", f"{out}/{kind}/{stage}", *more])


def folder_of(kind: str, stage: str, out: str) -> Path:
    """Where such a training writes."""
    return Path(out, kind, stage, *(["sft"] if stage == "sft" else []))


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of all weights in a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def refused(line: str, *says: str) -> None:
    """Fails unless the command ends in one line that says so."""
    status, _, err = run(line)
    said = [x for x in err.splitlines() if x.strip() and "it/s" not in x]
    assert status == 2 and len(said) == 1 and all(word in said[0] for word in says), err


@pytest.fixture(scope="module", params=KINDS)
def kind(request, models) -> str:
    """A kind of model on which every training was run once, into straight/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        for stage in STAGES:
            succeed(command(request.param, stage, "straight"))
    return request.param


@pytest.mark.parametrize("stage", ["sft", "ppo", "grpo", "dpo"])
def test_a_folder_holds_the_adapters_alone_and_loads_as_the_base_and_b_a(stage, kind, here):
    """W + B A α/r on every matrix of the blocks, to the bit, and all else as in the base."""
    folder = folder_of(kind, stage, "straight")
    names = ["adapter_model.safetensors", *["value_head.safetensors"] * (stage == "ppo")]
    assert sorted(weights(folder)) == names
    assert not (folder / "config.json").exists()
    load = checkpoint.load_with_roles if stage == "sft" else checkpoint.load
    base, _ = load(start_of(kind, stage))
    found, tokenizer = checkpoint.load(folder)
    assert found.config == base.config and tokenizer.vocab_size == base.config.vocab_size
    given, transposed = Safetensors(folder / "adapter_model.safetensors"), bool(family_of(base.config).TRANSPOSED)
    wanted = {name: x.clone() for name, x in checkpoint.to_huggingface(base).items()}
    for name in (name for name in given if name.endswith(".lora_B.weight")):
        product = 4.0 / 2 * given[name] @ given[name.replace("_B.", "_A.")]  # (out, in)
        assert product.abs().max() > 0
        wanted[name.removeprefix("base_model.model.").replace(".lora_B", "")] += product.t() if transposed else product
    matrices = [name for name, x in wanted.items() if ".0." in name and x.dim() == 2]
    assert sorted(name.replace(".weight", "") for name in matrices) == sorted(
        name.removeprefix("base_model.model.").replace(".lora_A.weight", "") for name in given if ".lora_A." in name)
    assert all(torch.equal(x, wanted[name]) for name, x in checkpoint.to_huggingface(found).items())


def test_all_are_evaluated_beside_what_they_started_from(kind, here):
    names = {stage: folder_of(kind, stage, "straight") for stage in ("sft", "ppo", "grpo", "dpo")}
    named = " ".join(f"{name}={folder}" for name, folder in {"start": start_of(kind, "ppo"), **names}.items())
    said = "evaluate.py --data prompts.jsonl --samples 1 --max-new 4 --show 0 --threads 1"
    succeed(f"{said} --out eval/{kind} --models {named}")
    rows = json.loads(Path("eval", kind, "report.json").read_text())["tasks"]["data"]["metrics"]
    (kl,) = [row for row in rows if row["metric"].startswith("KL")]
    assert kl["models"]["start"]["value"] == 0 < min(kl["models"][name]["value"] for name in ("ppo", "grpo", "dpo"))


def test_a_reward_model_is_whole_and_rewards_rl_that_starts_at_adapters(kind, here):
    """The base of the new adapters is a folder of adapters."""
    assert {*weights(folder_of(kind, "reward", "straight"))} == {"model.safetensors"}
    sft = folder_of(kind, "sft", "straight")
    line = STAGES["ppo"].replace("mine.py:length", f"model:straight/{kind}/reward")
    succeed(f"{line} {COMMON} --init {sft} --out judged/{kind}")
    assert json.loads(Path("judged", kind, "adapter_config.json").read_text())["base_model_name_or_path"] == str(sft)
    before, after = (checkpoint.load(folder)[0].state_dict() for folder in (sft, f"judged/{kind}"))
    moved = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert moved == {name for name, x in after.items() if name.startswith("h.") and x.dim() == 2}


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_it_gives_the_same_bits_and_a_state_holds_the_adapters_alone(stage, kind, here):
    line, folder = command(kind, stage, "stopped"), folder_of(kind, stage, "stopped")
    with a_signal_after_the_first_step():
        succeed(line, 130)
    parts = load_state(folder / "train_state.pt")["parts"]
    learnt = [name for part in ("model", "policy") for name in parts.get(part, ())]
    assert learnt and {name for name in learnt if not name.endswith((".A", ".B"))} <= {"score.weight"}
    assert (folder / "config.json").exists() == (stage == "reward")  # a stopped run is a checkpoint, too
    succeed(f"{line} --resume")
    assert weights(folder) == weights(folder_of(kind, stage, "straight")) and steps_of(folder) == [1, 2]


def test_the_doctor_finds_nothing_broken_and_names_the_reference(kind, here):
    status, out, err = run(f"doctor {folder_of(kind, 'ppo', 'straight')} --threads 1")
    assert status == 0 and "BROKEN" not in out and f"reference: {start_of(kind, 'ppo')}\n" in out, out + err
    assert out.count("\nok ") >= 10


# One kind is enough for what follows


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo"])
def test_merged_it_is_a_whole_model_of_the_same_bits_also_behind_a_stop(stage, here):
    succeed(command("llama", stage, "plain"))
    line, folder = command("llama", stage, "merged", "--merge"), folder_of("llama", stage, "merged")
    with a_signal_after_the_first_step():
        succeed(line, 130)
    succeed(f"{line} --resume")
    assert (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()
    apart, merged = (checkpoint.load(x)[0].state_dict() for x in (folder_of("llama", stage, "plain"), folder))
    assert all(torch.equal(x, merged[name]) for name, x in apart.items())
    before = weights(folder)
    says = f"{folder}: finished, and its adapters are merged: start anew, with --init {folder}"
    refused(f"{line} --resume {LONGER[stage]}", says)
    assert weights(folder) == before


@pytest.mark.parametrize("stage", LONGER)
def test_a_finished_run_is_extended_but_a_reward_model_whose_adapters_are_merged(stage, here):
    line, folder = command("gguf", stage, "longer"), folder_of("gguf", stage, "longer")
    succeed(line)
    before = weights(folder)
    line += f" --resume {LONGER[stage]}"
    if stage == "reward":
        refused(line, f"{folder}: finished, and its adapters are merged: train it anew")
        assert weights(folder) == before
    else:
        succeed(line)
        assert steps_of(folder) == [1, 2, 3] and weights(folder) != before


@pytest.mark.parametrize("status", [0, 130], ids=["finished", "stopped"])
def test_a_resume_with_other_adapters_is_refused_in_one_line(status, here, tmp_path):
    line, folder = command("llama", "sft", f"{tmp_path}"), folder_of("llama", "sft", f"{tmp_path}")
    with a_signal_after_the_first_step() if status else nullcontext():
        succeed(line, status)
    before = weights(folder)
    options = {"--lora 3": "lora=3", "--lora-alpha 3": "lora_alpha=3.0", "--lora-on q_proj": "lora_on=('q_proj',)"}
    for option, now in options.items():
        refused(f"{line} --resume {option}", "saved with init = ", ", now ", now)
    assert weights(folder) == before


@pytest.mark.parametrize("line", [
    "evaluate.py --data prompts.jsonl --models a=a/llama/ppo", "doctor a/llama/ppo", "convert a/llama/ppo whole",
    f"{STAGES['ppo']} --init a/llama/ppo --out b",
])  # fmt: skip
def test_adapters_whose_base_is_gone_are_refused_in_one_line(line, models, monkeypatch, tmp_path):
    shutil.copytree(models / "llama", tmp_path / "llama")
    for name in ("prompts.jsonl", "mine.py"):
        shutil.copy(models / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    succeed(command("llama", "ppo", "a"))
    Path("llama").rename("elsewhere")
    refused(line, "a/llama/ppo/adapter_config.json: its base llama is not there; go to the folder that")


@pytest.mark.parametrize("stage", ["sft", "ppo", "dpo"])
def test_adapters_beside_another_model_than_theirs_are_refused_in_one_line(stage, models, monkeypatch, tmp_path):
    """As where the base was trained again since: its shapes are the same, and nothing else would tell."""
    shutil.copytree(models / "llama", tmp_path / "llama")
    for path in (x for x in models.iterdir() if x.is_file()):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    succeed(command("llama", stage, "a"))
    model, tokenizer = checkpoint.load("llama")
    with torch.no_grad():
        model.wte.weight[0, 0] += 1
    checkpoint.save("llama", model, tokenizer, {})
    folder = folder_of("llama", stage, "a")
    refused(f"evaluate.py --data prompts.jsonl --models a={folder}", f"{folder}: its adapters were trained beside other weights")


def test_adapters_that_are_half_written_are_no_checkpoint(here, monkeypatch, tmp_path):
    """What marks the folder whole goes first: an older mark beside a newer tokenizer would be believed."""
    line = command("llama", "sft", f"{tmp_path}")
    with a_signal_after_the_first_step():
        succeed(line, 130)
    folder = folder_of("llama", "sft", f"{tmp_path}")
    assert (folder / "adapter_config.json").exists()
    monkeypatch.setattr(checkpoint.tokenizer_files, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        succeed(f"{line} --resume")
    assert not (folder / "adapter_config.json").exists()


def test_a_new_llama_goes_the_whole_way(monkeypatch, tmp_path):
    """Pretraining, SFT, PPO from out/sft, and the evaluation of all three, with nothing named but the family."""
    monkeypatch.chdir(tmp_path)
    shape = "--layers 1 --heads 2 --width 16 --vocab 300 --base-steps 2"
    succeed(f"train_sft.py --model llama --task sentiment --examples 40 {shape} --steps 2 --batch 4 --threads 1")
    succeed("train_ppo.py --examples 20 --iterations 1 --batch 4 --minibatches 1 --max-new 4 --threads 1")
    succeed("evaluate.py --prompts 2 --samples 1 --show 0 --threads 1")
    assert [type(checkpoint.load(f"out/{name}")[0]) for name in ("base", "sft", "ppo")] == [Llama] * 3
    report = json.loads(Path("out", "eval", "report.json").read_text())
    assert list(report["models"]) == ["base", "sft", "ppo"]


def test_a_new_model_has_nothing_that_adapters_could_stand_beside(here):
    line = "train_sft.py --lora 2 --examples 20 --vocab 300 --base-steps 1"
    refused(line, "--lora can do nothing without --init: give both, or leave it out")


def test_the_doctor_reads_the_head_of_a_llama_that_has_one(here):
    """The EOS of our own format is never an input where it is sampled: its embedding has no gradient."""
    succeed(command("llama", "sft", "ours", "--chat", "ours"))
    line = "--prompts prompts.jsonl --reward mine.py:length --threads 1"
    status, out, err = run(f"doctor {folder_of('llama', 'sft', 'ours')} {line}")
    assert status == 0 and "\nok      EOS is trained" in out, out + err


def test_a_chat_format_by_its_name_adds_its_tokens_in_sft_and_is_refused_elsewhere(here):
    succeed(command("gpt2", "sft", "chat", "--chat", "chatml"))
    base, (model, tokenizer) = checkpoint.load("gpt2")[1], checkpoint.load(sft := folder_of("gpt2", "sft", "chat"))
    added = {"<|im_start|>": base.vocab_size, "<|im_end|>": base.vocab_size + 1}
    assert tokenizer.special_ids == base.special_ids | added and model.config.vocab_size == base.vocab_size + 2
    assert (tokenizer.chat, tokenizer.eos) == (FORMATS["chatml"], "<|im_end|>")
    for stage in ("ppo", "dpo", "reward"):
        for form, missing in (("llama3", "<|begin_of_text|>"), ("ours", "<|user|>")):
            says = f"--chat {form}: the tokenizer has no {missing}; choose another format, or none"
            refused(f"{STAGES[stage]} --init {sft} --out x --chat {form} --threads 1", says)
