"""Every file that a command reads, damaged at random from a seed: the command succeeds or ends in one line.

The same seed is the same damage: `pytest tests/test_fuzz.py -k NAME` repeats it, and says which number failed.
"""

import random
from dataclasses import dataclass

import pytest
from bad_inputs import mutation, world
from bad_inputs.care import complaints, contents, limits, restore, said_on

A_FEW, MANY = 8, 300  # in every run of the suite, and with --fuzz


@dataclass(frozen=True)
class Reader:
    """A file that is read, and a command that reads it."""

    name: str
    file: str
    command: str
    structure: object = None  # of `mutation.py`; none: bytes alone
    cost: int = 1  # in hundredths of a second: so many times fewer are tried


ASK = "evaluate.py --prompt hi --max-new 2 --models sft=out/sft"
GPT2 = "evaluate.py --prompt hi --max-new 2 --models gpt2=gpt2"
LLAMA = "evaluate.py --prompt hi --max-new 2 --models llama=llama"
ADAPTER = "evaluate.py --prompt hi --max-new 2 --models adapter=adapter"
LINES, JSON, HEADER, STATE = (
    mutation.lines_at_random, mutation.json_at_random, mutation.header_at_random, mutation.state_at_random,
)  # fmt: skip
EVAL = "evaluate.py --prompts 1 --samples 1 --out new"
READERS = [
    Reader("records of SFT", "rich.jsonl",
        "train_sft.py --data rich.jsonl --init out/base --steps 1 --batch 2 --out new",
           LINES),
    Reader("records of an evaluation", "rich.jsonl",
        "evaluate.py --models sft=out/sft --samples 1 --max-new 4 --out new "
           "--data rich.jsonl", LINES, 4),
    Reader("a table", "table.csv", "train_sft.py --data table.csv --init out/base --steps 1 --batch 2 --out new"),
    Reader("a text", "corpus.txt", "evaluate.py --models sft=out/sft --text corpus.txt", cost=2),
    Reader("prompts", "prompts.jsonl",
        "train_ppo.py --config mine.json --reward mine.py:length --iterations 1 --out new", LINES, 2),
    Reader("comparisons", "prefs.jsonl", "train_dpo --config dpo.json --epochs 1 --out new", LINES, 2),
    Reader("config.json", "out/sft/config.json", ASK, JSON),
    Reader("weights", "out/sft/model.safetensors", ASK, HEADER),
    Reader("a tokenizer", "out/sft/tokenizer.json", ASK, JSON),
    Reader("a vocabulary", "gpt2/vocab.json", GPT2, JSON),
    Reader("merges", "gpt2/merges.txt", GPT2),
    Reader("a Llama's config.json", "llama/config.json", LLAMA, JSON),
    Reader("an index of weights", "llama/model.safetensors.index.json", LLAMA, JSON),
    Reader("a tokenizer from elsewhere", "llama/tokenizer.json", LLAMA, JSON),
    Reader("what stands beside it", "llama/tokenizer_config.json", LLAMA, JSON),
    Reader("a GGUF file", "llama.gguf", LLAMA.replace("=llama", "=llama.gguf"), mutation.gguf_at_random),
    Reader("adapters", "adapter/adapter_model.safetensors", ADAPTER, HEADER),
    Reader("what adapters are", "adapter/adapter_config.json", ADAPTER, JSON),
    Reader("a reward model", "out/rm/model.safetensors", "judgements --reward model:out/rm", HEADER, 6),
    Reader("a value head", "out/ppo/value_head.safetensors", "doctor out/ppo", HEADER, 6),
    Reader("the run of a model", "out/ppo/run.json", EVAL, JSON, 15),
    Reader("the run to start from", "out/sft/run.json", "train_ppo.py --config ppo.json --iterations 1 --out new",
        JSON, 3),
    Reader("the run of the doctor", "out/ppo/run.json", "doctor out/ppo", JSON, 10),
    Reader("a log of the past", "out/ppo/log.jsonl", EVAL, LINES, 15),
    Reader("a log to go on with", "stopped-ppo/log.jsonl", "train_ppo.py --config ppo.json --out stopped-ppo --resume",
           LINES, 4),
    Reader("a state", "stopped-ppo/train_state.pt", "train_ppo.py --config ppo.json --out stopped-ppo --resume",
        STATE, 8),
    Reader("a state of SFT", "stopped/sft/train_state.pt",
           "train_sft.py --config more.json --init out/base --out stopped --resume", STATE, 10),
    Reader("items", "out/eval/items.jsonl", "evaluate.py --from out/eval/items.jsonl --out new", LINES, 2),
    Reader("a report", "old/report.json", "evaluate.py --reports old/report.json out/eval/report.json"),
    Reader("items beside a report", "old/items.jsonl", "evaluate.py --reports old/report.json out/eval/report.json",
        LINES),
    Reader("items of a study", "out/eval/items.jsonl", "annotate make --models base ppo --set sentiment --study new",
        LINES),
    Reader("a study", "out/judgements/study.json", "judgements", JSON),
    Reader("a key", "out/judgements/key.json", "judgements", JSON, 4),
    Reader("judgements", "out/judgements/ann.log", "judgements", LINES, 4),
    Reader("judgements to close", "open/ann.log", "annotate close --study open --early", LINES),
    Reader("options", "ppo.json", "train_ppo.py --config ppo.json --init nowhere", JSON),
    Reader("a reward", "mine.py", "train_ppo.py --config mine.json --reward mine.py:length --iterations 1 --out new"),
]  # fmt: skip


def failures(reader: Reader, numbers: range, damage, folder, files: dict[str, object]) -> list[str]:
    """What ended otherwise than it may, with the number that repeats it."""
    found, run = [], world.run_apart if reader.file.endswith(".pt") else world.run
    for number in numbers:
        rng = random.Random(f"{reader.name} {number}")
        damage(reader.file, lambda old, rng=rng: mutation.damaged(old, reader.structure, rng))
        before, err = contents(folder), ""
        try:
            with limits():
                status, _, err = run(reader.command)
            wrong = complaints(reader.command, status, err, before, contents(folder)) if status else []
            if status == 1:  # a training that diverged; what the doctor found to be broken
                wrong = [] if reader.command.startswith("doctor") or len(said_on(err)) == 1 else ["no line"]
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error!s:.200}"]
        except BaseException as error:  # too slow; and what a reward of the user's may raise
            wrong = [repr(error)[:200]]
            if isinstance(error, (KeyboardInterrupt, pytest.exit.Exception)):
                raise
        restore(folder, files)
        found += [f"{number}: {wrong} {err[:200]}"] if wrong else []
    return found


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damage_ends_in_one_line_or_does_no_harm(reader, damage, user_files):
    numbers = range(max(A_FEW // reader.cost, 1))
    assert failures(reader, numbers, damage, *user_files) == []


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_so_does_much_damage(reader, damage, user_files, at_length):
    numbers = range(A_FEW, A_FEW + MANY // reader.cost)
    assert failures(reader, numbers, damage, *user_files) == []


def test_the_same_number_is_the_same_damage_and_others_are_not():
    data = b"some text, and a little more"
    one, again, other = (mutation.damaged(data, None, random.Random(f"x {n}")) for n in (1, 1, 2))
    assert one == again != other
