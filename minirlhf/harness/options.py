"""Command-line options from dataclass fields, and exit statuses that a shell understands.

    n_rows: int = option(10, "rows to read", least=1)        a field of a dataclass; on the command line --n-rows 10

Type, default and help come from the field, groups from the class. Flags win over --config FILE, the file over
the defaults. An option that cannot act beside the others is an error (`idle`). Wrong use ends in one line on stderr
and exit status 2. Proved by tests/harness/test_options.py.
"""

import argparse
import dataclasses
import difflib
import os
import re
import signal
import sys
import time
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import inf
from operator import attrgetter
from pathlib import Path

from minirlhf.harness.files import Diverged, Interrupted, UserError, read_json, read_run

RENAMED = {  # our option, or several of which a command has one: its names in other projects, and its earlier ones
    "lr lrs": "learning-rate", "beta": "kl-coef init-kl-coef kl-loss-coef kl-penalty kl-weight",
    "kl-target": "target-kl", "iterations steps": "max-steps num-steps max-iters train-steps iterations steps",
    "group": "num-generations num-samples-per-prompt rloo-k group-size n-samples-per-prompt",
    "epochs": "num-train-epochs num-ppo-epochs ppo-epochs update-epochs", "minibatches": "num-mini-batches",
    "batch": "per-device-train-batch-size train-batch-size batch-size rollout-batch-size",
    "micro-rows": "gradient-accumulation-steps micro-batch-size per-device-eval-batch-size",
    "lora": "lora-r lora-rank use-peft use-lora", "lora-on": "lora-target-modules target-modules",
    "max-new": "max-new-tokens max-completion-length response-length max-tokens generate-max-len",
    "context": "max-length max-seq-length block-size context-length", "warmup": "warmup-steps warmup-iters warmup-ratio",
    "max-norm": "max-grad-norm grad-clip clip-grad", "clip": "cliprange clip-range clip-eps epsilon clip-coef",
    "clip-high": "epsilon-high", "value-clip": "cliprange-value value-clip-range", "lam": "gae-lambda lambda",
    "value-coefficient": "vf-coef value-loss-coef", "whiten": "whiten-advantages normalize-advantages norm-adv",
    "out": "output-dir out-dir save-dir output", "data prompts": "dataset-name dataset train-file data prompts",
    "init": "model-name-or-path model-name pretrained init-from sft-model-path model-path checkpoint",
    "reward": "reward-funcs reward-model reward-model-path reward-fn reward-function", "algo": "algorithm advantage-estimator",
    "missing-eos": "missing-eos-penalty", "dtype": "bf16 fp16 torch-dtype precision", "resume": "resume-from-checkpoint",
    "save-every": "save-steps save-interval", "eval-every": "eval-steps eval-interval", "show-every": "logging-steps",
    "layers": "n-layer num-layers", "heads": "n-head num-heads", "width": "n-embd hidden-size d-model",
    "vocab": "vocab-size", "samples": "num-samples", "reports": "compare runs", "aggregate": "loss-type loss-agg-mode",
}  # fmt: skip


def option(
    default, help: str, least: float = -inf, above: float = -inf, most: float = inf, choices: Sequence[str] = (),
    **more,
):  # fmt: skip
    """A dataclass field that is a command-line option.

    least, most: the smallest and the largest number allowed; above: all allowed are larger.  choices: the words
    allowed.  more: bare, True for a word that stands without the option's name; needs and only, see `idle`.
    """
    limits = {"least": least, "above": above, "most": most, "choices": tuple(choices), "default": default}
    return field(default=default, metadata={"help": help} | limits | more)


