"""The chassis of every training loop: settings, resume, state, log, bar, clock, signals, divergence.

    with Loop(run, steps, save_every, settings, model=model, stepper=stepper) as loop:
        for step in loop:                                       the steps that are left, from 0
            loss, tokens = ...                                  one step of the algorithm
            loop.record({"loss": loss}, tokens, "loss")         a line of log.jsonl, shown on the bar
    return loop.cost()

An algorithm says what a step is, and knows nothing of the rest. The folder is not touched before the first step is
done. train_state.pt holds what a resume needs: the state of each part, torch's random numbers, and what was spent. A
run that was stopped or killed at any moment goes on from the last saved step, on a CPU to the same bits. A finished
one has no state, and is extended with a fresh optimizer. Proved by tests/harness/test_loop.py.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import torch
from tqdm import tqdm

from minirlhf.harness import ranks
from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.folders import Folder, Run, save_state, state_of, tensors_of


class Unharmed(UserError):
    """A step failed before it changed anything: the steps before it can be saved."""


def bar(total: int, name: str, **more) -> tqdm:
    """A bar that redraws on a terminal; in a log file a line every few seconds is enough. more: options of tqdm."""
    often = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=name, mininterval=often, dynamic_ncols=True, **more)


class Loop:
    """The steps of one training, each of which ends in a record."""

    def __init__(self, run: Run, total: int, save_every: int, settings: dict, kept: dict | None = None, **parts):
        """If run.resume, load the saved state, or what a finished run left, into the parts.

        settings: what a resumed run must share with the saved one, but for its length, beside what the run says; tuples
        are kept as text.  kept: plain numbers that change on the way, in `loop.kept`.  parts: whatever has state_dict()
        and load_state_dict(). Raises UserError where there is nothing to resume, or something of other settings.
        """
        self.run, self.total, self.save_every, self.parts, self.folder = run, total, save_every, parts, Folder(run)
        length = next((key for key in ("iterations", "steps", "epochs") if key in settings), "")
        self.settings = {k: str(v) if isinstance(v, tuple) else v for k, v in settings.items() if k != length}
        self.settings |= {"steps in all": total, "seed": run.seed, "data": run.data, "init": run.init}
        self.settings |= {"dtype": str(run.dtype), "parts": sorted(parts)}
        self.start, self._before, self.kept = 0, 0.0, {"tokens": 0, "skipped": 0} | (kept or {})
        torch.manual_seed(run.seed + ranks.rank())  # no two processes draw the same, as for dropout
        if run.resume:
            self.start, self._before, self.kept = self.folder.restore(self.settings, parts, self.kept)
        self.step, self.done = self.start, self.start

    def __enter__(self) -> "Loop":
        self.folder.hold()
        self._bar = bar(self.total, self.run.out.name, initial=self.start, disable=ranks.rank() > 0)
        self._asked, self._drawn = False, 0.0  # to stop, by a signal; when to draw again
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._bar.close()
        if saved := isinstance(error, Unharmed) and self.done > self.start:
            if not ranks.rank():
                save_state(self.folder.state_path, self._state() | {"rng": torch.get_rng_state()})
            self._write()
        self._draw(goes_on=False)
        self.folder.close()
        if saved:
            raise Unharmed(f"{error}; all before step {self.done + 1} is saved, for --resume") from None
        if isinstance(error, Diverged):
            good = f"{self.folder.state_path}, if it was written before, is good"
            raise Diverged(f"{self.run.out}, step {self.step + 1}: {error}; {good}") from None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first Ctrl-C or SIGTERM ends the loop between two steps and saves. A second one stops at once."""
        if self._asked:
            raise KeyboardInterrupt(f"{self.run.out}: stopped; --resume goes on from the last save, if there is one")
        self._asked = True
        if ranks.count() == 1 or number == signal.SIGINT and not ranks.rank():  # SIGTERM: torchrun's, of a lost process
            os.write(2, b"\nfinishing the round; press again to stop now\n")  # print cannot be called within print

    def __iter__(self) -> Iterator[int]:
        """The steps that are left, counted from 0. Raises Interrupted after one in which a signal came."""
        for self.step in range(self.start, self.total):
            yield self.step
            self.done = self.step + 1
            asked = any(ranks.gather(lambda: self._asked))  # all stop after one step
            if self.done == self.total or self.done % self.save_every == 0 or asked:
                if not ranks.rank():
                    save_state(self.folder.state_path, self._state() | {"rng": torch.get_rng_state()})
                    self._draw(goes_on=True)
                asked = any(ranks.gather(lambda: self._asked))
            if asked:
                break
        if not self.folder.finished or self.start < self.total:
            self._write()
        if any(ranks.gather(lambda: self._asked)):  # after the last step too: a script may have more to do
            raise Interrupted(f"{self.run.out}: stopped after step {self.done} of {self.total}; go on with --resume")

    def record(self, figures: dict, tokens: int, *shown: str) -> None:
        """End a step that took so many tokens: log its figures (NaN becomes null), show those named on the bar."""
        self._begin()
        self.kept |= {"tokens": self.kept["tokens"] + tokens, "skipped": figures.get("skipped", 0)}
        figures = {"step": self.step + 1} | figures | {"tokens": tokens, "seconds": self.seconds()}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        self.folder.log.write(json.dumps(finite).encode() + b"\n")
        self.folder.log.flush()
        speed = self.kept["tokens"] / max(figures["seconds"], 1e-9)
        on_bar = {k: figures[k] for k in shown if k in figures} | {"tok_s": speed}
        self._bar.set_postfix({k: f"{x:.4g}" for k, x in on_bar.items()}, refresh=False)
        self._bar.update(1)

    def _draw(self, goes_on: bool) -> None:
        """Have the log drawn, where the script says how: seldom if it takes long. A failure ends no training."""
        began = time.perf_counter()
        try:
            if self.run.draw and self.folder.log and self.done and not ranks.rank() and began >= self._drawn * goes_on:
                self.run.draw(self.run.out, goes_on)
        except Exception as error:
            self._bar.write(f"{self.run.out}: its log cannot be drawn: {type(error).__name__}: {error}")
        self._drawn = max(self._drawn, began + 50 * (time.perf_counter() - began - 0.1))

    def seconds(self) -> float:
        """Wall time so far, with that before a resume."""
        return self._before + time.perf_counter() - self._began

    def cost(self) -> dict:
        """What the training took, for run.json."""
        return dict(steps=self.done, tokens=self.kept["tokens"], seconds=self.seconds(), skipped=self.kept["skipped"])

    def _state(self) -> dict:
        parts = {name: state_of(part) for name, part in self.parts.items()}
        return dict(settings=self.settings, step=self.done, seconds=self.seconds(), kept=self.kept, parts=parts)

    def _begin(self) -> None:
        if self.folder.log is None and (said := self.folder.begin(self.start)):
            self._bar.write(said)

    def _write(self) -> None:
        """Make the folder a checkpoint; a finished run leaves no state but what is neither weights nor moments."""
        self._begin()
        if self.run.save and not ranks.rank():
            state = self._state()
            state["parts"] = {name: part for name, part in state["parts"].items() if not tensors_of(part)}
            self.run.save(self.run.about | {"cost": self.cost(), "resume": state}, self.parts)
            if self.done == self.total:
                self.folder.state_path.unlink(missing_ok=True)
