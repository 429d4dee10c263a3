"""What a run of reinforcement learning shows, measures and keeps on its way: the options of `watch.Progress`."""

from dataclasses import dataclass

from minirlhf.harness.options import option


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
