"""Which prompts the models are asked: test sets of the tasks or of the user's own files, cut to what all can read.

A conversation is asked turn by turn, each turn with what stands before it. Proved by
tests/evaluation/test_prompts.py.
"""

from collections.abc import Sequence

import torch

from minirlhf.evaluation.options import Evaluation
from minirlhf.harness.files import UserError
from minirlhf.lm.chat import render_prompt
from minirlhf.lm.records import messages_of, read_records, references_of
from minirlhf.rl.rewards import load_reward
from minirlhf.tasks import TASKS, reward_of_task
from minirlhf.tasks.sources import parse_tasks


def turns(records: Sequence[dict]) -> list[dict]:
    """A record for each assistant turn of a conversation, asked after the true turns before it.

    They share a `conversation`, for they are no independent evidence, and so do equal conversations. A question
    at the end is one more. Records of one answer stay as they are.
    """
    out: list[dict] = []
    first: dict[str, int] = {}  # conversation -> where it stands first
    for i, record in enumerate(records):
        messages = messages_of(record)
        ends = [t + 1 for t, message in enumerate(messages) if message["role"] == "assistant"]
        if len(ends) < 2:
            out.append(record)
        else:
            ends += [len(messages)] if messages[-1]["role"] == "user" else []
            known = first.setdefault(str(messages), i)
            out += [record | {"messages": messages[:end], "conversation": known} for end in ends]
    return out


def test_sets(options: Evaluation, runs: dict[str, dict], seed: int, device: torch.device) -> list[tuple]:
    """(title, records, reward_of or None, its name, max_new) of each set of held-out prompts. Raises UserError."""
    reward = load_reward(options.reward, device) if options.reward else None
    of = (lambda record: reward) if reward else None
    if options.data:
        records = turns([r for path in options.data for r in read_records(path) if "text" not in r])
        if not records:
            raise UserError(f"--data {' '.join(options.data)}: no prompts in it")
        return [("data", records, of, "", options.max_new)]
    trained = [name for run in runs.values() for name in run.get("tasks", {})]
    names = parse_tasks(options.task or ",".join(dict.fromkeys(trained))) if options.task or trained else {}
    if not names:
        raise UserError("the models were not trained on a generated task: give --task, or --data")
    return [
        (name if split == "test" else f"{name}, {split[5:]}", TASKS[name].records(split, options.prompts, seed),
         of or reward_of_task, "" if of else TASKS[name].REWARD, TASKS[name].MAX_NEW)
        for name in names for split in TASKS[name].EVAL_SPLITS if split.startswith("test")
    ]  # fmt: skip


def prompts_that_fit(records: list[dict], models: dict, chat: dict[str, bool], title: str) -> list[dict]:
    """The records whose prompt leaves every model room for an answer. Raises UserError if none does."""
    context = min(model.config.context for model, _ in models.values())
    kept = [r for r in records if all(len(render_prompt(r, t, chat[n])) < context for n, (_, t) in models.items())]
    if not kept:
        raise UserError(f"{title}: no prompt of {len(records)} fits the models' context of {context} tokens")
    if len(kept) < len(records):
        left_out = f"{len(records) - len(kept)} of {len(records)} prompts left out"
        print(f"{title}: {left_out}, longer than the context of {context} tokens")
    return kept


def left_out(records: list[dict], scored: int) -> list[str]:
    """What some of the records lack, and which metrics do without them. scored: how many texts have a loss."""
    n, answers = len(records), sum(messages_of(r)[-1]["role"] == "assistant" for r in records)
    known, lines = sum(any(references_of(r)) for r in records), []
    if 0 < known < n:
        lines.append(f"{n - known} of {n} records have no answer to compare with: no BLEU, chrF, ROUGE, exact match")
    if scored < answers:
        unfit = f"{answers - scored} of {answers} answers fit no context"
        lines.append(f"{unfit}: perplexity and calibration leave them out")
    return lines
