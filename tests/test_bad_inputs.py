"""Bad inputs, each as a user would give it: one line, status 2, nothing is lost, and it takes little time and memory.

`bad_inputs/` holds them as tables, by kind; `bad_inputs/world.py` is the folder in which they are given.
"""

import os
import resource
import shlex
import subprocess
import sys
from collections import Counter

import pytest
from bad_inputs import world
from bad_inputs.care import MEMORY, complaints, contents, limits
from bad_inputs.checkpoints import CHECKPOINTS
from bad_inputs.data import DATA
from bad_inputs.judgements import JUDGEMENTS
from bad_inputs.options import OPTIONS
from bad_inputs.reports import REPORTS_AND_ITEMS
from bad_inputs.rewards import REWARDS
from bad_inputs.runs import RUNS
from bad_inputs.table import Bad, spoilt

TABLE = [*OPTIONS, *DATA, *CHECKPOINTS, *RUNS, *REWARDS, *REPORTS_AND_ITEMS, *JUDGEMENTS]
ALWAYS = ("a study that is not closed",)  # test_scripts.py has one of each script
WITH_FUZZ = [  # each takes the seconds in which torch is imported
    "a learning rate of NaN", "a line that is not JSON", "an option with a slip of the pen", "a seed of 400 digits", "options nested 100,000 deep",
    "data in Latin-1", "data that are a pipe without a writer", "a text without an end",
    "a line of 5,000,000 characters that does not end", "data whose name would colour the terminal",
    "weights that lack a byte", "a weight of NaN", "a model of 10**9 layers", "a tokenizer that ends too soon",
    "a state that is code", "an output that is a file, of PPO", "a reward whose file exits as if all were well",
    "a reward of NaN", "items that end too soon",
]  # fmt: skip


def spoil(entry: Bad, damage) -> None:
    """Spoil the folder as the entry says."""
    for name, how in entry.files.items():
        damage(name, lambda old, how=how: spoilt(old, how))


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.claim)
def test_it_ends_in_one_line(entry, damage, user_folder):
    spoil(entry, damage)
    before = contents(user_folder)
    run = world.run_apart if any(name.endswith(".pt") for name in entry.files) else world.run
    with limits():
        status, _, err = run(entry.command)
    assert complaints(entry.command, status, err, before, contents(user_folder), entry.says) == [], err[:1000]


def bounded():
    """Little memory for what is to start: a file without an end would take all that the machine has."""
    resource.setrlimit(resource.RLIMIT_DATA, (4 * MEMORY, 4 * MEMORY))


def check_in_a_process_of_its_own(claim, damage, folder):
    """As a user starts it, where nothing stands between the script and the terminal."""
    (entry,) = [entry for entry in TABLE if entry.claim == claim]
    spoil(entry, damage)
    before, (name, *argv) = contents(folder), shlex.split(entry.command)
    script = [str(world.ROOT / name)] if name.endswith(".py") else ["-m", f"minirlhf.tools.{name}"]
    done = subprocess.run(
        [sys.executable, *script, *argv], env=os.environ | {"PYTHONPATH": str(world.ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=60, preexec_fn=bounded,
    )  # fmt: skip
    found = complaints(entry.command, done.returncode, done.stderr, before, contents(folder), entry.says)
    assert found == [], done.stderr[-1000:]


@pytest.mark.parametrize("claim", ALWAYS)
def test_it_ends_so_in_a_process_of_its_own(claim, damage, user_folder):
    check_in_a_process_of_its_own(claim, damage, user_folder)


@pytest.mark.parametrize("claim", WITH_FUZZ)
def test_so_do_others_in_a_process_of_their_own(claim, damage, user_folder, at_length):
    check_in_a_process_of_its_own(claim, damage, user_folder)


def test_there_are_many_and_no_two_are_the_same():
    assert len(TABLE) >= 300 and len(ALWAYS) + len(WITH_FUZZ) == 20
    assert [claim for claim, n in Counter(entry.claim for entry in TABLE).items() if n > 1] == []
    given = Counter((entry.command, repr(sorted(entry.files.items(), key=repr))) for entry in TABLE)
    assert max(given.values()) == 1


def test_every_script_and_tool_is_given_some():
    tools = {path.stem for path in (world.ROOT / "minirlhf" / "tools").glob("*.py")
             if "run_script(main)" in path.read_text("utf-8")}  # fmt: skip
    given = {shlex.split(entry.command)[0] for entry in TABLE}
    assert given == tools | {"train_sft.py", "train_ppo.py", "evaluate.py"}
