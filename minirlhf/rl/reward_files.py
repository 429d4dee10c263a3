"""Rewards by name: functions in Python files of the user's, and reward models in folders.

    --reward my_reward.py:right           the function `right` of that file, of one response or of lists of them
    --reward model:out/rm                 a reward model of tools/train_reward.py
    --reward model:out/rm:positive        a classifier of its: the log-probability of a class
    --reward a.py:f b.py:g:0.5            the sum of several, with weights

Proved by tests/rl/test_reward_files.py.
"""

import hashlib
import importlib.util
import re
import sys
from dataclasses import dataclass, field
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

import torch

from minirlhf.harness import ranks
from minirlhf.harness.files import UserError
from minirlhf.harness.user_code import call_each, parameters_of, place_in, place_of, shown, undisturbed
from minirlhf.rl.options import WAYS, RewardOptions
from minirlhf.rl.reward_model import LearnedReward, load_reward_model
from minirlhf.rl.rewards import LISTS, Case, Reward, ask, refusal

ONE = ["prompt", "response", "record"]  # the parameters of a reward of one response


@dataclass
class Rewards:
    """Rewards by name, each with its weight: as one reward of lists, their sum."""

    parts: dict[str, tuple[Reward, float]]
    options: RewardOptions = RewardOptions()
    said: dict[str, list[float]] = field(default_factory=dict)  # by each in the round last asked

    def __call__(self, prompts: list[str], responses: list[str], records: list[dict]) -> list[float]:
        cases = list(zip(prompts, responses, records))
        keys = [repr(case) for case in cases] if self.options.reward_once else range(len(cases))
        asked = dict(zip(keys, cases))
        said = {name: dict(zip(asked, self.call(r, [*asked.values()]))) for name, (r, _) in self.parts.items()}
        self.said = {name: [x[key] for key in keys] for name, x in said.items()}
        return [sum(weight * said[name][key] for name, (_, weight) in self.parts.items()) for key in keys]

    def call(self, reward: Reward, cases: list[Case]) -> list[float]:
        """What one of them says. Raises UserError, for a call of the user's code that takes too long, too."""
        if isinstance(reward, LearnedReward):
            return ask(reward, cases)
        parts, seconds = [[case] for case in cases], self.options.reward_timeout
        parts = [cases] if parameters_of(reward)[:3] == LISTS else parts
        overdue = partial(refusal, f"took longer than the {seconds:g} s of --reward-timeout", place_of(reward))
        with undisturbed():
            said = call_each(partial(ask, reward), parts, self.options.reward_threads, seconds, overdue)
        return [value for values in said for value in values]

    def each(self) -> dict[str, list[float]]:
        """What each one said of the responses last asked, none before the first; {} unless there are several."""
        return {name: self.said.get(name, []) for name in self.parts} if len(self.parts) > 1 else {}

    def watch(self, *_) -> dict[str, float]:
        """Each one's mean over the responses that ended, where there are several: a watcher of `ppo.train`."""
        parts, self.said = ranks.gather(self.each), {}
        return {f"score/{k}": sum(x) / len(x) for k in self.parts if (x := [v for p in parts for v in p.get(k, ())])}


def load_rewards(
    options: RewardOptions, device: torch.device | str = "cpu", missing_eos: float = -inf
) -> Rewards | None:  # fmt: skip
    """What --reward names, or None. device: of reward models.  Raises UserError.

    missing_eos: what an answer that never ends scores; says so where that is no less than the mean of a learnt reward.
    """
    if any(spec.startswith("model:") for spec in options.reward) and missing_eos >= 0:
        print(f"--missing-eos {missing_eos:g} is no less than the mean of a learnt reward, which is 0, and below"
              " for a class: an answer that never ends pays; -3, say, is three deviations below")
    if len(set(options.reward)) < len(options.reward):
        raise UserError(f"--reward {' '.join(options.reward)}: one is there twice; give it a weight")
    return Rewards({spec: load_reward(spec, device) for spec in options.reward}, options) if options.reward else None


def split_weight(spec: str) -> tuple[str, float]:
    """"a.py:f:0.5" -> ("a.py:f", 0.5). A weight that is not given is 1."""
    found = re.fullmatch(r"(?:(.*):)?([-+]?\d*\.?\d+)", spec)
    return (found[1] or "", float(found[2])) if found else (spec, 1.0)


def reward_hash(spec: str) -> str:
    """The name and the SHA-256 of the file behind a reward, so that a resume can say that it has changed."""
    path = split_weight(spec)[0].rpartition(":")[0]
    file = Path(spec.split(":")[1]) / "model.safetensors" if spec.startswith("model:") else Path(path)
    return f"{spec} {hashlib.sha256(file.read_bytes()).hexdigest()}"


def load_reward(spec: str, device: torch.device | str = "cpu") -> tuple[Reward, float]:
    """One reward, named as WAYS says, and its weight. Raises UserError."""
    if re.match("model:[^:]", spec):
        folder, _, rest = spec.removeprefix("model:").partition(":")
        judge = load_reward_model(folder, device)
        classes = judge.model.classes
        judge.label, weight = (rest, 1.0) if rest in classes else split_weight(rest)
        if judge.label not in (classes or [""]):
            wanted = f"model:{folder}:CLASS, one of {', '.join(classes)}" if classes else f"model:{folder}"
            raise UserError(f"--reward {spec}: give {wanted}")
        return judge, weight
    where, weight = split_weight(spec)
    function = load_function(where, f"--reward {spec}", WAYS)
    names, name = parameters_of(function), where.rpartition(":")[2]
    if {*LISTS} & {*names} and names[:3] != LISTS:
        raise UserError(f"--reward {spec}: {name}({', '.join(names)}): for lists it is {name}({', '.join(LISTS)})")
    if sorted(names[:3]) == sorted(ONE) and names[:3] != ONE:  # the arguments are given by place
        raise UserError(f"--reward {spec}: {name}({', '.join(names)}): make that {name}({', '.join(ONE)})")
    return function, weight


def load_function(where: str, asked: str, ways: str) -> Callable:
    """The FUNCTION of FILE.py:FUNCTION. asked: the option, for messages; ways: what it takes. Raises UserError."""
    path, _, name = where.rpartition(":")
    if not path or not Path(path).is_file():
        missing = "the FUNCTION is missing" if Path(where).is_file() else f"there is no file {path or where!r}"
        raise UserError(f"{asked}: give {ways}; {missing}")
    module_spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{asked}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    try:
        with undisturbed():
            module_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's file may raise anything, SystemExit too
        place = place_in(module_spec.origin, error, getattr(error, "lineno", None) or 1)
        raise UserError(f"{asked}: {place} raised {type(error).__name__}: {shown(error, str, 300)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        found = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"{asked}: no function {name!r} in {path}; found {', '.join(found) or 'none'}")
    return function
