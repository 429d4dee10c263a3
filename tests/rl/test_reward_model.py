"""A reward model: what it reads, that its scale can be folded into it, and that its folder is Hugging Face's."""

import json
from math import exp, nan

import pytest
import torch
from llamas import CASES as LLAMAS
from llamas import by_formula

from minirlhf.harness.files import UserError
from minirlhf.lm import checkpoint, tokenizer_files
from minirlhf.lm.chat import render, render_prompt
from minirlhf.lm.safetensors import Safetensors
from minirlhf.lm.tokenizer import PAD, SPECIALS, Tokenizer
from minirlhf.rl.reward_model import (
    LearnedReward, RewardModel, load_reward_model, normalise, predict_rewards, save_reward_model, text_ids,
)
from minirlhf.rl.reward_files import load_reward
from minirlhf.rl.rewards import ask

TEXTS = [[5, 9, 2], [7], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [8, 8], [2, 7, 1, 8, 2, 8, 1, 8, 2]]
CONVERSATION = {"messages": [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "r"},
    {"role": "user", "content": "last"},
]}  # fmt: skip


@pytest.fixture
def judge(make_gpt):
    """A reward model with a head that says something, over bytes, four special tokens and PAD."""
    model = RewardModel(make_gpt(vocab_size=261))
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture
def padded_tokenizer():
    return Tokenizer(specials=(*SPECIALS, PAD))


@pytest.fixture
def folder(judge, padded_tokenizer, tmp_path):
    save_reward_model(tmp_path / "rm", judge, padded_tokenizer, {"stage": "reward"})
    return tmp_path / "rm"


@torch.no_grad()
def slow(model, ids):
    """The reward of one text alone: the head on the hidden state of its last id."""
    return float(model.trunk(torch.tensor([ids]))[0, -1] @ model.score.weight[0])


def test_the_reward_stands_on_the_last_real_token_whatever_the_padding(judge):
    with torch.no_grad():
        assert judge(TEXTS).tolist() == pytest.approx([slow(judge, ids) for ids in TEXTS], abs=1e-5)
        full = [list(range(32)), [1]]
        assert judge(full).tolist() == pytest.approx([slow(judge, ids) for ids in full], abs=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_rewards_come_in_the_order_of_the_texts(judge, rows):
    assert predict_rewards(judge, TEXTS, rows).tolist() == pytest.approx([slow(judge, x) for x in TEXTS], abs=1e-5)


def test_a_fresh_head_says_0_and_has_no_bias_which_a_file_has_no_place_for(make_gpt):
    model = RewardModel(make_gpt())
    assert predict_rewards(model, TEXTS).tolist() == [0.0] * len(TEXTS)
    assert model.score.bias is None


def test_the_head_is_computed_in_float32(judge):
    """In bfloat16 close responses would tie: of 300 rewards far fewer than 300 would differ."""
    texts = [[a, b] for a in range(20) for b in range(15)]
    with torch.no_grad():
        rewards = judge(texts, torch.bfloat16)
    assert rewards.dtype == torch.float32 and len(set(rewards.tolist())) > 290


def test_a_text_is_prompt_response_and_eos_as_in_training(tokenizer):
    record = {"prompt": "ab", "response": "cd"}
    assert list(text_ids(record, "cd", tokenizer, 32)) == render(record, tokenizer).ids
    assert text_ids(record, "", tokenizer, 32) == (*render_prompt(record, tokenizer), tokenizer.eos_id)


def test_a_text_that_is_too_long_loses_its_beginning(tokenizer):
    whole = text_ids({"prompt": "abc"}, "de", tokenizer, 32)
    assert text_ids({"prompt": "abc"}, "de", tokenizer, 4) == whole[-4:]
    assert whole[-1] == tokenizer.eos_id


def test_normalised_rewards_have_mean_0_and_std_1_in_the_same_order(judge):
    texts = [[i, (7 * i) % 50, 3] for i in range(40)]
    others = TEXTS
    before, outside = predict_rewards(judge, texts), predict_rewards(judge, others)
    scale = normalise(judge, before)
    after = predict_rewards(judge, texts)
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert before.argsort().tolist() == after.argsort().tolist()
    assert scale == {"mean": pytest.approx(float(before.mean())), "std": pytest.approx(float(before.std(correction=0)))}
    expected = (outside - scale["mean"]) / scale["std"]
    torch.testing.assert_close(predict_rewards(judge, others), expected, atol=1e-5, rtol=1e-5)


def test_rewards_that_are_all_one_cannot_be_normalised(make_gpt):
    model = RewardModel(make_gpt())
    with pytest.raises(UserError, match="all 5 reference responses have one reward"):
        normalise(model, predict_rewards(model, TEXTS))


# As a reward function


def test_it_is_asked_for_one_or_many_with_the_same_result(judge, padded_tokenizer):
    reward = LearnedReward(judge, padded_tokenizer)
    cases = [("a", "b", {"prompt": "a"}), ("longer", "response", {"prompt": "longer"}), ("c", "", {"prompt": "c"})]
    assert ask(reward, cases) == pytest.approx([ask(reward, [case])[0] for case in cases], abs=1e-5)
    ids = render({"prompt": "a", "response": "b"}, padded_tokenizer).ids
    (said,) = reward(["a"], ["b"], [{}])
    assert type(said) is float and [said] == reward(["a"], ["b"], [{"prompt": "a"}])
    assert said == pytest.approx(slow(judge, ids), abs=1e-5)


def test_it_reads_the_conversation_and_not_the_answer_that_the_record_holds(judge, padded_tokenizer):
    reward = LearnedReward(judge, padded_tokenizer)
    ids = render({"messages": [*CONVERSATION["messages"], {"role": "assistant", "content": "y"}]}, padded_tokenizer).ids
    assert reward(["last"], ["y"], [CONVERSATION]) == pytest.approx([slow(judge, ids)], abs=1e-5)
    answered = {"prompt": "p", "response": "model answer"}
    assert reward(["p"], ["y"], [answered]) == reward(["p"], ["y"], [{"prompt": "p"}])


def test_it_has_no_dropout(make_gpt, padded_tokenizer):
    model = RewardModel(make_gpt(vocab_size=261, dropout=0.5)).train()
    torch.nn.init.ones_(model.score.weight)
    reward = LearnedReward(model, padded_tokenizer)
    assert reward(["a"], ["b"], [{}]) == reward(["a"], ["b"], [{}])


# The folder


def test_a_folder_is_read_back(folder, judge, padded_tokenizer):
    loaded = load_reward_model(folder)
    assert predict_rewards(loaded.model, TEXTS).tolist() == predict_rewards(judge, TEXTS).tolist()
    case = ["p"], ["r"], [{}]
    assert load_reward(f"model:{folder}")[0](*case) == LearnedReward(judge, padded_tokenizer)(*case)


def test_the_folder_is_of_a_classifier_with_one_label_padded_with_a_token_of_its_own(folder):
    config, tokenizer = json.loads((folder / "config.json").read_text()), tokenizer_files.load(folder)
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and config["num_labels"] == 1
    assert config["pad_token_id"] == tokenizer.special_ids[PAD] != config["eos_token_id"] == tokenizer.eos_id
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] == PAD
    weights = Safetensors(folder / "model.safetensors")
    assert weights["score.weight"].shape == (1, 16)


