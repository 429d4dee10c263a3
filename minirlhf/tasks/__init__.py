"""Generated tasks: text, prompts, references and exact rewards, made from a seed and nothing else.

Each task is a module with the same names:

    NAME: str                            the key in TASKS and the "task" of every record
    MAX_NEW: int                         a response budget in BPE tokens, the end token included
    EVAL_SPLITS: tuple[str, ...]         the held-out splits, beside "train"
    records(split, n, seed)              n dicts with "task", "prompt", "response" and what the reward
                                         needs; in a held-out split no prompt occurs twice
    documents(n, seed)                   n raw texts for pretraining, from the training side only
    FIELDS: tuple[str, ...]              texts of a record that reward and score read
    REWARD: str                          what the reward measures, in a word or two
    RL_WEIGHT: float                     weight in RL; long answers soon outvote short ones, which are cheap
    reward(prompt, response, record)     in [0, 1]; a user's own reward has the same signature
    score(prompt, response, record)      other quantities to average over an evaluation, by name
    reply(conversation, rng)             of a task of several turns alone: what its environment says (rl/turns.py)

The text before `response` is exactly `prompt`; neither begins or ends in white space.
"""

from collections.abc import Callable
from types import ModuleType

from minirlhf.lm.records import task_named
from minirlhf.tasks import arithmetic, booking, entities, qa, reviews, sentiment, summary, translation

DEFAULT = (reviews, sentiment, arithmetic, translation)  # the tasks of a run that names none
TASKS: dict[str, ModuleType] = {task.NAME: task for task in (*DEFAULT, qa, summary, entities, booking)}


def task_of(record: dict) -> ModuleType | None:
    """The task that the record belongs to; None for a user's record, whatever its "task" says."""
    task = TASKS.get(task_named(record))
    return task if task and all(isinstance(record.get(field), str) for field in task.FIELDS) else None


def prompts(task: ModuleType, split: str, n: int, seed: int) -> list[dict]:
    """`task.records` as RL and evaluation ask them: where an environment replies, no more than the first words."""
    found = task.records(split, n, seed)
    rest = ("messages", "response") if hasattr(task, "reply") else ()
    return [{k: v for k, v in record.items() if k not in rest} for record in found]


def reply_of_task(record: dict) -> Callable | None:
    """The environment of a generated record's task, if it has one."""
    return getattr(task_of(record), "reply", None)


def reward_of_task(record: dict) -> Callable[[str, str, dict], float]:
    """The reward function of a generated record's task."""
    return TASKS[record["task"]].reward
