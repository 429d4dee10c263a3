"""A reward model: the GPT, and a head that reads one number at the last token of prompt and response.

    r(prompt, response) = w · LN(x)_last          last: the EOS that ends the response

In a folder it is Hugging Face's GPT2ForSequenceClassification with one label, which reads the last token that
is not padding. With the EOS as padding, as GPT-2 has it, that would be the token before: so padding is a
token of its own. As a function of (prompt, response, record) it is a reward like any other. Trained by
preferences/train_reward.py. Source: Ziegler et al. 2019, section 2.1. Proved by tests/rl/test_reward_model.py.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from minirlhf.harness.files import UserError
from minirlhf.harness.machine import autocast
from minirlhf.lm import checkpoint
from minirlhf.lm.batches import collate, gather_true, micro_batches
from minirlhf.lm.chat import Example, render_prompt
from minirlhf.lm.model import GPT, ScalarHead
from minirlhf.lm.tokenizer import PAD, Tokenizer


class RewardModel(nn.Module):
    """A GPT and a head whose bias stays 0: no comparison could teach it, and Hugging Face's has none."""

    def __init__(self, trunk: GPT) -> None:
        super().__init__()
        self.trunk = trunk
        self.score = ScalarHead(trunk.config.width)
        self.score.bias.requires_grad_(False)

    def forward(self, texts: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32) -> Tensor:
        """The reward of each text, given as ids: (B,) float32.  dtype: of the trunk's matrix products."""
        # `collate` shifts by one: a target behind the last id, whatever it is, puts the mask on that id.
        examples = [Example([*ids, 0], [False] * len(ids) + [True]) for ids in texts]
        device = self.score.weight.device
        batch = collate(examples, device, self.trunk.config.context)
        with autocast(device, dtype):
            hidden, n = gather_true(self.trunk(batch.inputs), batch.mask)  # (N', C) and B
        return self.score(hidden[:n].float())  # (B,)


@torch.no_grad()
def predict_rewards(model: RewardModel, texts: Sequence[Sequence[int]], rows: int = 64) -> Tensor:
    """The reward of each text, (N,) float32 on the CPU, by a model in eval mode; `rows` texts a pass."""
    out = torch.zeros(len(texts))  # (N,)
    for part in micro_batches([len(ids) for ids in texts], rows):
        out[part] = model([texts[i] for i in part]).cpu()  # (b,)
    return out


def text_ids(record: dict, response: str, tokenizer: Tokenizer, context: int) -> tuple[int, ...]:
    """Prompt, response and EOS. Where they are longer than the context, the last of them: the EOS is read."""
    return (*render_prompt(record, tokenizer), *tokenizer.encode(response), tokenizer.eos_id)[-context:]


@torch.no_grad()
def normalise(model: RewardModel, rewards: Tensor) -> dict[str, float]:
    """r ← (r − mean) / std in place: what had `rewards`, (N,), then has mean 0 and standard deviation 1.

        b ← b − mean · w / |w|²,    then w ← w / std        b: the bias of the last LayerNorm

    The head has no bias to hold the mean, but w·b is one: r = w · (LN(x) + b). So what we save is normalised
    for Hugging Face's code too. Returns mean and std.  Raises UserError where all rewards are the same.
    """
    mean, std = float(rewards.double().mean()), float(rewards.double().std(correction=0))
    if not std > 0:
        raise UserError(f"all {len(rewards)} reference responses have one reward: nothing learnt; raise --lr")
    w = model.score.weight[0].double()  # (C,)
    model.trunk.ln_f.bias -= (mean / (w @ w) * w).float()  # (C,)
    model.score.weight /= std  # (1, C)
    return {"mean": mean, "std": std}


class LearnedReward:
    """A reward model as a reward function; `many` takes a list of cases, in batches."""

    def __init__(self, model: RewardModel, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    def __call__(self, prompt: str, response: str, record: dict) -> float:
        return self.many([(prompt, response, record)])[0]

    def many(self, cases: Sequence[tuple[str, str, dict]]) -> list[float]:
        """The reward of each (prompt, response, record); a conversation in the record is the prompt."""
        context = self.model.trunk.config.context
        texts = [text_ids({"prompt": p} | record, y, self.tokenizer, context) for p, y, record in cases]
        return predict_rewards(self.model, texts).tolist()


def save_reward_model(folder: str | Path, model: RewardModel, tokenizer: Tokenizer, run: dict) -> None:
    """Write a GPT2ForSequenceClassification of one label. The tokenizer has PAD."""
    config = {"architectures": ["GPT2ForSequenceClassification"], "num_labels": 1}
    config |= {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    config["pad_token_id"] = tokenizer.special_ids[PAD]
    checkpoint.save(folder, model.trunk, tokenizer, run, {"score.weight": model.score.weight}, config)


def load_reward_model(folder: str | Path, device: torch.device | str = "cpu") -> LearnedReward:
    """The reward function in a folder that `save_reward_model` wrote. Raises UserError."""
    trunk, tokenizer, weight = checkpoint.load_with(folder, "score.weight")
    if weight is None or PAD not in tokenizer.special_ids:
        raise UserError(f"{folder}: not a reward model of ours; python -m minirlhf.tools.train_reward makes one")
    model = RewardModel(trunk)
    if weight.shape != (wanted := model.score.weight.shape):
        raise UserError(f"{folder}: score.weight is {tuple(weight.shape)}, not {tuple(wanted)}")
    model.score.load_state_dict({"weight": weight, "bias": torch.zeros(1)})
    return LearnedReward(model.to(device), tokenizer)
