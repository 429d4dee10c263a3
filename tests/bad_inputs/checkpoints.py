"""Bad checkpoints: folders, weights, config.json, tokenizers, run.json, and reward models."""

import json

import torch

from bad_inputs.table import (
    DIGITS, FOLDER, GONE, INF, LOOP, NAN, PIPE, Bad, Spoil, bad, cut, gguf, header, in_gguf, nested, swap, tensors,
    with_keys,
)

ASK = "evaluate.py --prompt hi --max-new 2 --models sft=out/sft"
GPT2 = "evaluate.py --prompt hi --max-new 2 --models gpt2=gpt2"
LLAMA, GGUF, ADAPTER = (ASK.replace("out/sft", name) for name in ("llama", "llama.gguf", "adapter"))
EVAL, PPO = "evaluate.py --config eval.json --out new", "train_ppo.py --config ppo.json --out new"
RM = "train_ppo.py --config mine.json --reward model:out/rm --out new"
WTE, FIRST = "transformer.wte.weight", "transformer.h.0.ln_1.weight"


def one(name: str, spoil: Spoil, *says: str, claim: str, command: str = ASK) -> Bad:
    """One file that is spoilt, which is named."""
    return bad(claim, command, name.rpartition("/")[2], *says, files={name: spoil})


def weights(spoil: Spoil, *says: str, claim: str, command: str = ASK) -> Bad:
    """The weights of out/sft spoilt."""
    return one("out/sft/model.safetensors", spoil, *says, claim=claim, command=command)


def config(changes: dict, *says: str, claim: str) -> Bad:
    """The config.json of out/sft with other values."""
    return one("out/sft/config.json", with_keys(changes), *says, claim=claim)


def sizes(changes: dict, claim: str) -> Bad:
    """A config.json that does not fit the weights beside it: either file may be named."""
    return bad(claim, ASK, "out/sft", files={"out/sft/config.json": with_keys(changes)})


def tokens(changes: dict, *says: str, claim: str) -> Bad:
    """The tokenizer.json of out/sft with other values."""
    return one("out/sft/tokenizer.json", with_keys(changes), *says, claim=claim)


def run(changes: dict | str, *says: str, claim: str, command: str = EVAL, folder: str = "out/ppo") -> Bad:
    """The run.json of a folder with other values, or another text."""
    return one(f"{folder}/run.json", changes if isinstance(changes, str) else with_keys(changes), *says, claim=claim,
               command=command)  # fmt: skip


def without(entries: dict, name: str) -> dict:
    """All entries but one."""
    return {k: v for k, v in entries.items() if k != name}


def put(name: str, value: float) -> Spoil:
    """One number of a tensor replaced."""
    return tensors(lambda found: found[name].view(-1).__setitem__(3, value))


def as_type(dtype: torch.dtype) -> Spoil:
    """All weights in another type."""
    return tensors(lambda found: {name: x.to(dtype) for name, x in found.items()})


def claim_of(change) -> Spoil:
    """The claim of the first tensor in the header changed in place."""
    return header(lambda claims: change(claims[FIRST]))


