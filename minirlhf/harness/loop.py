"""The chassis of every training loop: settings, resume, state, log, bar, clock, signals, divergence.

    with Loop(run, steps, save_every, settings, model=model, stepper=stepper) as loop:
        for step in loop:                                       the steps that are left, from 0
            loss, tokens = ...                                  one step of the algorithm
            loop.record({"loss": loss}, tokens, "loss")         a line of log.jsonl, shown on the bar
    return loop.cost()

An algorithm says what a step is, and knows nothing of the rest. out/train_state.pt holds what a resume needs: the
state of each part, torch's random numbers, and what was spent. A run that was stopped or killed at any moment goes
on from the last saved step, on a CPU to the same bits. Proved by tests/harness/test_loop.py.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from minirlhf.harness.files import UserError, load_state, save_state

STATE = "settings", "step", "seconds", "kept", "rng", "parts"  # of train_state.pt


class Diverged(Exception):
    """Training ran into gradients that are not finite, several steps in a row."""


class Unharmed(UserError):
    """A step failed before it changed anything: the steps before it can be saved."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came, and what is needed to go on has been saved."""


@dataclass(frozen=True)
class Run:
    """What every training is told beside its model, its data and its settings."""

    out: Path  # the folder that receives log.jsonl and train_state.pt
    seed: int = 0  # decides everything random
    dtype: torch.dtype = torch.float32  # of matrix products in training
    resume: bool = False  # go on where the run in `out` stopped
    data: str = ""  # a hash of what batches come from: a resume on other data is refused
    init: str = ""  # a hash of the weights it starts from: a resume from others is refused


class Loop:
    """The steps of one training, each of which ends in a record."""

    def __init__(self, run: Run, total: int, save_every: int, settings: dict, kept: dict | None = None, **parts):
        """If run.resume, load the saved state into the parts.

        settings: what a resumed run must share with the saved one, beside the run's seed, data, init and dtype.
        kept: plain values that change on the way, in `loop.kept`.  parts: whatever has state_dict() and
        load_state_dict(). Raises UserError where there is nothing to resume, or something of other settings.
        """
        self.run, self.total, self.save_every, self.parts = run, total, save_every, parts
        self.settings = settings | {"seed": run.seed, "data": run.data, "init": run.init, "dtype": str(run.dtype)}
        self.settings["parts"] = sorted(parts)
        self.state_path = run.out / "train_state.pt"
        self.start, self._before, self.kept = 0, 0.0, {"tokens": 0} | (kept or {})
        if run.resume:
            state = load_state(self.state_path)
            if not {*STATE} <= state.keys() or not isinstance(state["settings"], dict):
                raise UserError(f"{self.state_path}: not a state of this version; train without --resume")
            for key, value in self.settings.items():
                if (saved := state["settings"].get(key)) != value:
                    why = f"saved with {key} = {saved}, now {value}"
                    raise UserError(f"{self.state_path}: {why}: resume with the same options and files")
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            torch.set_rng_state(state["rng"])
            self.start, self._before, self.kept = state["step"], state["seconds"], state["kept"]
        self.step = self.start

    def __enter__(self) -> "Loop":
        self.run.out.mkdir(parents=True, exist_ok=True)
        if self.start == 0:
            self.state_path.unlink(missing_ok=True)  # an older run's must not pass for this one's
        path = self.run.out / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if self.start and path.exists() else []
        # A resumed run does again what it did after the last save, and each step stands in the log once.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.start]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._log = path.open("a", encoding="utf-8")
        # On a terminal the bar redraws; in a log file a line every few seconds is enough.
        every = 0.1 if sys.stderr.isatty() else 10.0
        name = self.run.out.name
        self._bar = tqdm(total=self.total, initial=self.start, desc=name, mininterval=every, dynamic_ncols=True)
        self._asked = False  # to stop, by a signal
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._bar.close()
        self._log.close()
        if isinstance(error, Unharmed) and self.step > self.start:
            self._save(self.step)
            raise Unharmed(f"{error}; {self.state_path} has all before step {self.step + 1}, for --resume") from None
        if isinstance(error, Diverged):
            good = f"{self.state_path}, if it was written before, is good"
            raise Diverged(f"{self.run.out}, step {self.step + 1}: {error}; {good}") from None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first Ctrl-C or SIGTERM ends the loop between two steps and saves. A second one kills."""
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __iter__(self) -> Iterator[int]:
        """The steps that are left, counted from 0. Raises Interrupted after one in which a signal came."""
        for self.step in range(self.start, self.total):
            yield self.step
            done = self.step + 1
            if done == self.total or done % self.save_every == 0 or self._asked:
                self._save(done)
            if self._asked:  # after the last step too: a script may have more to do
                raise Interrupted(f"{self.run.out}: stopped after step {done} of {self.total}; go on with --resume")

    def record(self, figures: dict, tokens: int, *shown: str) -> None:
        """End a step that took so many tokens: log its figures (NaN becomes null), show those named on the bar."""
        self.kept["tokens"] += tokens
        figures = {"step": self.step + 1} | figures | {"tokens": tokens, "seconds": self.seconds()}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        self._log.write(json.dumps(finite) + "\n")
        self._log.flush()
        speed = self.kept["tokens"] / max(figures["seconds"], 1e-9)
        on_bar = {k: figures[k] for k in shown if k in figures} | {"tok_s": speed}
        self._bar.set_postfix({k: f"{x:.4g}" for k, x in on_bar.items()}, refresh=False)
        self._bar.update(1)

    def seconds(self) -> float:
        """Wall time so far, with that before a resume."""
        return self._before + time.perf_counter() - self._began

    def cost(self) -> dict:
        """What the training took, for run.json."""
        return {"steps": self.total, "tokens": self.kept["tokens"], "seconds": self.seconds()}

    def _save(self, done: int) -> None:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        values = self.settings, done, self.seconds(), self.kept, torch.get_rng_state(), parts
        save_state(self.state_path, dict(zip(STATE, values, strict=True)))
