"""What a machine is set up to, and what run.json says of it."""

from dataclasses import dataclass

import torch

from minirlhf.harness.device import environment
from minirlhf.harness.machine import Machine


def test_setting_up_seeds_torch():
    draws = []
    for seed in (5, 5, 6):
        Machine(seed=seed, device="cpu", dtype="float32").set_up()
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_a_record_holds_the_options_and_where_it_ran():
    @dataclass(frozen=True)
    class Data:
        out: str = "here"

    @dataclass(frozen=True)
    class Rate:
        lr: float = 0.5

    run = Machine(seed=3, device="cpu", dtype="bfloat16").record(Data(), Rate(), Data("x"))
    assert run.pop("environment") == environment()
    assert run == {"data": {"out": "here"}, "training": {"lr": 0.5, "out": "x"}, "seed": 3,
                   "dtype": "torch.bfloat16", "device": "cpu",
                   "options": {"seed": 3, "device": "cpu", "dtype": "bfloat16"}}  # fmt: skip
