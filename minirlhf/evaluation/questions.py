"""What models are asked: the test sets, from tasks or files, perhaps behind examples; and what the data lack.

A conversation is asked turn by turn, each turn with what stands before it. Proved by tests/evaluation/test_questions.py.
"""

from collections.abc import Sequence
from random import Random

from minirlhf.evaluation.ask import Policy
from minirlhf.evaluation.config import Evaluation
from minirlhf.harness.files import UserError
from minirlhf.lm.reading import read_records
from minirlhf.lm.records import label_of, messages_of, prompt_of, references_of
from minirlhf.rl.rewards import Reward
from minirlhf.tasks import TASKS, prompts, reward_of_task
from minirlhf.tasks.sources import parse_tasks, with_room


def turn_records(records: Sequence[dict]) -> list[dict]:
    """A record for each assistant turn of a conversation, asked after the true turns before it.

    They share a `conversation`, for they are no independent evidence, and so do equal conversations.
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
            known = {"conversation": first.setdefault(str(messages), i)}
            out += [known | record | {"messages": messages[:end]} for end in ends]
    return out


def asked_in(record: dict) -> list[str]:
    """What stands before each answer of a conversation, but for what the system says."""
    spoken = [message for message in messages_of(record) if message["role"] != "system"]
    return [prompt_of(turn) for turn in turn_records([{"messages": spoken}])]


def shots_of(records: Sequence[dict], examples: Sequence[dict], k: int, seed: int) -> tuple[dict, ...]:
    """The messages of k examples, questions with their answers, which are to stand in front of each record.

    The seed draws them. No two ask the same, and none in any turn what a record asks. What their system says is left
    out, and makes no question another. Raises UserError for fewer than k.
    """
    asked = {question for r in records for question in asked_in(r)}
    usable = [r for r in examples if "text" not in r and answered(r) and asked.isdisjoint(asked_in(r))]
    known = list({asked_in(r)[-1]: r for r in usable}.values())
    if len(known) < k:
        found = f"{len(known)} different examples with an answer that are no test prompts"
        raise UserError(f"--shots {k}: {found}: give more, with --shots-from FILE")
    return tuple(m for r in Random(f"shots {seed}").sample(known, k) for m in messages_of(r) if m["role"] != "system")


def test_sets(options: Evaluation, reward: Reward | None, runs: dict[str, dict], seed: int) -> list[tuple]:
    """(title, records, reward_of or None, its name, max_new) of each set of held-out prompts. Raises UserError."""
    of = (lambda record: reward) if reward else None
    if options.data:
        records = turn_records(read_records(options.data, options.map, "left to the reward" if reward else "unused"))
        if all("text" in record for record in records):
            raise UserError(f"--data {' '.join(options.data)}: no prompts in it")
        return [("data", records, of, "", options.max_new)]
    trained = [name for run in runs.values() for name in run.get("tasks", {})]
    names = parse_tasks(options.task or ",".join(dict.fromkeys(trained))) if options.task or trained else {}
    if not names:
        raise UserError("the models were not trained on a generated task: give --task, or --data")
    return [
        (name if split == "test" else f"{name}, {split[5:]}", prompts(TASKS[name], split, options.prompts, seed),
         of or reward_of_task, "" if of else TASKS[name].REWARD, TASKS[name].MAX_NEW)
        for name in names for split in TASKS[name].EVAL_SPLITS if split.startswith("test")
    ]  # fmt: skip


def prompts_that_fit(records: list[dict], models: dict[str, Policy], title: str) -> list[dict]:
    """The records whose prompt leaves every model room for an answer. Raises UserError if none does."""
    context = min(policy.model.config.context for policy in models.values())
    return with_room(records, [policy.prompt for policy in models.values()], context, title)


def answered(record: dict) -> bool:
    """Whether the record ends in an answer."""
    return messages_of(record)[-1]["role"] == "assistant"


def left_out(records: list[dict], scored: int) -> list[str]:
    """What some of the records lack, and which metrics do without them. scored: how many texts have a loss."""
    n, answers = len(records), sum(map(answered, records))
    known, lines = sum(any(references_of(r)) for r in records), []
    labelled = sum(label_of(r) is not None for r in records)
    if 0 < labelled < n:
        lines.append(f"{n - labelled} of {n} records have no label: accuracy and F1 leave them out")
    if 0 < known < n:
        lines.append(f"{n - known} of {n} records have no answer to compare with: no BLEU, chrF, ROUGE, exact match")
    if scored < answers:
        unfit = f"{answers - scored} of {answers} answers fit no context"
        lines.append(f"{unfit}: perplexity and calibration leave them out")
    return lines