class OneLineParser(argparse.ArgumentParser):
    """argparse with errors of one line, and the nearest option beside an unknown one."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message)


def parse(doc: str, *classes: type, argv: list[str] | None = None, without: Sequence[str] = ()) -> list:
    """Instances of the dataclasses, filled from the command line, --config FILE, and the defaults.

    doc: the command's docstring, which --help shows, but for the sentence that names its tests.

    A field `n_rows: int` is the option --n-rows, `from_` is --from; a bool is a switch with a --no- form; a tuple
    takes several words; a `bare` option is a word without its name, a bare tuple at least one. Flags win over the
    file, the file over the defaults. without: fields that mean nothing here, and are no options. Raises UserError.
    """
    fields = {f.name: f for cls in classes for f in dataclasses.fields(cls) if f.name not in without}
    flags = {k: k if f.metadata.get("bare") else f"--{k.rstrip('_').replace('_', '-')}" for k, f in fields.items()}
    doc = re.sub(r"(?s)\s*Proved\s+by\s.*?\.py\.", "", doc).strip()
    bare = [(name.upper(), f.type is str) for name, f in fields.items() if f.metadata.get("bare")]
    parser = OneLineParser(
        usage=" ".join(["%(prog)s", *(f"[{x}]" if one else f"{x} [{x} ...]" for x, one in bare), "[--option ...]"]),
        description=doc, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="a JSON file of options, {\"lr\": 0.001}; flags win over it")
    for cls in classes:
        group = parser.add_argument_group((cls.__doc__ or cls.__name__).splitlines()[0].rstrip("."))
        for f in (f for f in dataclasses.fields(cls) if f.name in fields):
            shown = f.default if f.default not in ((), "") else "none"
            text = ": ".join(x for x in (f.metadata["help"], ", ".join(f.metadata["choices"])) if x)
            if f.default is not None and not (f.metadata.get("bare") and shown == "none"):  # else the help says enough
                text += f" (default: {' '.join(shown) if isinstance(shown, tuple) else shown})"
            keywords: dict = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
            if f.type is bool:
                keywords["action"] = argparse.BooleanOptionalAction
            elif typing.get_origin(f.type) is tuple:
                keywords |= {"nargs": "+", "metavar": "X"}
            else:
                keywords |= {"type": f.type, "metavar": f.type.__name__.upper()}
            if f.metadata.get("bare"):
                keywords = {"nargs": "?"} | keywords | {"metavar": f.name.upper()}
            else:
                keywords["dest"] = f.name
            group.add_argument(flags[f.name], **keywords)
    given, unknown = parser.parse_known_intermixed_args(argv)  # bare words may stand on both sides of an option
    if unknown:
        raise UserError(unknown_option(unknown[0], list(flags.values())))
    values = vars(given)
    if (config := values.pop("config", None)) is not None:
        values = read_config(Path(config), fields) | values
    if "algo" in fields and "out" in fields and "out" not in values:
        values["out"] = fields["out"].default.replace("ALGO", values.get("algo", fields["algo"].default))
    given = list(values)  # what a run is resumed with may silence what it was begun with
    if values.get("resume"):
        values = options_of_run(Path(values.get("out", fields["out"].default)), fields) | values
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in values.items():
        check(flags[name], value, fields[name].metadata)
    made = [cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}) for cls in classes]
    for name in given:
        if why := idle(name, values, fields, made):
            raise UserError(f"{flags[name]} can do nothing {why}: {'give both, or ' * ('without' in why)}leave it out")
    if values.get("resume") and not (out := Path(values.get("out", fields["out"].default))).exists():
        raise UserError(f"--out {out}: no such folder, there is nothing to resume; name that of the run")
    return made


def idle(name: str, given: Mapping, fields: Mapping, made: Sequence) -> str:
    """Why the option `name` cannot act beside the others, or "": the one rule, for the options of all scripts.

    only, of another option: the names of those that can act where it is given.  needs, of this one: conditions that
    must all hold, of options that the script has. "data|prompt": one of the two is set; "-data": it is not;
    "algorithm.ratio=clipped": an attribute of the options, `made`, is so.
    """
    def why(need: str) -> str:
        key, _, word = need.removeprefix("-").partition("=")
        owner = next((x for x in made if hasattr(x, key.partition(".")[0])), None)
        flag = f"--{key.rpartition('.')[2].rstrip('_').replace('_', '-')}"
        if key in fields and fields[key].metadata.get("bare"):
            flag = key.upper()  # as --help names it
        found = owner and attrgetter(key)(owner)
        if owner is None:
            return ""  # this script has no such option, and cannot ask for it
        if word:
            return "" if str(found) == word else f"where {flag} is {found}"
        return "" if bool(found) != need.startswith("-") else f"beside {flag}" if found else f"without {flag}"

    rivals = [k for k in given if name not in f"{k} {fields[k].metadata.get('only', name)}".split() and given[k]]
    needs = [*(f"-{rival}" for rival in rivals), *fields[name].metadata.get("needs", "").split()]
    reasons = ([why(one) for one in need.split("|")] for need in needs)
    return next((" and ".join(dict.fromkeys(reason)) for reason in reasons if all(reason)), "")


def check_options(options) -> None:
    """`check` every field of a dataclass of options, however it was made: a __post_init__ for it. Raises UserError."""
    for f in dataclasses.fields(options):
        check(f"--{f.name.replace('_', '-')}", getattr(options, f.name), f.metadata)


def check(flag: str, value, limits: Mapping) -> None:
    """Raises UserError for what an option does not allow: a number or a word out of its limits, or no word at all."""
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not abs(value) <= 1e38:
            raise UserError(f"{flag} {value}: must be a finite number of float32")
        if value < limits["least"]:
            raise UserError(f"{flag} {value}: must be at least {limits['least']}")
        if value <= limits["above"]:
            raise UserError(f"{flag} {value}: must be above {limits['above']}")
        if value > limits["most"]:
            raise UserError(f"{flag} {value}: must be at most {limits['most']}")
        if isinstance(value, int) and value >= 2**63:
            raise UserError(f"{flag} {value}: must be below 2**63")
    words = value if isinstance(value, tuple) else (value,)
    if "" in words and (words is value or limits["default"]):  # of a variable that the shell does not know, say
        raise UserError(f"{flag}: is empty; give a value, or leave it out")
    for word in words:
        if isinstance(word, str) and re.search("[\0\ud800-\udc7f\udd00-\udfff]", word):
            raise UserError(f"{flag} {word}: has a NUL or half a character in it, which no file's name may")
    if isinstance(value, str) and limits["choices"] and value not in limits["choices"]:
        raise UserError(f"{flag} {value}: not one of {', '.join(limits['choices'])}")


def unknown_option(word: str, known: list[str]) -> str:
    """The message for an option that does not exist, with the nearest that does."""
    name, plain = word.split("=")[0], {x.lstrip("-").replace("_", "-"): x for x in known}  # a file's have no dashes
    theirs = name.lstrip("-").replace("_", "-")
    if here := [x for own, others in RENAMED.items() if theirs in others.split() for x in own.split() if x in plain]:
        return f"no option {name}: it is {plain[here[0]]} here"
    near = difflib.get_close_matches(theirs, plain, 1)
    return f"no option {word}" + (f"; did you mean {plain[near[0]]}?" if near else "; --help lists the options")


def read_config(path: Path, fields: dict) -> dict:
    """The options in a JSON file, checked against the fields' types. Raises UserError."""
    try:
        return typed(read_json(path), fields, str(path))
    except UserError as error:
        raise UserError(f"--config {error}") from None