def test_hugging_face_gives_the_same_normalised_rewards(judge, padded_tokenizer, tmp_path):
    """From ids padded with PAD on the right, and from text through AutoTokenizer."""
    transformers = pytest.importorskip("transformers")
    records = [("a", "b"), ("a longer prompt", "and more"), ("c", "")]
    texts = [text_ids({"prompt": p}, y, padded_tokenizer, 32) for p, y in records]
    normalise(judge, predict_rewards(judge, texts))
    ours = predict_rewards(judge, texts).tolist()
    save_reward_model(tmp_path, judge, padded_tokenizer, {})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "GPT2ForSequenceClassification" and theirs.config.num_labels == 1
    written = [f"<|user|>{p}<|assistant|>{y}<|endoftext|>" for p, y in records]
    batch = theirs_tokenizer(written, padding=True, return_tensors="pt", padding_side="right")
    assert [row[: len(ids)].tolist() for row, ids in zip(batch["input_ids"], texts)] == list(map(list, texts))
    with torch.no_grad():
        logits = theirs(**batch).logits
    assert logits.shape == (3, 1) and logits[:, 0].tolist() == pytest.approx(ours, abs=1e-4)


def test_what_is_no_reward_model_is_refused(folder, make_gpt, tokenizer, tmp_path):
    checkpoint.save(tmp_path / "lm", make_gpt(vocab_size=260), tokenizer, {})
    with pytest.raises(UserError, match="lm: not a reward model of ours"):
        load_reward_model(tmp_path / "lm")
    with pytest.raises(UserError, match="score.weight"):
        checkpoint.load(folder)
    with pytest.raises(UserError, match="nowhere: no such checkpoint folder"):
        load_reward("model:nowhere")


# A classifier


CLASSES = ["bad", "fair", "good"]


@pytest.fixture
def classifier(make_gpt):
    model = RewardModel(make_gpt(vocab_size=261), CLASSES)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_classifier_reads_the_last_real_token_and_gives_a_logit_for_each_class(classifier, rows):
    with torch.no_grad():
        each = [classifier.score(classifier.trunk(torch.tensor([ids]))[0, -1]) for ids in TEXTS]
    torch.testing.assert_close(predict_rewards(classifier, TEXTS, rows), torch.stack(each), atol=1e-5, rtol=1e-5)


def test_its_reward_is_the_log_probability_of_the_class(classifier, padded_tokenizer):
    case = ["p"], ["y"], [{}]
    rewards = [LearnedReward(classifier, padded_tokenizer, label)(*case)[0] for label in CLASSES]
    logits = predict_rewards(classifier, [text_ids({"prompt": "p"}, "y", padded_tokenizer, 32)])[0]
    assert rewards == pytest.approx((logits - logits.exp().sum().log()).tolist(), abs=1e-5)
    assert sum(map(exp, rewards)) == pytest.approx(1) and max(rewards) < 0


