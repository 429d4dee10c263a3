"""The command line from dataclasses, devices, exit statuses, interruption and the log."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from minirlhf.harness.files import Diverged, Interrupted, UserError
from minirlhf.harness.machine import Machine
from minirlhf.harness.options import RENAMED, check_options, option, parse, run_script, unknown_option


ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Fruit:
    """What to eat.

    And more about it.
    """

    n_apples: int = option(3, "apples, 100 % ripe", least=1)
    weight: float = option(0.5, "of one, in kg")
    peel: bool = option(False, "take the skin off")
    names: tuple[str, ...] = option(("a", "b"), "of the apples")


@dataclass(frozen=True)
class Place:
    """Where."""

    table: str = option("", "at which table")


def run(argv, config=None, tmp_path=None):
    """The two dataclasses from a command line, and from the content of a --config file where given."""
    if config is not None:
        path = tmp_path / "options.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        argv = [*argv, "--config", str(path)]
    return parse("Eat.", Fruit, Place, argv=argv)


def test_without_options_the_defaults_hold():
    assert run([]) == [Fruit(), Place()]


def test_options_have_the_type_of_their_field():
    argv = "--n-apples 4 --weight 1 --peel --names x y --table 7".split()
    fruit, place = run(argv)
    assert fruit == Fruit(4, 1.0, True, ("x", "y")) and place == Place("7")
    assert type(fruit.weight) is float


def test_switches_go_both_ways_and_a_tuple_may_be_empty_in_a_file(tmp_path):
    """On the command line it would be that of a variable that the shell does not know."""
    assert run(["--no-peel"], {"peel": True}, tmp_path)[0].peel is False
    assert run([], {"names": []}, tmp_path)[0].names == ()
    with pytest.raises(UserError, match="--names: expected at least one argument"):
        run(["--names"])


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    config = {"n_apples": 9, "weight": 2, "names": ["z"], "table": "t"}
    fruit, place = run(["--weight", "0.25"], config, tmp_path)
    assert fruit == Fruit(9, 0.25, False, ("z",)) and place == Place("t")
    assert type(run([], config, tmp_path)[0].weight) is float


@dataclass(frozen=True)
class Drink:
    """What to drink."""

    from_cup: str = option("mug", "out of what", bare=True)
    litres: int = option(1, "how much", least=1)


def test_a_bare_word_needs_no_name_and_may_be_left_out(tmp_path, capsys):
    def drink(*argv):
        return parse("Drink.", Drink, argv=list(argv))[0]

    assert drink() == Drink() and drink("--litres", "2") == Drink("mug", 2)
    assert drink("glass", "--litres", "2") == drink("--litres", "2", "glass") == Drink("glass", 2)
    (tmp_path / "options.json").write_text('{"from_cup": "bowl"}')
    assert drink("--config", str(tmp_path / "options.json")).from_cup == "bowl"
    for message, *wrong in (
        ("no option jug", "glass", "jug"),
        ("no option --from-cup", "--from-cup", "glass"),
        ("no option --litre; did you mean --litres?", "glass", "--litre", "2"),
    ):
        with pytest.raises(UserError) as error:
            drink(*wrong)
        assert str(error.value).startswith(message)
    with pytest.raises(SystemExit):
        drink("--help")
    assert "FROM_CUP" in capsys.readouterr().out


@dataclass(frozen=True)
class Plate:
    """What to eat from."""

    dish: tuple[str, ...] = option((), "dishes", bare=True)
    size: int = option(1, "of each", least=1)


def test_bare_words_may_stand_on_both_sides_of_an_option():
    @dataclass(frozen=True)
    class Convert:
        """What."""

        source: str = option("", "from", bare=True)
        to: str = option("", "to", bare=True)
        kind: str = option("F32", "kind")

    for words in ("a b --kind Q8_0", "a --kind Q8_0 b", "--kind Q8_0 a b"):
        assert parse("A.", Convert, argv=words.split()) == [Convert("a", "b", "Q8_0")]


def test_a_bare_tuple_is_one_or_more_words(capsys):
    def plate(*argv):
        return parse("Eat.", Plate, argv=list(argv))[0]

    assert plate("a", "b", "--size", "2") == plate("--size", "2", "a", "b") == Plate(("a", "b"), 2)
    assert plate("a") == Plate(("a",), 1)
    for message, *wrong in (("the following arguments are required: DISH",), ("dish: is empty", "a", "")):
        with pytest.raises(UserError, match=message):
            plate(*wrong)
    with pytest.raises(SystemExit):
        plate("--help")
    out = capsys.readouterr().out
    assert "DISH [DISH ...]" in out and out.count("(default: ") == 1  # of --size: DISH has none


@dataclass(frozen=True)
class Way:
    """Which way."""

    from_: str = option("", "where it begins")
    to: str = option("there", "where it ends")


def test_a_field_may_be_a_word_of_python_with_an_underscore_behind_it(tmp_path, capsys):
    """from_ is --from, in help and in what is said of a slip; in a file it has its own name."""
    assert parse("Go.", Way, argv=["--from", "here"]) == [Way("here", "there")]
    (tmp_path / "options.json").write_text('{"from_": "home"}')
    config = ["--config", str(tmp_path / "options.json")]
    assert parse("Go.", Way, argv=config) == [Way("home")]
    assert parse("Go.", Way, argv=[*config, "--from", "here"]) == [Way("here")]
    with pytest.raises(UserError, match="no option --form; did you mean --from?"):
        parse("Go.", Way, argv=["--form", "here"])
    with pytest.raises(SystemExit):
        parse("Go.", Way, argv=["--help"])
    assert "--from STR" in capsys.readouterr().out


def test_help_shows_every_option_its_group_and_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for words in ("Eat.", "What to eat:", "Where:", "--config FILE", "--n-apples INT", "100 % ripe"):
        assert words in text
    for default in ("3", "0.5", "False", "a b", "none"):
        assert f"(default: {default})" in " ".join(text.split())


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--n-aples", "4"], "no option --n-aples; did you mean --n-apples?"),
        (["--n_apples", "4"], "no option --n_apples; did you mean --n-apples?"),
        (["--weigth=1"], "no option --weigth=1; did you mean --weight?"),
        (["--n-app", "4"], "no option --n-app; did you mean --n-apples?"),
        (["--zzz"], "no option --zzz; --help lists the options"),
        (["--fork"], "no option --fork; --help lists the options"),  # the dashes alone make nothing near
        (["--n-apples", "4.5"], "--n-apples: invalid int value: '4.5'"),
        (["--weight", "heavy"], "--weight: invalid float value: 'heavy'"),
        (["--weight", "nan"], "--weight nan: must be a finite number"),
        (["--weight=-1e39"], "--weight -1e+39: must be a finite number of float32"),
        (["--names", "a", ""], "--names: is empty"),
        (["--config", ""], "--config"),
        (["--n-apples", "-1" + "0" * 400], "must be at least 1"),
        (["--n-apples", "0"], "--n-apples 0: must be at least 1"),
        (["--table"], "--table: expected one argument"),
        (["--peel=yes"], "--peel"),
        (["--config", "/nowhere/x.json"], "--config /nowhere/x.json: No such file"),
    ],
)
def test_wrong_options_are_answered_with_the_name(argv, message):
    with pytest.raises(UserError) as error:
        run(argv)
    assert message in str(error.value)


@dataclass(frozen=True)
class Walk:
    """A walk that can be gone on with."""

    out: str = option("", "where to")
    resume: bool = option(False, "go on")
    miles: int = option(0, "a day")
    rests: int = option(0, "on the way", needs="miles")


def test_what_a_resume_silences_of_a_run_s_options_is_no_error(tmp_path):
    """Nobody has given it here, so nobody could leave it out."""
    (tmp_path / "run.json").write_text('{"options": {"miles": 9, "rests": 2}}')
    (walk,) = parse("Go.", Walk, argv=["--resume", "--miles", "0", "--out", str(tmp_path)])
    assert (walk.miles, walk.rests) == (0, 2)
    with pytest.raises(UserError, match="--rests can do nothing without --miles"):
        parse("Go.", Walk, argv=["--resume", "--miles", "0", "--rests", "1", "--out", str(tmp_path)])


@pytest.mark.parametrize("word", ["--compare", "--runs", "--runs=a"])
def test_an_option_that_was_renamed_is_answered_with_its_new_name_where_there_is_one(word):
    assert unknown_option(word, ["--reports", "--out"]) == f"no option {word.split('=')[0]}: it is --reports here"
    assert "--reports" not in unknown_option(word, ["--out"])


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("--learning-rate=1", "--lr"), ("--learning_rate", "--lr"), ("learning_rate", "lr"), ("--kl-coef", "--beta"),
        ("--num-generations", "--group"), ("--max-steps", "--steps"), ("--lora_r", "--lora"),
        ("--per-device-train-batch-size", "--batch"), ("--output_dir", "--out"), ("--model-name-or-path", "--init"),
    ],
)  # fmt: skip
def test_names_of_other_projects_lead_to_ours(theirs, ours):
    """With dashes or underscores, on the command line or in a file; to the one that the command has."""
    known = ["lr", "beta", "group", "steps", "lora", "batch", "out", "init"]
    known = [f"--{x}" for x in known] if theirs.startswith("--") else known
    assert unknown_option(theirs, known) == f"no option {theirs.split('=')[0]}: it is {ours} here"


def test_a_name_of_other_projects_leads_to_an_option_of_ours_alone():
    """No name is promised twice to one command, and ours is an option of some command."""
    every = [name for others in RENAMED.values() for name in others.split()]
    assert len(every) == len(set(every))
    ours = {x for own in RENAMED for x in own.split()}
    words = "".join(subprocess.run([sys.executable, f"{name}.py", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
                    for name in ("train_sft", "train_ppo", "evaluate"))  # fmt: skip
    assert {x for x in ours if not re.search(f"--{x}[ ,]", words)} <= {"show-every", "lrs"}


def test_a_resume_of_a_folder_that_is_not_there_names_it_before_anything_is_loaded(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Training:
        resume: bool = option(False, "go on")
        out: str = option("here", "folder")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--out here: no such folder, there is nothing to resume"):
        parse("Go.", Training, argv=["--resume"])
    (tmp_path / "there").mkdir()
    assert parse("Go.", Training, argv=["--resume", "--out", "there"]) == [Training(True, "there")]


def test_help_shows_the_docstring_but_for_the_tests_that_prove_it(capsys):
    with pytest.raises(SystemExit):
        parse("Eat.\n\npython eat.py    100 % ripe\n\nIt is food. Proved by\ntests/test_eat.py.", Fruit, argv=["--help"])
    out = capsys.readouterr().out
    assert "Eat.\n\npython eat.py    100 % ripe\n\nIt is food.\n\n" in out and out.startswith("usage: ")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"n_aples": 4}, "no option n_aples; did you mean n_apples?"),
        ({"n_apples": "4"}, "n_apples is '4', not int"),
        ({"n_apples": 4.5}, "n_apples is 4.5, not int"),
        ({"n_apples": True}, "n_apples is True, not int"),
        ({"weight": False}, "weight is False, not float"),
        ({"weight": 10**400}, "weight is 1000"),
        ({"peel": 1}, "peel is 1, not bool"),
        ({"peel": None}, "peel is None, not bool"),
        ({"names": "ab"}, "names is 'ab', not"),
        ({"names": [1]}, "names is [1], not"),
        ({"table": 7}, "table is 7, not str"),
        ([1], "a JSON object is wanted"),
        ('{"peel": ', "not JSON"),
    ],
)
def test_wrong_entries_of_a_file_are_answered_with_the_name(config, message, tmp_path):
    with pytest.raises(UserError) as error:
        run([], config, tmp_path)
    assert str(error.value).startswith(f"--config {tmp_path}") and message in str(error.value)


def test_numbers_of_a_file_keep_the_limits_too(tmp_path):
    for config in ({"n_apples": 0}, '{"weight": Infinity}'):
        with pytest.raises(UserError, match="must be"):
            run([], config, tmp_path)
    assert run(["--n-apples", "1", "--weight", "-2"])[0] == Fruit(1, -2.0)


@dataclass(frozen=True)
class Tea:
    """How to brew."""

    kind: str = option(None, "of the leaves; none: what is there", choices=("black", "green"))
    minutes: float = option(3.0, "to wait", above=0, most=9)

    __post_init__ = check_options


@pytest.mark.parametrize("argv, message", [
    ("--kind red", "--kind red: not one of black, green"),
    ("--minutes 0", "--minutes 0.0: must be above 0"),
    ("--minutes 9.5", "--minutes 9.5: must be at most 9"),
    ("--minutes inf", "--minutes inf: must be a finite number of float32"),
])  # fmt: skip
def test_limits_hold_on_the_command_line_and_wherever_options_are_made(argv, message):
    with pytest.raises(UserError) as error:
        parse("Tea.", Tea, argv=argv.split())
    assert str(error.value) == message
    name, value = argv[2:].split()
    with pytest.raises(UserError) as error:
        Tea(**{name: value if name == "kind" else float(value)})
    assert str(error.value) == message
    assert Tea() == Tea(None, 3.0) and Tea("green", 9.0).minutes == 9


def test_help_names_the_choices(capsys):
    with pytest.raises(SystemExit):
        parse("Tea.", Tea, argv=["--help"])
    assert "of the leaves; none: what is there: black, green" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(UserError, match="--seed"):
        (machine,) = parse("Run.", Machine, argv=["--seed", seed])
        machine.set_up()


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("x.jsonl, line 17:\n not JSON"), 2, "x.jsonl, line 17: not JSON"),
        (Diverged("step 3"), 1, "step 3"),
        (Interrupted("go on with --resume"), 130, "go on with --resume"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_user_can_mend_ends_in_one_line_and_a_status(error, status, line, capsys, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == f"train.py: {line}\n"


def out_of_memory():
    raise MemoryError


@pytest.mark.parametrize("work", [
    out_of_memory, lambda: bytearray(10**17), lambda: torch.empty(10**15), lambda: torch.empty(2**61, 64),
])  # fmt: skip
def test_too_little_memory_is_said_with_what_takes_less(work, capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(work)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "not enough memory: smaller --batch, --width" in err


def illegal_access():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("work", [lambda: 1 / 0, lambda: torch.ones(2) @ torch.ones(3), illegal_access])
def test_our_own_mistakes_keep_their_traceback(work):
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        run_script(work)


def test_a_reader_that_leaves_is_no_traceback():
    program = "from minirlhf.harness.options import run_script; run_script(lambda: print('x\\n' * 10**6, flush=True))"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
    process.stderr.close()
