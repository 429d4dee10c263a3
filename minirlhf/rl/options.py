"""The options of this wing beside those of an algorithm: rewards, conversations, what is watched; distillation."""

from dataclasses import dataclass

from minirlhf.harness.options import option

WAYS = "FILE.py:FUNCTION or model:DIR, of a classifier model:DIR:CLASS, each perhaps with :WEIGHT"


@dataclass(frozen=True)
class RewardOptions:
    """Reward."""

    reward: tuple[str, ...] = option((), f"your own instead of the task's: {WAYS}; several are summed")
    reward_threads: int = option(1, "calls of a reward of one response at once", least=1, most=1000, needs="reward")
    reward_timeout: float = option(
        600.0, "seconds; a longer call of a function ends the run", least=0.01, most=1e6, needs="reward")
    reward_once: bool = option(True, "equal answers are asked once per round; not for a random reward", needs="reward")


@dataclass(frozen=True)
class Turns:
    """Conversations."""

    environment: str = option("", "FILE.py:FUNCTION that answers the policy: reply(conversation, rng) -> text or None")
    turns: int = option(6, "most answers of the policy in a conversation", least=1)


@dataclass(frozen=True)
class Watch:
    """What is shown, measured and kept on the way; nothing of what is trained depends on it."""

    show_every: int = option(20, "rounds from showing some sampled answers to the next; 0: never", least=0)
    eval_every: int = option(0, "rounds from a score of held-out prompts to the next; 0: never. The tasks' own, or "
                             "--eval-prompts", least=0, needs="-prompts|eval_prompts")  # fmt: skip
    eval_prompts: tuple[str, ...] = option((), "files of held-out prompts of your own", needs="prompts eval_every")
    keep_every: int = option(0, "rounds from a checkpoint in OUT/round-N to the next; 0: none", least=0)
    keep_best: bool = option(False, "keep in OUT/best what scores highest on held-out prompts, above the start",
                             needs="eval_every")  # fmt: skip


@dataclass(frozen=True)
class Distil:
    """Distillation."""

    on: str = option("own", "whose answers: the data's, or samples of either", choices=("text", "teacher", "own"))
    loss: str = option("reverse", "of a token: KL(teacher, student), KL(student, teacher), or its -log p",
                       choices=("forward", "reverse", "hard"), needs="on=text|on=teacher|loss=forward|loss=reverse")
    temperature: float = option(1.0, "of both in a KL, not of sampling", above=0, needs="loss=forward|loss=reverse")
    max_new: int = option(64, "longest sampled answer, in tokens", least=1, needs="on=teacher|on=own")
