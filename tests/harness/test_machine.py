"""What a machine is set up to, and what run.json says of it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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


def test_ctrl_c_within_the_import_of_torch_is_one_line():
    """Raised there, KeyboardInterrupt may meet C++ that aborts; here it comes as the import begins."""
    code = """
import os, signal, sys
class Hit:
    def find_spec(self, name, *more):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hit())
sys.argv = ["x.py"]
from minirlhf.harness.machine import load_torch
load_torch()
"""
    root = Path(__file__).parents[2]
    end = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (130, "x.py: interrupted\n")