FOLDERS = [
    bad("a checkpoint that is not there", "train_ppo.py --init nowhere", "nowhere"),
    bad("a checkpoint that is not there, for SFT over a finished run", "train_sft.py --init nowhere --examples 20", "nowhere"),
    bad("a checkpoint that is not there, of DPO", "train_dpo --data prefs.jsonl --init nowhere", "nowhere"),
    bad("a checkpoint that is not there, of a reward model", "train_reward --data prefs.jsonl --init nowhere",
        "nowhere"),
    bad("a checkpoint that is not there, to evaluate", "evaluate.py --models a=nowhere", "nowhere"),
    bad("a teacher that is not there", "distil --teacher nowhere --init out/sft", "nowhere"),
    bad("a student that is not there", "distil --init nowhere --out new", "nowhere"),
    bad("a student of another tokenizer", "distil --init gpt2 --task arithmetic --out new", "gpt2", "tokenizer", "out/sft"),
    bad("one checkpoint of two that is not there", "evaluate.py --models a=out/sft b=nowhere --reference a", "nowhere"),
    bad("a checkpoint that is not there, of the doctor", "doctor nowhere", "nowhere"),
    bad("a checkpoint that is not there, of preferences", "make_preferences --init nowhere", "nowhere"),
    bad("a checkpoint that is not there, to compare from", "compare_algorithms --init nowhere --out new", "nowhere"),
    bad("a checkpoint that is not there, to over-optimise", "overoptimise --init nowhere --out new", "nowhere"),
    bad("a checkpoint whose name is empty", "train_ppo.py --init ''"),
    bad("a checkpoint that is a file", "train_ppo.py --init corpus.txt", "corpus.txt"),
    bad("a checkpoint that is an empty folder", "train_ppo.py --init empty", "empty", files={"empty": FOLDER}),
    bad("a checkpoint that is the folder above it", "train_ppo.py --init out", "out"),
    bad("a checkpoint behind a link to itself", "train_ppo.py --init link", "link", files={"link": LOOP}),
    bad("a model of a hub, which is no folder here", "train_ppo.py --init openai-community/gpt2", "gpt2"),
    bad("a model that knows no roles, in RL", "train_ppo.py --config mine.json --reward mine.py:length --init gpt2 "
        "--out new", "gpt2", "<|user|>"),
    bad("a model that knows no roles, in DPO", "train_dpo --data prefs.jsonl --init gpt2 --out new", "gpt2",
        "<|user|>"),
    bad("a model that knows no roles, of the doctor", "doctor gpt2", "gpt2", "<|user|>"),
    bad("a model that knows no roles, of a conversation", "chat out/ppo gpt2", "gpt2", "<|user|>"),
    bad("a model of no generated task", "train_ppo.py --config ppo.json --init out/rm --out new", "out/rm"),
    bad("models of other tokenizers", "evaluate.py --models sft=out/sft gpt2=gpt2 --data prompts.jsonl --out new",
        "gpt2", "tokenizer"),
    bad("models trained on no task", "evaluate.py --models gpt2=gpt2 --out new", "--task", "--data"),
    bad("a reward model in the place of a policy", "evaluate.py --prompt hi --models a=out/rm", "out/rm"),
]  # fmt: skip
WEIGHTS = [
    weights(GONE, claim="weights that are missing"),
    weights(FOLDER, claim="weights that are a folder"),
    weights(PIPE, claim="weights that are a pipe"),
    weights(b"", claim="weights of no byte"),
    weights(cut(7), claim="weights of seven bytes"),
    weights(cut(8), claim="weights of a length alone"),
    weights(cut(100), claim="weights cut in the header"),
    weights(cut(-1), claim="weights that lack a byte"),
    weights(cut(-4000), claim="weights that lack a quarter"),
    weights(lambda old: old + b"\0", claim="weights with a byte too many"),
    weights(lambda old: b"\xff" * 8 + old[8:], claim="a header that claims 2**64 bytes"),
    weights(lambda old: bytes(8) + old[8:], claim="a header of no byte"),
    weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n",
            claim="a pointer of Git LFS in the place of weights"),
    weights(b"<!DOCTYPE html><html>" + bytes(100), claim="a web page in the place of weights"),
    weights(header(lambda claims: "not JSON"), claim="a header that is not JSON"),
    weights(header(lambda claims: "[]"), claim="a header that is a list"),
    weights(header(lambda claims: nested(100_000)), claim="a header nested 100,000 deep"),
    weights(header(lambda claims: json.dumps(claims)[:-1] + f', "{FIRST}": {json.dumps(claims[FIRST])}}}'),
            claim="a header that names a tensor twice"),
    weights(header(lambda claims: without(claims, FIRST)), claim="a header that leaves a tensor out"),
    weights(claim_of(lambda x: x.update(dtype="F8")), FIRST, claim="numbers of a type that there is not"),
    weights(claim_of(lambda x: x.update(dtype=["F32"])), claim="a type that is a list"),
    weights(claim_of(lambda x: x.update(shape=[10**9, 10**9])), FIRST, claim="a shape of 10**18 numbers"),
    weights(claim_of(lambda x: x.update(shape=[-8])), FIRST, claim="a shape below 0"),
    weights(claim_of(lambda x: x.update(shape=8)), claim="a shape that is a number"),
    weights(claim_of(lambda x: x.update(shape=[8.0])), FIRST, claim="a shape with a point"),
    weights(claim_of(lambda x: x.update(data_offsets=[0, 10**12])), FIRST, claim="bytes beyond the end of the file"),
    weights(claim_of(lambda x: x.update(data_offsets=[32, 0])), FIRST, claim="bytes that end before they begin"),
    weights(claim_of(lambda x: x.update(data_offsets=[0])), claim="bytes that have a beginning alone"),
    weights(claim_of(lambda x: x.pop("data_offsets")), claim="bytes that are not told"),
    weights(tensors(lambda x: without(x, FIRST)), "ln_1", claim="a tensor that is missing"),
    weights(tensors(lambda x: x.update(extra=torch.ones(3))), "extra", claim="a tensor too many"),
    weights(tensors(lambda x: x.update({FIRST: torch.ones(9)})), "ln_1", claim="a tensor of another shape"),
    weights(tensors(lambda x: x.update({FIRST: torch.ones(8, 1)})), "ln_1", claim="a tensor of another number of axes"),
    weights(tensors(lambda x: x.update({WTE: x[WTE].t()})), "wte", claim="a tensor that is transposed"),
    weights(tensors(lambda x: {"weight": torch.ones(3)}), claim="the weights of something else"),
    weights(tensors(lambda x: x.update({"lm_head.weight": x[WTE] + 1})), "lm_head", claim="a head of its own"),
    weights(put(WTE, NAN), WTE.removeprefix("transformer."), claim="a weight of NaN"),
    weights(put(WTE, INF), "wte", claim="a weight of infinity"),
    weights(put(FIRST, NAN), "ln_1", claim="a weight of NaN, for PPO", command=PPO),
    weights(put(FIRST, -INF), "ln_1", claim="a weight of infinity, for SFT",
            command="train_sft.py --config more.json --init out/sft --out new"),
    weights(put(FIRST, NAN), "ln_1", claim="a weight of NaN, for DPO",
        command="train_dpo --data prefs.jsonl --out new"),
    weights(as_type(torch.int64), claim="weights that are whole numbers"),
    weights(as_type(torch.bool), claim="weights that are true or false"),
    weights(as_type(torch.uint8), claim="weights that are bytes"),
    bad("weights in shards", ASK, "out/sft", files={
        "out/sft/model.safetensors": GONE, "out/sft/model-00001-of-00002.safetensors": b"",
        "out/sft/model.safetensors.index.json": '{"weight_map": {}}'}),
    bad("weights in a pickle", ASK, "out/sft", files={
        "out/sft/model.safetensors": GONE, "out/sft/pytorch_model.bin": b"PK\x03\x04"}),
]  # fmt: skip
CONFIG = [
    one("out/sft/config.json", GONE, claim="a config that is missing"),
    one("out/sft/config.json", b"", claim="a config of no byte"),
    one("out/sft/config.json", FOLDER, claim="a config that is a folder"),
    one("out/sft/config.json", cut(50), claim="a config that ends too soon"),
    one("out/sft/config.json", "[]", claim="a config that is a list"),
    one("out/sft/config.json", nested(100_000), claim="a config nested 100,000 deep"),
    one("out/sft/config.json", b'{"model_type": "gpt2\xff"}', claim="a config that is not UTF-8"),
    one("out/sft/config.json", "{}", claim="a config without a key"),
    config({"n_layer": GONE}, "n_layer", claim="a config without its number of layers"),
    sizes({"n_layer": 10**9}, claim="a model of 10**9 layers"),
    sizes({"n_layer": 2}, claim="a model of more layers than weights"),
    config({"n_layer": 0}, claim="a model of no layer"),
    config({"n_layer": -1}, claim="a model of layers below 0"),
    config({"n_layer": "one"}, claim="layers that are a word"),
    config({"n_layer": [1]}, claim="layers that are a list"),
    config({"n_layer": None}, claim="layers that are null"),
    sizes({"n_embd": 10**9}, claim="a width of 10**9"),
    sizes({"n_embd": 10**30}, claim="a width of 10**30"),
    sizes({"n_embd": 9}, claim="a width that the heads of a file cannot share"),
    sizes({"n_positions": 10**12}, claim="a context of 10**12"),
    sizes({"n_positions": 10**30}, claim="a context of 10**30"),
    sizes({"n_positions": 95}, claim="a context of another model"),
    sizes({"vocab_size": 10**12}, claim="a vocabulary of 10**12"),
    sizes({"vocab_size": 10}, claim="a vocabulary smaller than the tokenizer's"),
    config({"vocab_size": NAN}, claim="a vocabulary of NaN"),
    config({"n_head": 3}, claim="heads that cannot share the width"),
    config({"n_head": 0}, claim="no head in a file"),
    config({"n_head": 1e400}, claim="heads of infinity"),
    one("out/sft/config.json", swap('"n_head": 2', f'"n_head": {DIGITS}'), claim="heads of 400 digits"),
    one("out/sft/config.json", swap('"n_head": 2', f'"n_head": {"9" * 5000}'), claim="heads of 5000 digits"),
    config({"resid_pdrop": 1.5}, "1.5", claim="a dropout of 1.5"),
    config({"resid_pdrop": "none"}, claim="a dropout that is a word"),
    config({"model_type": "llama"}, "llama", claim="an architecture that is not GPT-2"),
    config({"model_type": ["gpt2"]}, "model_type", claim="an architecture that is a list"),
    config({"activation_function": "relu"}, "activation_function", claim="an activation that is not GPT-2's"),
    config({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon", claim="an epsilon that is not GPT-2's"),
    config({"n_inner": 8}, "n_inner", claim="an inner width that is not GPT-2's"),
    config({"scale_attn_by_inverse_layer_idx": True}, "scale_attn", claim="an attention that is scaled otherwise"),
    config({"quantization_config": {"bits": 4}}, "quantization_config", claim="weights that are quantised"),
]
TOKENIZERS = [
    bad("a tokenizer that is missing", ASK, "out/sft", files={"out/sft/tokenizer.json": GONE}),
    one("out/sft/tokenizer.json", b"", claim="a tokenizer of no byte"),
    one("out/sft/tokenizer.json", FOLDER, claim="a tokenizer that is a folder"),
    one("out/sft/tokenizer.json", cut(1000), claim="a tokenizer that ends too soon"),
    one("out/sft/tokenizer.json", "[]", claim="a tokenizer that is a list"),
    one("out/sft/tokenizer.json", "{}", claim="a tokenizer without a key"),
    one("out/sft/tokenizer.json", nested(100_000), claim="a tokenizer nested 100,000 deep"),
    one("out/sft/tokenizer.json", b"\xff\xfe", claim="a tokenizer that is not UTF-8"),
    tokens({"version": "2.0"}, "version", claim="a tokenizer of another version"),
    tokens({"model": GONE}, claim="a tokenizer without a model"),
    tokens({"model": None}, claim="a tokenizer whose model is null"),
    tokens({"model.type": "WordPiece"}, "BPE", claim="a tokenizer of another kind"),
    tokens({"model.dropout": 0.1}, "dropout", claim="a tokenizer that drops merges at random"),
    tokens({"model.vocab": {}}, claim="a tokenizer of no token"),
    tokens({"model.vocab": []}, claim="a vocabulary that is a list"),
    tokens({"model.vocab.a": 5}, claim="a token with the id of another"),
    tokens({"model.vocab.a": "five"}, claim="a token whose id is a word"),
    tokens({"model.vocab.a": -1}, claim="a token with an id below 0"),
    tokens({"model.vocab.a": GONE}, claim="a byte without a token"),
    tokens({"model.vocab.zzzz": 10**12}, "zzzz", claim="a token with an id of 10**12"),
    tokens({"model.merges": "a b"}, claim="merges that are a text"),
    tokens({"model.merges": ["zz zz"]}, "zz", claim="a merge of tokens that there are not"),
    tokens({"model.merges": ["abc"]}, claim="a merge of one token"),
    tokens({"model.merges": [["a", "b", "c"]]}, claim="a merge of three tokens"),
    tokens({"model.merges": [1]}, claim="a merge that is a number"),
    tokens({"model.merges": None}, claim="merges that are null"),
    tokens({"added_tokens": []}, claim="a tokenizer without its special tokens"),
    tokens({"added_tokens": None}, claim="special tokens that are null"),
    tokens({"added_tokens.0.content": "<|end|>"}, claim="a tokenizer without an end of text"),
    tokens({"added_tokens.0.id": 3}, claim="a special token with the id of a byte"),
    tokens({"added_tokens.0.special": False, "added_tokens.0.content": "end"}, "special",
           claim="an added token that is ordinary text"),
    tokens({"added_tokens.0": "<|endoftext|>"}, claim="a special token that is a text"),
    tokens({"pre_tokenizer": None}, claim="a tokenizer that does not cut"),
    tokens({"pre_tokenizer.pretokenizers": []}, claim="a tokenizer that cuts in no step"),
    tokens({"pre_tokenizer.pretokenizers.0.pattern.Regex": ".*"}, "pre-tokenizer", claim="a pattern that is not known"),
    tokens({"normalizer": {"type": "NFKC"}}, "normalizer", claim="a tokenizer that normalises"),
    tokens({"post_processor": {"type": "Bert"}}, "post-processor", claim="a tokenizer that adds tokens"),
    bad("a vocabulary that is missing", GPT2, "vocab.json", files={"gpt2/vocab.json": GONE}),
    bad("merges that are missing", GPT2, "merges.txt", files={"gpt2/merges.txt": GONE}),
    one("gpt2/vocab.json", "[]", claim="a vocabulary that is no object", command=GPT2),
    one("gpt2/vocab.json", cut(1000), claim="a vocabulary that ends too soon", command=GPT2),
    one("gpt2/vocab.json", with_keys({"<|endoftext|>": GONE}), claim="a vocabulary without an end of text",
        command=GPT2),
    one("gpt2/vocab.json", with_keys({"ie": 3}), claim="a vocabulary of another order", command=GPT2),
    one("gpt2/vocab.json", with_keys({"ie": None}), claim="a vocabulary with a null", command=GPT2),
    bad("merges of no byte", GPT2, "gpt2", files={"gpt2/merges.txt": b""}),
    bad("a merge of unknown symbols", GPT2, "gpt2", "zz", files={"gpt2/merges.txt": "#version: 0.2\nzz e\n"}),
    bad("a merge of three symbols", GPT2, "gpt2", files={"gpt2/merges.txt": "#version: 0.2\ni e e\n"}),
    bad("merges that are not UTF-8", GPT2, "merges.txt", files={"gpt2/merges.txt": b"#version: 0.2\n\xff e\n"}),
]
RUNS = [
    run("", claim="a run.json of no byte"),
    run("[]", claim="a run.json that is a list"),
    run('{"stage": "ppo"', claim="a run.json that ends too soon"),
    run(nested(100_000), claim="a run.json nested 100,000 deep"),
    run({"tasks": 5}, "tasks", claim="tasks that are a number"),
    run({"tasks": ["sentiment"]}, "tasks", claim="tasks that are a list"),
    run({"tasks": {"sentiment": "much"}}, "tasks", claim="a weight that is a word", command=PPO, folder="out/sft"),
    run({"tasks": None}, "tasks", claim="tasks that are null", command=PPO, folder="out/sft"),
    run({"tasks": "sentiment"}, "tasks", claim="tasks that are a text", command=PPO, folder="out/sft"),
    run({"data": 5}, "data", claim="data that are a number"),
    run({"data": []}, "data", claim="data that are a list"),
    run({"data.examples": 10**13}, "examples", claim="10**13 examples"),
    run({"data.examples": "20"}, "examples", claim="examples that are a text"),
    run({"data.examples": -1}, "examples", claim="examples below 0"),
    run({"data.prompts": 5}, "prompts", claim="prompts that are a number"),
    run({"seed": "zero"}, "seed", claim="a seed that is a word"),
    run({"seed": [0]}, "seed", claim="a seed that is a list"),
    run({"training": []}, "training", claim="a training that is a list"),
    run({"training.beta": "high"}, "beta", claim="a beta that is a word, in a run"),
    run({"training.beta": 1e39}, "beta", claim="a beta of 1e39, in a run"),
    run({"training.beta": NAN}, "beta", claim="a beta of NaN, in a run"),
    run({"optimum": 3}, "optimum", claim="an optimum that is a number"),
    run({"optimum": {"sentiment": []}}, "optimum", claim="an optimum that is a list"),
    run({"cost": 3}, "cost", claim="a cost that is a number"),
    run({"cost": {"seconds": "long"}}, "cost", claim="a cost of other keys"),
    run({"training.gamma": "one"}, "gamma", claim="a discount that is a word, of the doctor", command="doctor out/ppo"),
    run({"training.algo": 7}, "algo", claim="an algorithm that is a number, of the doctor", command="doctor out/ppo"),
    run({"data.init": 7}, "init", claim="a checkpoint that is a number, of the doctor", command="doctor out/ppo"),
    run({"max_new": "64"}, "max_new", claim="a longest answer that is a text", command="doctor out/ppo"),
    run({"max_new": 10**30}, "max_new", claim="a longest answer of 10**30", command="doctor out/ppo"),
    run({"data.examples": 10**13}, "examples", claim="10**13 examples behind a text",
        command="evaluate.py --text corpus.txt --models base=out/base", folder="out/base"),
]  # fmt: skip
REWARD_MODELS = [
    bad("a reward model that is not there", "train_ppo.py --config mine.json --reward model:nowhere --out new",
        "nowhere"),
    bad("a reward model without a folder", "train_ppo.py --config mine.json --reward model: --out new", "--reward"),
    bad("a policy in the place of a reward model", "train_ppo.py --config mine.json --reward model:out/sft --out new",
        "out/sft", "reward model"),
    bad("a policy in the place of a reward model, to judge by", "judgements --reward model:out/sft", "out/sft"),
    bad("a GPT-2 in the place of a reward model", "evaluate.py --data prompts.jsonl --models sft=out/sft --out new "
        "--reward model:gpt2", "gpt2"),
    one("out/rm/model.safetensors", cut(-1), claim="a reward model that lacks a byte", command=RM),
    bad("a reward model without its head", RM, "out/rm",
        files={"out/rm/model.safetensors": tensors(lambda x: without(x, "score.weight"))}),
    bad("a reward model with a head of another width", RM, "out/rm", "score.weight",
        files={"out/rm/model.safetensors": tensors(lambda x: x.update({"score.weight": torch.ones(1, 9)}))}),
    bad("a reward model of two labels", RM, "out/rm", "score.weight",
        files={"out/rm/model.safetensors": tensors(lambda x: x.update({"score.weight": torch.ones(2, 8)}))}),
    bad("a reward model with a head of NaN", RM, "out/rm",
        files={"out/rm/model.safetensors": tensors(lambda x: x.update({"score.weight": torch.full((1, 8), NAN)}))}),
    bad("a reward model with a weight of NaN", RM, "out/rm", files={"out/rm/model.safetensors": put(WTE, NAN)}),
    bad("a reward model whose rewards float32 lacks", RM, "reward",
        files={"out/rm/model.safetensors": tensors(lambda x: x.update({"score.weight": torch.full((1, 8), 3e38),
                                                                       "transformer.ln_f.bias": torch.full((8,),
                                                                           3e38)}))}),
    bad("a reward model without a tokenizer", RM, "out/rm", files={"out/rm/tokenizer.json": GONE}),
    one("out/ppo/value_head.safetensors", cut(-1), claim="a value head that lacks a byte", command="doctor out/ppo"),
    one("out/ppo/value_head.safetensors", tensors(lambda x: x.update(weight=torch.ones(1, 9))),
        claim="a value head of another model", command="doctor out/ppo"),
]  # fmt: skip
INDEX, ADAPTERS = "llama/model.safetensors.index.json", "adapter/adapter_config.json"
TURNS = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64}  # fmt: skip


def llama(key: str, value: object, claim: str, says: str = "") -> Bad:
    """The config.json of a Llama with another value, which is named by its key or by another word."""
    named = says or key.rpartition(".")[2]
    return one("llama/config.json", with_keys({key: value}), named, claim=claim, command=LLAMA)


def said(key: str, value: object, claim: str, *says: str) -> Bad:
    """A GGUF file with another value of a key."""
    return one("llama.gguf", gguf({key: value}), *says, claim=claim, command=GGUF)


def claimed(name: str, *sizes: int, claim: str, kind: int = 0) -> Bad:
    """A GGUF file that claims something else of a tensor, which is named."""
    return one("llama.gguf", in_gguf(name, *sizes, kind=kind), name, claim=claim, command=GGUF)


LLAMAS = [
    llama("rope_parameters", {"rope_type": "yarn", "factor": 4.0}, "positions that turn in a way of their own"),
    llama("rope_parameters", TURNS | {"partial_rotary_factor": 0.5}, "heads of which a half turns"),
    llama("rope_parameters", TURNS | {"factor": 0.0}, "turns that are divided by 0", "turn"),
    llama("rope_parameters", without(TURNS, "factor"), "turns that are divided by nothing", "rope.factor"),
    llama("rope_parameters.rope_theta", NAN, "a base of NaN"),
    llama("rms_norm_eps", "1e-5", "an epsilon that is a text"),
    llama("rms_norm_eps", -1.0, "an epsilon below 0", "norm_eps"),
    llama("max_position_embeddings", 10**30, "a Llama's context of 10**30"),
    llama("num_hidden_layers", 1.5, "one layer and a half"),
    llama("head_dim", True, "a head of true numbers"),
    llama("hidden_act", "gelu", "an activation that is not a Llama's"),
    llama("attention_bias", True, "an attention with a bias"),
    one(INDEX, '{"weight_map": {"a": ".."}}', "'..'", claim="a shard that is the folder above", command=LLAMA),
    bad("a shard that is not there", LLAMA, "llama/nowhere", files={INDEX: '{"weight_map": {"a": "nowhere"}}'}),
    bad("a pickle that is a pipe", LLAMA, "pytorch_model.bin", files={INDEX: GONE, "llama/pytorch_model.bin": PIPE}),
    bad("a chat template that is a list of a number", LLAMA, "llama/tokenizer", files={
        "llama/tokenizer_config.json": with_keys({"chat_template": [5]})}),
]  # fmt: skip
GGUFS = [
    one("llama.gguf", b"", claim="a GGUF file of no byte", command=GGUF),
    one("llama.gguf", cut(3000), claim="a GGUF file cut in the header", command=GGUF),
    one("llama.gguf", cut(-1), claim="a GGUF file that lacks a byte", command=GGUF),
    one("llama.gguf", lambda old: old[:8] + b"\xff" * 6 + b"\0\0" + old[16:], claim="2**48 tensors", command=GGUF),
    one("llama.gguf", lambda old: old[:4] + b"\1" + old[5:], "version", claim="a GGUF file of version 1", command=GGUF),
    claimed("blk.0.ffn_down.weight", 256, 32, kind=12, claim="numbers in Q4_K"),
    claimed("blk.0.ffn_down.weight", 32, 0, claim="a tensor of no row"),
    claimed("blk.0.ffn_down.weight", 2**40, 2**40, claim="a tensor of 2**80 numbers"),
    claimed("output_norm.weight", 32, 2**30, claim="a tensor beyond the end of a GGUF file"),
    said("general.architecture", "mamba", "a GGUF file of another architecture", "mamba"),
    said("general.architecture", ["llama"], "an architecture in a GGUF file that is a list"),
    said("llama.attention.head_count", 0, "no head in a GGUF file", "num_attention_heads"),
    said("llama.attention.head_count", [2, 2], "heads for each layer in a GGUF file"),
    said("llama.attention.head_count", 32, "heads that cannot share the rows of a GGUF file"),
    said("llama.attention.layer_norm_rms_epsilon", NAN, "an epsilon of NaN in a GGUF file", "rms_norm_eps"),
    said("llama.rope.freq_base", "much", "a base that is a word in a GGUF file", "rope_theta"),
    said("llama.rope.scaling.factor", 4.0, "a context that is stretched in a GGUF file", "factor 4.0"),
    said("llama.rope.dimension_count", 8, "heads of which a half turns in a GGUF file", "dimension_count"),
    said("llama.block_count", 10**9, "a GGUF file of 10**9 layers"),
    said("tokenizer.ggml.pre", ["smollm"], "a cut that is a list"),
    said("tokenizer.ggml.pre", GONE, "a cut that is not told"),
    said("tokenizer.ggml.model", "x" * 10**6, "a tokenizer whose kind has 10**6 letters"),
    said("tokenizer.ggml.tokens", ["a"] * 260, "tokens that are all the same"),
    said("tokenizer.ggml.eos_token_id", 260, "an end that is beyond the vocabulary"),
    said("tokenizer.chat_template", 5, "a chat template in a GGUF file that is a number"),
]  # fmt: skip
LORA = [
    one(ADAPTERS, with_keys({"base_model_name_or_path": "adapter"}), claim="adapters that stand on themselves",
        command=ADAPTER),
    bad("two adapters that stand on each other", ADAPTER, "adapter_config.json", files={
        "other/adapter_config.json": '{"base_model_name_or_path": "adapter"}',
        ADAPTERS: with_keys({"base_model_name_or_path": "other"})}),
    one(ADAPTERS, with_keys({"base_model_name_or_path": "nowhere"}), "nowhere", claim="adapters on nothing",
        command=ADAPTER),
    bad("adapters on a model of other weights", ADAPTER, "out/sft", files={
        "out/sft/model.safetensors": tensors(lambda x: {k: x[k] * 1.01 for k in x})}),
    one(ADAPTERS, with_keys({"r": 0}), "r", claim="adapters of rank 0", command=ADAPTER),
    one(ADAPTERS, with_keys({"r": 10**9}), "rank", claim="adapters of rank 10**9", command=ADAPTER),
    one(ADAPTERS, with_keys({"lora_alpha": NAN}), "lora_alpha", claim="an alpha of NaN", command=ADAPTER),
    one(ADAPTERS, with_keys({"use_dora": True}), "use_dora", claim="adapters of another kind", command=ADAPTER),
    one("adapter/adapter_model.safetensors", GONE, claim="adapters without numbers", command=ADAPTER),
    bad("a copy that is there already", "convert llama.gguf out", "out", "exists"),
    bad("a copy of a model to nowhere", "convert llama.gguf", "out"),
    bad("a kind of numbers for a folder", "convert llama.gguf new --kind Q8_0", "--kind"),
    bad("a share of more than all", "convert llama.gguf new --prune 1.5", "--prune", "at most 1"),
    bad("a copy of a reward model", "convert out/rm new", "score.weight"),
]
CHECKPOINTS = [*LLAMAS, *GGUFS, *LORA, *FOLDERS, *WEIGHTS, *CONFIG, *TOKENIZERS, *RUNS, *REWARD_MODELS]
