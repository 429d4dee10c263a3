"""A reward model: the GPT, and a head that reads one number at the last token of prompt and response.

    r(prompt, response) = w · LN(x)_last                      last: the EOS that ends the response
    r(prompt, response) = log softmax(W · LN(x)_last)_c       of a classifier: how probable a class is

In a folder it is Hugging Face's GPT2- or LlamaForSequenceClassification, with one label or one for each class. It
reads the last token that is not padding. With the EOS as padding, as GPT-2 has it, that would be the token before: so
padding is a token of its own. It is a reward like any other. Trained by preferences/train_reward.py.
Source: Ziegler et al. 2019, section 2. Proved by tests/rl/test_reward_model.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from minirlhf.harness.device import autocast
from minirlhf.harness.files import UserError, read_json
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import collate, gather_true, micro_batches
from minirlhf.lm.chat import Example, render_prompt
from minirlhf.lm.families import config_to_json
from minirlhf.lm.model import GPT
from minirlhf.lm.tokenizer import PAD, Tokenizer


class RewardModel(nn.Module):
    """A GPT and a head, at first 0, without a bias: no comparison could teach it, and Hugging Face's has none."""

    def __init__(self, trunk: GPT, classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.trunk, self.classes = trunk, list(classes)
        self.score, self.shift = nn.Linear(trunk.config.width, len(classes) or 1, bias=False), 0.0
        nn.init.zeros_(self.score.weight)

    def forward(self, texts: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> Tensor:
        """The reward of each text, given as ids: (B,) float32; of a classifier the logits of K classes, (B, K).

        dtype: of the trunk's matrix products.
        """
        # `collate` shifts by one: a target behind the last id, whatever it is, puts the mask on that id.
        examples = [Example([*ids, 0], [False] * len(ids) + [True]) for ids in texts]
        device = self.score.weight.device
        batch = collate(examples, device, self.trunk.config.context)
        with autocast(device, dtype):
            hidden, n = gather_true(self.trunk(batch.inputs), batch.mask)  # (N', C) and B
        said = self.score(hidden[:n].float())  # (B, K or 1)
        return said if self.classes else said.squeeze(1) - self.shift  # (B,)


@torch.no_grad()
def predict_rewards(model: RewardModel, texts: Sequence[Sequence[int]], rows: int = 64) -> Tensor:
    """What a model in eval mode says of each text, (N,) or (N, K) float32 on the CPU; `rows` texts a pass."""
    parts = micro_batches([len(ids) for ids in texts], rows, model.trunk)
    said = [model([texts[i] for i in part]).cpu() for part in parts]  # (b,) or (b, K) each
    return torch.cat(said)[torch.tensor([i for part in parts for i in part]).argsort()]


def text_ids(record: dict, response: str, tokenizer: Tokenizer, context: int) -> tuple[int, ...]:
    """Prompt, response and EOS. Where they are longer than the context, the last of them: the EOS is read."""
    return (*render_prompt(record, tokenizer), *tokenizer.encode(response), tokenizer.eos_id)[-context:]


@torch.no_grad()
def normalise(model: RewardModel, rewards: Tensor) -> dict[str, float]:
    """r ← (r − mean) / std in place: what had `rewards`, (N,), then has mean 0 and standard deviation 1.

        b ← b − mean · w / |w|²,    then w ← w / std        b: the bias of the last LayerNorm

    The head has no bias to hold the mean, but w·b is one: r = w · (LN(x) + b). So what we save is normalised
    for Hugging Face's code too. A Llama's norm has no bias: there `shift` takes the mean, which Hugging Face's code
    does not subtract.  Returns mean and std.  Raises UserError where all rewards are the same.
    """
    mean, std = float(rewards.double().mean()), float(rewards.double().std(correction=0))
    if not std > 0:
        raise UserError(f"all {len(rewards)} reference responses have one reward: nothing learnt; raise --lr")
    w = model.score.weight[0].double()  # (C,)
    if hasattr(model.trunk.ln_f, "bias"):
        model.trunk.ln_f.bias -= (mean / (w @ w) * w).float()  # (C,)
    else:
        model.shift = (model.shift + mean) / std
    model.score.weight /= std  # (1, C)
    return {"mean": mean, "std": std}


class LearnedReward:
    """A reward model as a reward of lists.  label: of a classifier, the class whose log-probability is the reward."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer, label: str = "") -> None:
        self.model, self.tokenizer, self.label = model.eval(), tokenizer, label

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], records: Sequence[dict]) -> list[float]:
        """The reward of each; a conversation in the record is the prompt."""
        context, classes = self.model.trunk.config.context, self.model.classes
        cases = zip(prompts, responses, records)
        texts = [text_ids({"prompt": p} | record, y, self.tokenizer, context) for p, y, record in cases]
        said = predict_rewards(self.model, texts)  # (N,) or (N, K)
        return (said.log_softmax(-1)[:, classes.index(self.label)] if classes else said).tolist()


def save_reward_model(folder: str | Path, model: RewardModel, tokenizer: Tokenizer, run: dict) -> None:
    """Write a ...ForSequenceClassification of one label, or of the classes. The tokenizer has PAD."""
    labels = model.classes or ["reward"]
    language = config_to_json(model.trunk.config, 0)["architectures"][0]  # GPT2LMHeadModel, LlamaForCausalLM
    kind = re.sub("LMHeadModel|ForCausalLM", "ForSequenceClassification", language)
    config = {"architectures": [kind], "num_labels": len(labels), "reward_shift": model.shift}
    config |= {"id2label": {str(k): x for k, x in enumerate(labels)}, "label2id": {x: k for k, x in enumerate(labels)}}
    config["pad_token_id"] = tokenizer.special_ids[PAD]
    checkpoint.save(folder, model.trunk, tokenizer, run, {"score.weight": model.score.weight}, config)


def load_reward_model(folder: str | Path, device: torch.device | str = "cpu") -> LearnedReward:
    """The reward function in a folder that `save_reward_model` wrote. Raises UserError."""
    trunk, tokenizer, weight = checkpoint.load_with(folder, "score.weight")
    if weight is None or PAD not in tokenizer.special_ids:
        raise UserError(f"{folder}: not a reward model of ours; python -m minirlhf.tools.train_reward makes one")
    config = read_json(Path(folder) / "config.json", {"reward_shift?": 0.0})
    labels, shift = config.get("id2label", {"0": "reward"}), config.get("reward_shift", 0.0)
    labels = [labels.get(str(k)) for k in range(len(labels))] if isinstance(labels, dict) else []
    if not labels or not all(isinstance(x, str) for x in labels) or len({*labels}) < len(labels):
        raise UserError(f"{folder}/config.json: id2label names no classes")
    model = RewardModel(trunk, labels if len(labels) > 1 else ())
    if weight.shape != (wanted := model.score.weight.shape):
        raise UserError(f"{folder}: score.weight is {tuple(weight.shape)}, not {tuple(wanted)}")
    model.score.load_state_dict({"weight": weight})
    model.shift = shift
    return LearnedReward(model.to(device), tokenizer)
