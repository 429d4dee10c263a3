"""Faults 22 and 27: what a user's reward may return, raise or change; and what is asked of a slow one."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from minirlhf.harness.folders import load_state
from minirlhf.harness.user_code import STATES
from minirlhf.lm import checkpoint
from minirlhf.rl.options import RewardOptions
from minirlhf.rl.reward_files import load_rewards
from minirlhf.rl.rewards import call_rewards

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [{"prompt": f"say {c}", "label": c} for c in "abcdefgh"]
CASES = [(record["prompt"], "aye", record) for record in RECORDS]
ARGV = "--init sft --prompts prompts.jsonl --max-new 6 --iterations 4 --batch 8 --minibatches 1 --threads 1 --lr 0.01"
ONE, MANY = "prompt, response, record", "prompts, responses, records"
WHERE = "mine.py:", "for prompt 'say ", "and response 'aye'"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(body, names=ONE, head=""):
    """The file of a user, with the reward `f`."""
    Path("mine.py").write_text(f"{head}\ndef f({names}):\n    {body}\n")


@pytest.fixture
def called(run_main):
    """called(body, ...): CASES put to such a reward in a script -> (status, stdout, stderr)."""
    def called(*file, threads=1, **options):
        def main():
            reward = load_rewards(RewardOptions(("mine.py:f",), reward_threads=threads, **options))
            print(call_rewards(lambda record: reward, CASES))

        write(*file)
        return run_main(main, "script.py")

    return called


@pytest.fixture
def train(run_main, make_policy, tokenizer):
    """train(*argv): train_ppo.py on the reward `f` -> (status, stdout, stderr)."""
    policy = make_policy(0, context=48)
    with torch.no_grad():
        policy.ln_f.bias.add_(8 * policy.wte.weight[tokenizer.eos_id])  # it ends soon
    checkpoint.save("sft", policy, tokenizer, {})
    Path("prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    spec = importlib.util.spec_from_file_location("train_ppo", ROOT / "train_ppo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return lambda *argv: run_main(script.main, "train_ppo.py", *ARGV.split(), "--reward", "mine.py:f", *argv)


def refused(result, *words):
    """Whether it ended in status 2 and one line with these words; a bar may stand before it."""
    status, _, err = result
    last = err.splitlines()[-1]
    return status == 2 and "Traceback" not in err and all(w in last for w in (".py: ", *words))


NUMPY, TORCH = "__import__('numpy')", "__import__('torch')"
NO_NUMBERS = [
    "1e39", "-1e39", "10 ** 400", "float('nan')", "float('-inf')", "1j", "complex(1, 0)", "'1.5'", "b'1'", "None",
    "[1.0]", "{}", "(1.0,)", "object()", "int", "(x for x in [1])",
    f"{TORCH}.tensor(1j)", f"{TORCH}.ones(2)", f"{TORCH}.ones(0)",
    f"{NUMPY}.float64(1e300)", f"{NUMPY}.array(['1'])", f"{NUMPY}.complex64(1)", f"{NUMPY}.array(1j)",
]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_fault_22_a_reward_that_is_no_float32_number_ends_in_a_line(value, called):
    for threads in (1, 3):
        assert refused(called(f"return {value}", threads=threads), "no finite float32 number", "mine.py:2)", *WHERE)
    assert refused(called(f"return [{value} for _ in prompts]", MANY), "no finite float32 number", *WHERE)
    assert refused(called(f"return {value}", MANY), *WHERE)


def test_fault_22_training_on_it_ends_too(train):
    write("return 1e39")
    assert refused(train(), "the reward is 1e+39, no finite float32 number", "mine.py:2) for prompt 'say ")


@pytest.mark.parametrize("value", ["3.4e38", "-3.4e38", "1e-50", "True", "__import__('fractions').Fraction(1, 3)"])
def test_fault_22_a_number_of_float32_is_one(value, called):
    assert called(f"return {value}")[:2] == (0, f"{[float(eval(value))] * 8}\n")


ERRORS = {
    "SystemExit": "SystemExit", "SystemExit(3)": "SystemExit: 3", "__import__('sys').exit('bye')": "SystemExit: bye",
    "BaseException('b')": "BaseException: b", "GeneratorExit": "GeneratorExit", "StopIteration": "StopIteration",
    "MemoryError": "MemoryError", "TimeoutError": "TimeoutError", "KeyError('x\\ny' * 9999)": "KeyError: 'x",
    "type('Own', (BaseException,), {})('o')": "Own: o",
}  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_fault_27_whatever_a_reward_raises_ends_in_a_line(error, called):
    """Of its own line, also where it comes from a function that it calls."""
    for names, threads in product((ONE, MANY), (1, 3)):
        result = called("g()", names, f"def g():\n    raise {error}\n", threads=threads)
        assert refused(result, f"the reward raised {ERRORS[error]}", "mine.py:2)", *WHERE) and len(result[2]) < 1000


@pytest.mark.parametrize("error", ERRORS)
def test_fault_27_whatever_a_file_raises_at_import_ends_in_a_line(error, called):
    result = called("return 1.0", ONE, f"pass\nraise {error}")
    assert refused(result, "--reward mine.py:f: ", f"mine.py:2 raised {ERRORS[error]}") and len(result[2]) < 1000


CHANGES = [
    "record.pop('label')", "record.clear()", "record['label'] = 'z'", "record.update(x=0)", "record['messages'] = []",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_fault_27_a_reward_that_changes_its_record_changes_no_other(change, called):
    check = "assert record == {'prompt': prompt, 'label': prompt[-1]}"
    for threads in (1, 3):
        assert called(f"{check}; {change}; return 1.0", threads=threads)[0] == 0
    of_all = f"for prompt, record in zip(prompts, records):\n        {check}; {change}\n    return [1] * len(prompts)"
    assert called(of_all, MANY)[0] == 0 and RECORDS[0] == {"prompt": "say a", "label": "a"}


@pytest.mark.parametrize("names", [ONE, MANY])
@pytest.mark.parametrize("how", ["async def g(*case): return 1.0", "async def g(*case): yield 1.0",
                                 "class G:\n    async def __call__(self, *case): return 1.0\ng = G()"])  # fmt: skip
def test_fault_27_an_async_reward_is_called_async(names, how, called, recwarn):
    assert refused(called(f"return g({names})", names, how), "async", *WHERE)
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


SPOILERS = [
    "sys.stdout.close()", "sys.stderr.close()", "sys.stdout = None", "sys.stderr = sys.stdout", "sys.stdout.detach()",
    "sys.stdout = io.TextIOWrapper(sys.stdout.buffer)", "torch.set_default_dtype(torch.float64)", "os.chdir('/')",
    "torch.set_grad_enabled(False)", "torch.set_default_device('meta')", "numpy.seterr(all='raise')",
    "torch.set_num_threads(2)",
]  # fmt: skip
IMPORTS = "import io, os, sys\nimport numpy, torch\n"


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_fault_27_what_a_reward_changes_for_the_process_is_put_back(spoiler, called):
    before = [get() for get, _ in STATES]
    for threads in (1, 3):
        status, out, _ = called(f"{spoiler}; return 1.0", ONE, f"{IMPORTS}{spoiler}", threads=threads)
        assert (status, out) == (0, f"{[1.0] * 8}\n")
        assert [get() for get, _ in STATES] == before


def test_fault_27_the_weights_are_those_of_an_honest_reward(train):
    weights = []
    for spoilers in ([], SPOILERS[6:]):
        write("; ".join([*spoilers, "return len(response) / 10"]), ONE, IMPORTS + "; ".join(spoilers))
        assert train("--iterations", "2")[0] == 0
        weights.append(Path("out/ppo/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_fault_27_a_closed_stdout_of_a_real_process_is_still_written_to(train):
    """Where nobody stands in for stdout."""
    write("sys.stdout.close(); return 1.0", ONE, "import sys\nsys.stdout.close()\nsys.stderr.close()")
    command = [sys.executable, str(ROOT / "train_ppo.py"), *ARGV.split(), "--iterations", "1", "--reward", "mine.py:f"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "tokens sampled" in done.stdout and "1/1" in done.stderr


# What is asked of a slow reward


@pytest.mark.parametrize("names, threads", [(ONE, "1"), (MANY, "1"), (ONE, "3")])
def test_a_call_that_takes_too_long_ends_the_run_and_the_last_round_can_be_resumed(names, threads, train):
    """The rounds before are saved, and the run that goes on ends as one that never waited."""
    answer = "[len(x) / 10 for x in responses]" if names == MANY else "len(response) / 10"
    rounds = "sum(1 for _ in open('out/ppo/log.jsonl')) if os.path.exists('out/ppo/log.jsonl') else 0"
    body = f"time.sleep(30 * (({rounds}) == 2 and not os.path.exists('go'))); return {answer}"
    argv = "--reward-timeout", "0.3", "--reward-threads", threads
    write(body, names, "import os, time")
    assert refused(train(*argv), "took longer than the 0.3 s of --reward-timeout", "for prompt 'say ", "--resume")
    assert load_state("out/ppo/train_state.pt")["step"] == 2
    Path("go").touch()
    assert train(*argv, "--resume")[0] == 0
    assert train("--out", "straight")[0] == 0
    stopped, straight = (Path(f"{out}/model.safetensors").read_bytes() for out in ("out/ppo", "straight"))
    assert stopped == straight


def test_several_rewards_are_logged_each(train):
    write("return 0.5")
    Path("other.py").write_text("def g(prompts, responses, records):\n    return [1.0] * len(prompts)\n")
    status, _, err = train("--reward", "mine.py:f", "other.py:g:-2", "--missing-eos", "-1.5")
    lines = [json.loads(line) for line in Path("out/ppo/log.jsonl").read_text().splitlines()]
    assert status == 0 and len(lines) == 4, err
    assert {(x["score/mine.py:f"], x["score/other.py:g:-2"], x["reward"]) for x in lines} == {(0.5, 1.0, -1.5)}
    assert json.loads(Path("out/ppo/run.json").read_text())["data"]["reward"] == ["mine.py:f", "other.py:g:-2"]