def test_a_classifier_is_read_back_with_its_classes(classifier, padded_tokenizer, tmp_path):
    save_reward_model(tmp_path, classifier, padded_tokenizer, {})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_labels"] == 3 and config["id2label"] == {"0": "bad", "1": "fair", "2": "good"}
    assert config["label2id"] == {"bad": 0, "fair": 1, "good": 2}
    loaded = load_reward_model(tmp_path)
    assert loaded.model.classes == CLASSES
    assert predict_rewards(loaded.model, TEXTS).tolist() == predict_rewards(classifier, TEXTS).tolist()
    reward, weight = load_reward(f"model:{tmp_path}:good:0.5")
    expected = LearnedReward(classifier, padded_tokenizer, "good")(["p"], ["y"], [{}])
    assert reward(["p"], ["y"], [{}]) == expected and weight == 0.5


def test_hugging_face_gives_the_same_logits_of_classes(classifier, padded_tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    texts = [list(text_ids({"prompt": p}, y, padded_tokenizer, 32)) for p, y in (("a", "b"), ("longer", "and more"))]
    save_reward_model(tmp_path, classifier, padded_tokenizer, {})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "GPT2ForSequenceClassification" and theirs.config.num_labels == 3
    assert theirs.config.id2label == dict(enumerate(CLASSES)) and theirs.config.label2id["fair"] == 1
    width, pad = max(map(len, texts)), padded_tokenizer.special_ids[PAD]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids + [pad] * (width - len(ids)) for ids in texts])).logits
    torch.testing.assert_close(logits, predict_rewards(classifier, texts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("names", [
    {"0": "a", "1": "a"}, {"0": "a", "2": "b"}, {"0": 1, "1": 2}, ["a", "b"], 3,
    {"0": "a", "1": "b", "2": "c", "3": "d"}, {}, {"0": ["a"], "1": "b", "2": "c"},
], ids=repr)  # fmt: skip
def test_classes_that_are_not_those_of_the_head_are_refused(names, classifier, padded_tokenizer, tmp_path):
    save_reward_model(tmp_path, classifier, padded_tokenizer, {})
    config = json.loads((tmp_path / "config.json").read_text()) | {"id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"id2label names no classes|score.weight is \(3, 16\), not"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize("damage, message", [
    (lambda w: torch.cat([w, w]), r"score.weight is \(2, 16\), not \(1, 16\)"),
    (lambda w: w * nan, "a weight is not finite"),
])  # fmt: skip
def test_a_damaged_head_is_refused(judge, padded_tokenizer, tmp_path, damage, message):
    head = {"score.weight": damage(judge.score.weight.detach())}
    checkpoint.save(tmp_path, judge.trunk, padded_tokenizer, {}, head)
    with pytest.raises(UserError, match=message):
        load_reward_model(tmp_path)


# Of the Llama family


@pytest.fixture
def llama_judge(padded_tokenizer) -> RewardModel:
    trunk = by_formula(LLAMAS["llama"])
    checkpoint.resize_vocabulary(trunk, padded_tokenizer.vocab_size)
    judge = RewardModel(trunk).eval()
    with torch.no_grad():
        judge.score.weight.copy_(torch.linspace(-1, 1, trunk.config.width)[None])
    return judge


def test_a_llama_whose_norm_has_no_bias_keeps_the_mean_beside_its_weights(llama_judge, padded_tokenizer, tmp_path):
    """Normalised twice, as when a saved one is trained on, and still right after it was saved."""
    texts = [[i, (7 * i) % 50, 3] for i in range(40)]
    before = predict_rewards(llama_judge, texts)
    for _ in range(2):
        normalise(llama_judge, predict_rewards(llama_judge, texts))
    save_reward_model(tmp_path, llama_judge, padded_tokenizer, {})
    after = predict_rewards(load_reward_model(tmp_path).model, texts)
    torch.testing.assert_close(after, (before - before.mean()) / before.std(correction=0), atol=1e-5, rtol=1e-5)


def test_hugging_face_gives_the_same_rewards_of_a_llama_but_for_the_mean(llama_judge, padded_tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    texts = [list(text_ids({"prompt": p}, y, padded_tokenizer, 32)) for p, y in (("a", "b"), ("longer", "and more"))]
    normalise(llama_judge, predict_rewards(llama_judge, texts))
    save_reward_model(tmp_path, llama_judge, padded_tokenizer, {})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "LlamaForSequenceClassification"
    width, pad = max(map(len, texts)), padded_tokenizer.special_ids[PAD]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids + [pad] * (width - len(ids)) for ids in texts])).logits[:, 0]
    torch.testing.assert_close(logits - llama_judge.shift, predict_rewards(llama_judge, texts), atol=1e-4, rtol=1e-4)
