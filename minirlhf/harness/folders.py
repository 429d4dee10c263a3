"""The folder of a training: who writes into it, what stood there before, and what a resume takes from it.

    out/ppo -> out/ppo.1     a run that stands in the folder is moved aside: nothing of it is lost
    log.jsonl                a line per step; who writes it holds a lock on it, until the end or a kill
    train_state.pt           what a stopped run goes on from; a finished one leaves `resume` in run.json instead

Proved by tests/faults/test_folders.py.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO

import torch

from minirlhf.harness import ranks
from minirlhf.harness.files import (
    UserError, lock, misfit, open_bytes, parse_object, read_bytes, read_run, read_text, writable, write_atomic,
    write_json,
)

MARKS = "config.json", "adapter_config.json", "run.json", "log.jsonl", "train_state.pt"  # with one of them a run stands in the folder
PLAIN = "", 0.0, True, None, [""]
STATE = {"settings": {"*": PLAIN}, "step": range(2**63), "seconds": 0.0, "kept": {"*": 0.0}, "parts": {"*": {}}}


@dataclass(frozen=True)
class Run:
    """What every training is told beside its model, its data and its settings."""

    out: Path  # the folder that receives log.jsonl, train_state.pt and the checkpoint
    seed: int = 0  # decides everything random
    dtype: torch.dtype = torch.float32  # of matrix products in training
    resume: bool = False  # go on where the run in `out` stopped
    data: str = ""  # a hash of what batches come from: a resume on other data is refused
    init: str = ""  # a hash of what it starts from: a resume from something else is refused
    start: str = ""  # the folder of that, which a run must not replace
    overwrite: bool = False  # what stands in `out`, instead of moving it aside
    also: tuple[Path, ...] = ()  # folders that are moved aside with it: what was made from it
    about: dict = field(default_factory=dict)  # run.json, from the first step on
    save: Callable[..., None] | None = None  # (run.json, parts, folder=out): make the folder a checkpoint
    load: Callable[[dict], None] | None = None  # (parts): give them the weights of the checkpoint
    draw: Callable[[Path, bool], None] | None = None  # (out, whether it goes on): a picture of the log

    def __post_init__(self) -> None:
        """Raises UserError for a folder that could not be written later, or whose checkpoint must not be replaced."""
        writable(self.out)
        replaced = stands_in(self.out) and not self.resume
        for name, inner in (("--init", self.start), ("the working directory", os.getcwd())):
            if replaced and inner and Path(inner).resolve().is_relative_to(self.out.resolve()):
                raise UserError(f"--out {self.out}: holds {name} {inner}, which a new run would replace; take another")
        (folder := Folder(self)).hold()
        folder.close()


class Folder:
    """The folder of a run. It is not touched before `begin`."""

    def __init__(self, run: Run) -> None:
        self.run, self.log = run, None
        self.state_path, self.finished, self._held = run.out / "train_state.pt", False, []

    def hold(self) -> None:
        """Keep other runs out, until `close`: the first process for all of a run. Raises UserError."""
        there = [x for x in (self.run.out, *self.run.also) if not ranks.rank() and (x / "log.jsonl").is_file()]
        self._held = [take(folder, "r+b") for folder in there]

    def begin(self, start: int) -> str:
        """Touch the folder: go on behind `start` steps, or anew, what stands there moved aside; says what was done."""
        run, said, about, size = self.run, "", self.run.about, 0
        if ranks.rank() > 0:
            self.log = open(os.devnull, "ab")
            return ""
        if run.resume:
            # A resumed run does again what it did after the last save, and each step stands in the log once.
            if (run.out / "log.jsonl").exists():
                size = max((end for end, x in read_log(run.out / "log.jsonl") if x["step"] <= start), default=0)
            about = read_run(run.out) | about
        self.close()
        self.hold()  # again: a run that began in the meantime
        self.close()
        if not run.resume:
            said = make_room((run.out, *run.also), run.overwrite)
        run.out.mkdir(parents=True, exist_ok=True)
        self.log = take(run.out, "ab")
        self.log.truncate(size)
        if about:
            write_json(run.out / "run.json", about)
        return said

    def restore(self, settings: dict, parts: dict, kept: dict) -> tuple[int, float, dict]:
        """Load what was saved into the parts: (steps done, seconds spent, what was kept). Raises UserError.

        A finished run has no state: its weights are those of the checkpoint, and its optimizer is a fresh one.
        """
        path, run = self.state_path, self.run
        self.finished = not path.exists() and "resume" in (about := read_run(run.out))
        path = run.out / "run.json" if self.finished else path
        state = about["resume"] if self.finished else load_state(path)
        if misfit(state, STATE if self.finished else STATE | {"rng": torch.Tensor()}):
            raise UserError(f"{path}: not a state of this version; train without --resume")
        total = settings["steps in all"]
        for key, value in settings.items():
            saved = state["settings"].get(key)
            if saved != value and not (key == "steps in all" and type(saved) is int and saved < value):
                raise UserError(f"{path}: saved with {key} = {saved}, now {value}: resume with the same options and files")
        try:
            if self.finished:
                run.load(parts)
            elif not ranks.rank():
                torch.set_rng_state(state["rng"])
            for name in state["parts"] if self.finished else parts:
                load_part(parts[name], state["parts"][name])
            kept = {key: state["kept"][key] for key in kept}
            start = range(total + 1)[state["step"]]
        except UserError:
            raise
        except Exception as error:  # what is wrong in a state can raise nearly anything
            raise UserError(f"{path}: damaged, {type(error).__name__}; train without --resume") from error
        if self.finished and start < total:
            print(f"{run.out}: finished after {start} steps; goes on to {total}, with a fresh optimizer")
        return start, state["seconds"], kept

    def close(self) -> None:
        """Let go of the folder."""
        for file in (*self._held, self.log):
            if file:
                file.close()


def stands_in(folder: Path) -> bool:
    """Whether a run, or any checkpoint, stands in the folder."""
    return any((folder / name).exists() for name in MARKS)


def take(folder: Path, mode: str) -> IO:
    """The log of a folder, opened for this process alone. Raises UserError."""
    file = (folder / "log.jsonl").open(mode)
    if not lock(file):
        file.close()
        raise UserError(f"{folder}: another run is writing into it; wait for its end, or choose another --out")
    return file


def make_room(folders: Sequence[Path], overwrite: bool) -> str:
    """Move the runs that stand in the folders aside, all under one number; returns what was moved, in words.

    overwrite: only take from them what makes them whole; the new run writes over the rest.
    """
    found = [folder for folder in folders if stands_in(folder)]
    if overwrite:
        for folder in (inner for folder in found for inner in (folder, folder / "best", *folder.glob("round-*"))):
            for name in ("config.json", "adapter_config.json", "train_state.pt", "run.json"):
                (folder / name).unlink(missing_ok=True)
    n = next(n for n in count(1) if not any(os.path.lexists(f"{folder}.{n}") for folder in found))
    moved = {} if overwrite else {folder: f"{folder}.{n}" for folder in found}
    for folder, aside in moved.items():
        folder.rename(aside)
    return "moved aside: " + ", ".join(f"{folder} -> {aside}" for folder, aside in moved.items()) if moved else ""


def save_state(path: str | Path, state: dict) -> None:
    """Write what a loop needs to go on: tensors and plain types, in one file, atomically."""
    try:
        write_atomic(path, lambda file: torch.save(state, file))
    except RuntimeError as error:  # torch's, of a disk that is full
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load_state(path: str | Path, what: str = "a train_state.pt of ours; train without --resume") -> dict:
    """Read what `save_state` wrote; code in it is refused. The tensors lie in the file: copy them. Raises UserError."""
    try:
        with open_bytes(path) as file, warnings.catch_warnings():  # of torch, of a pickle that it goes on to refuse
            warnings.simplefilter("ignore")
            named = str(path).isprintable()  # torch maps files of such names alone: lone surrogates are none
            state = torch.load(path if named else file, map_location="cpu", mmap=named, weights_only=True)
    except UserError as error:
        raise UserError(f"{error}; there is nothing to resume") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path}: damaged, or not {what}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: a {type(state).__name__}, not {what}")
    return state


def read_log(path: Path) -> list[tuple[int, dict]]:
    """The records of a log.jsonl, each behind the number of bytes up to its end. Raises UserError.

    Of a last line without its end nobody knows anything: who wrote it was killed.
    """
    records, end = [], 0
    read_text(path)  # what is no text is refused by what it is
    for line in read_bytes(path).split(b"\n")[:-1]:
        record = parse_object(line.decode("utf-8-sig", "replace"), f"{path}, line {len(records) + 1}")
        end += len(line) + 1
        if misfit(record, {"step": range(2**63)}):
            raise UserError(f"{path}, line {len(records) + 1}: no step in it; not a log of ours, or damaged")
        records.append((end, record))
    return records


def state_of(part) -> dict:
    """The state of a part, without the weights that are frozen: they are as in what the run starts from."""
    frozen = {k for k, p in part.named_parameters() if not p.requires_grad} if isinstance(part, torch.nn.Module) else {}
    return {k: x for k, x in part.state_dict().items() if k not in frozen}


def load_part(part, state: dict) -> None:
    """Give a part its saved state. Raises nearly anything for one that is not its own, which AdamW would take."""
    optimizer = getattr(part, "optimizer", None)
    own, saved = (x["param_groups"] for x in (optimizer.state_dict(), state["optimizer"])) if optimizer else ([], [])
    if [x | {"lr": 0} for x in saved] != [x | {"lr": 0} for x in own]:
        raise ValueError("of another optimizer")
    if not all(x.is_floating_point() and x.isfinite().all() for x in tensors_of(state)):
        raise ValueError("of no finite numbers")
    part.load_state_dict(part.state_dict() | state if state.keys() == state_of(part).keys() else state)
    for parameter, moments in optimizer.state.items() if optimizer else ():
        if {k: x.shape for k, x in moments.items()} != {"step": (), "exp_avg": (s := parameter.shape), "exp_avg_sq": s}:
            raise ValueError("of another model")
        moments.update({key: x.clone() for key, x in moments.items()})  # AdamW took the state's, which lie in a file


def tensors_of(state: dict) -> list[torch.Tensor]:
    """The tensors in a part's state; where there are none, run.json can hold it."""
    found = [tensors_of(x) if isinstance(x, dict) else [x] for x in state.values()]
    return [x for some in found for x in some if isinstance(x, torch.Tensor)]