def options_of_run(out: Path, fields: dict) -> dict:
    """The options of the run that is resumed in a folder, or in its sft/ or base/; {} where they are not known."""
    folder = next((x for x in (out, out / "sft", out / "base") if (x / "run.json").exists()), out)
    found = read_run(folder, {"options?": {}}).get("options", {})
    if other := [name for name in found if name not in fields]:
        raise UserError(f"{folder}: the run of another command, with --{other[0]}; resume it with that")
    return typed(found, fields, str(folder / "run.json"))


def typed(raw: dict, fields: dict, where: str) -> dict:
    """The options in JSON, checked against the fields' types. Raises UserError."""
    for name, value in list(raw.items()):
        if name not in fields:
            raise UserError(f"{where}: {unknown_option(name, list(fields))}")
        kind = fields[name].type
        good = list if typing.get_origin(kind) is tuple else (int, float) if kind is float else kind
        wrong = not isinstance(value, good) or (isinstance(value, bool) and kind is not bool)
        wrong = wrong or (kind is float and type(value) is int and abs(value) > sys.float_info.max)
        if wrong or (good is list and not all(isinstance(word, str) for word in value)):
            raise UserError(f"{where}: {name} is {value!r:.40}, not {getattr(kind, '__name__', kind)}")
        raw[name] = float(value) if kind is float else value
    return raw


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main: what the user can mend ends in one line and status 2, no traceback."""
    warnings.formatwarning = lambda message, *where: one_line(message) + "\n" if os.environ.get("RANK", "0") == "0" else ""
    if hasattr(sys.stdout, "reconfigure"):  # what its encoding lacks is spelt out: printing never raises
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        print(end="", flush=True)  # at exit it would be too late to say that the disk is full
    except UserError as error:
        sys.exit(fail(str(error), 2))
    except Diverged as error:
        sys.exit(fail(str(error), 1))
    except (Interrupted, KeyboardInterrupt) as error:
        sys.exit(fail(str(error) or "interrupted", 130))
    except (MemoryError, RuntimeError) as error:  # the latter is torch's
        if isinstance(error, RuntimeError) and not re.search("(out of|enough|allocate) memory|Storage size", str(error)):
            raise
        sys.exit(fail(f"not enough memory: smaller --batch, --width, --context or --samples take less; {error}", 2))
    except OSError as error:  # a folder that cannot be written, a full disk; or a reader that left: `| head`
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        status = 1 if isinstance(error, BrokenPipeError) else fail(said, 2)
        try:
            print(end="", flush=True)
        except OSError:  # it would be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(status)


def fail(message: str, status: int) -> int:
    """Print one line on stderr, of the several processes that a run may have in one."""
    if speaks():
        print(one_line(message), file=sys.stderr)
    return status


def speaks() -> bool:
    """Whether this process is to say why the run ends: of those that fail, the first that asks torchrun's store."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return True
    from torch.distributed import TCPStore  # here: else --help would wait for torch

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, as soon as it sees that one has ended
    time.sleep(0.3 * (os.environ["RANK"] != "0"))  # what all run into, 0 says, whose bar is closed then
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])).add("minirlhf spoke", 1) == 1


def one_line(message: object, most: int = 500) -> str:
    """The script's name and the message: a line of `most` visible characters, without its middle if it is longer."""
    text = " ".join(f"{Path(sys.argv[0]).name}: {message}".split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most] + text[most:][-most:])
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[7 - most // 2 :]}"
