"""Rewards by name: a function in a Python file of the user's, or a reward model in a folder.

    --reward my_reward.py:right      the function `right` of that file, called as rl/rewards.py says
    --reward model:out/rm            the reward model that tools/train_reward.py wrote

Proved by tests/rl/test_reward_files.py.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path

import torch

from minirlhf.harness.files import UserError
from minirlhf.rl.reward_model import load_reward_model
from minirlhf.rl.rewards import Reward


def reward_hash(spec: str) -> str:
    """SHA-256 of the file behind a reward, so that a resume can say that it has changed; "" of none."""
    if not spec:
        return ""
    folder, path = spec.removeprefix("model:"), spec.rpartition(":")[0]
    file = Path(folder) / "model.safetensors" if folder != spec else Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load_reward(spec: str, device: torch.device | str = "cpu") -> Reward:
    """The function `fn` of the Python file in "my_reward.py:fn", or the reward model in "model:DIR".

    device: of a reward model.  Raises UserError.
    """
    if spec.startswith("model:"):
        return load_reward_model(spec.removeprefix("model:"), device)
    path, _, name = spec.rpartition(":")
    if not path or not Path(path).is_file():
        missing = "the FUNCTION is missing" if Path(spec).is_file() else f"there is no file {path or spec!r}"
        raise UserError(f"--reward {spec}: give FILE.py:FUNCTION or model:DIR; {missing}")
    module_spec = importlib.util.spec_from_file_location(f"reward_{Path(path).stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--reward {spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up there
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"--reward {spec}: {path} raised {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        found = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(f"--reward {spec}: no function {name!r} in {path}; found {', '.join(found) or 'none'}")
    return function
