"""Bad rewards: files and functions of the user's own."""

from bad_inputs.table import DIGITS, FOLDER, Bad, Spoil, bad

PPO = "train_ppo.py --config mine.json --out new --reward"
EVAL = "evaluate.py --models sft=out/sft --samples 4 --out new --data prompts.jsonl --reward"
DOCTOR, JUDGED = "doctor out/sft --prompts prompts.jsonl --reward", "judgements --reward"
HEAD = "def f(prompt, response, record):\n    "


def does(body: str, *says: str, claim: str, command: str = PPO) -> Bad:
    """A reward function of that body."""
    return bad(claim, f"{command} r.py:f", "reward", *says, files={"r.py": HEAD + body + "\n"})


def written(content: Spoil, *says: str, claim: str, command: str = PPO) -> Bad:
    """A file that does not give a function `f`."""
    return bad(claim, f"{command} r.py:f", "r.py", *says, files={"r.py": content})


def function(content: str, *says: str, claim: str) -> Bad:
    """A file whose `f` is called and is wrong."""
    return bad(claim, f"{PPO} r.py:f", "reward", *says, files={"r.py": content})


SPECS = [
    bad("a reward in a file that is not there", f"{PPO} none.py:f", "none.py"),
    bad("a reward in a file that is not there, to evaluate by", f"{EVAL} none.py:f", "none.py"),
    bad("a reward in a file that is not there, of the doctor", f"{DOCTOR} none.py:f", "none.py"),
    bad("a reward in a file that is not there, to judge by", f"{JUDGED} none.py:f", "none.py"),
    bad("a reward without its function", f"{PPO} mine.py", "FUNCTION"),
    bad("a reward whose function is empty", f"{PPO} mine.py:", "mine.py"),
    bad("a reward without its file", f"{PPO} :length", "FILE"),
    bad("a reward that is a word", f"{PPO} helpful", "helpful", "FILE.py"),
    bad("a reward that is a module's name", f"{PPO} mine:length", "mine"),
    bad("a reward of a function that there is not", f"{PPO} mine.py:lenght", "lenght", "length"),
    bad("a reward of a function of a function", f"{PPO} mine.py:length.real", "length.real"),
    bad("a reward in a text", f"{PPO} corpus.txt:length", "corpus.txt"),
    bad("a reward in a folder", f"{PPO} r.py:f", "r.py", files={"r.py": FOLDER}),
    bad("a reward in the user's data", f"{PPO} prompts.jsonl:f", "prompts.jsonl"),
    written("", "f", claim="a reward in an empty file"),
    written("f = 3\n", "f", claim="a reward that is a number"),
    written("def g(p, y, r):\n    return 0\n", "g", claim="a reward of another name"),
    written("def f(prompt, response, record)\n    return 0\n", "SyntaxError", claim="a reward that lacks a colon"),
    written("def f(prompt, response, record):\nreturn 0\n", "r.py", claim="a reward that is not indented"),
    written(HEAD.encode() + b"return len('caf\xe9')\n", claim="a reward in Latin-1"),
    written(HEAD + "return 0\n\0", claim="a reward with a NUL in it"),
    written("(" * 100_000, claim="a reward of 100,000 brackets"),
    written("import no_such_module\n", "no_such_module", claim="a reward that imports what is not there"),
    written("1 / 0\n", "ZeroDivisionError", claim="a reward whose file raises"),
    written("raise Exception\n", "Exception", claim="a reward whose file raises without a word"),
    written("import sys\nsys.exit(0)\n", "SystemExit", claim="a reward whose file exits as if all were well"),
    written("import sys\nsys.exit('bye')\n", "SystemExit", claim="a reward whose file exits with a word"),
    written("raise GeneratorExit\n", "GeneratorExit", claim="a reward whose file raises what is no Exception"),
    written("def g():\n    g()\ng()\n", "RecursionError", claim="a reward whose file calls itself for ever"),
    written("import sys\nsys.exit(0)\n", "SystemExit", claim="a reward whose file exits, to evaluate by", command=EVAL),
]
RETURNS = [
    does("return float('nan')", "nan", claim="a reward of NaN"),
    does("return float('inf')", "inf", claim="a reward of infinity"),
    does("return -float('inf')", "inf", claim="a reward of minus infinity"),
    does("return 1e39", "1e+39", claim="a reward of 1e39, which float32 lacks"),
    does(f"return -{DIGITS}", claim="a reward of 400 digits"),
    does("pass", "None", claim="a reward that returns nothing"),
    does("return '0.5'", claim="a reward that is a text"),
    does("return 'good'", "good", claim="a reward that returns a word"),
    does("return [0.5]", claim="a reward in a list"),
    does("return {'score': 0.5}", claim="a reward in an object"),
    does("return 1j", claim="a reward that is a complex number"),
    does("yield 0.5", claim="a reward that is a generator"),
    does("return f", claim="a reward that is a function"),
    does("import numpy\n    return numpy.ones(2)", claim="a reward of two numbers"),
    does("import torch\n    return torch.ones(2)", claim="a reward that is a tensor of two numbers"),
    does("import torch\n    return torch.tensor(float('nan'))", "nan", claim="a reward that is a tensor of NaN"),
    does("return float('nan') if prompt.endswith('c') else 0", "say c", claim="a reward of NaN for one prompt"),
    does("return float('nan')", "nan", claim="a reward of NaN, to evaluate by", command=EVAL),
    does("return None", "None", claim="a reward of nothing, to evaluate by", command=EVAL),
    does("return float('nan')", "nan", claim="a reward of NaN, of the doctor", command=DOCTOR),
    does("return float('nan')", "nan", claim="a reward of NaN, to judge by", command=JUDGED),
    function("async def f(prompt, response, record):\n    return 0.5\n", "async",
        claim="a reward that is asynchronous"),
    function("class f:\n    def __init__(self, prompt, response, record):\n        pass\n",
        claim="a reward that is a class"),
]
RAISES = [
    does("return record['merit']", "KeyError", "merit", claim="a reward that wants a field that there is not"),
    does("return len(record.hint)", "AttributeError", claim="a reward that takes a record for an object"),
    does("assert response.startswith('no such')", "AssertionError", claim="a reward whose assertion fails"),
    does("return 1 / 0", "ZeroDivisionError", claim="a reward that divides by 0"),
    does("return undefined", "NameError", "undefined", claim="a reward of a name that there is not"),
    does("raise Exception", "Exception", claim="a reward that raises without a word"),
    does("raise Exception('x' * 10_000_000)", "xxx", claim="a reward that raises with 10,000,000 characters"),
    does("raise Exception('\\x1b[31mred\\u202e')", "red", claim="a reward that raises in red, from right to left"),
    does("raise Exception('one\\ntwo')", "one two", claim="a reward that raises in two lines"),
    does("raise Exception('\\ud800')", "Exception", claim="a reward that raises half a character"),
    does("class E(Exception):\n        def __str__(self):\n            raise E\n    raise E",
         claim="a reward whose error cannot be told"),
    does("class E:\n        def __repr__(self):\n            1 / 0\n    return E()", "no finite",
         claim="a reward that cannot be shown"),
    written("class E(Exception):\n    def __str__(self):\n        1 / 0\nraise E\n", "raised E",
            claim="a reward whose file's error cannot be told"),
    does("return f(prompt, response, record)", "RecursionError", claim="a reward that calls itself for ever"),
    does("raise MemoryError", "MemoryError", claim="a reward that is out of memory"),
    does("raise StopIteration", "StopIteration", claim="a reward that raises the end of an iteration"),
    does("raise SystemExit", "SystemExit", claim="a reward that exits"),
    does("import sys\n    sys.exit(0)", "SystemExit", claim="a reward that exits as if all were well"),
    does("raise GeneratorExit", "GeneratorExit", claim="a reward that raises what is no Exception"),
    does("raise OSError(2, 'No such file', 'judge.bin')", "judge.bin", claim="a reward that misses a file"),
    does("raise BrokenPipeError", "BrokenPipeError", claim="a reward that raises a broken pipe"),
    does("return record['merit']", "KeyError", claim="a reward that wants a field, to evaluate by", command=EVAL),
    does("return record['merit']", "KeyError", claim="a reward that wants a field, to judge by", command=JUDGED),
    does("return record['merit']", "KeyError", claim="a reward that wants a field, of the doctor", command=DOCTOR),
    does("raise SystemExit", "SystemExit", claim="a reward that exits, to evaluate by", command=EVAL),
]
ARITIES = [
    function("def f():\n    return 0.5\n", "TypeError", claim="a reward of no parameter"),
    function("def f(response):\n    return 0.5\n", "TypeError", claim="a reward of one parameter"),
    function("def f(prompt, response):\n    return 0.5\n", "TypeError", claim="a reward of two parameters"),
    function("def f(a, b, c, d):\n    return 0.5\n", "TypeError", claim="a reward of four parameters"),
    function("def f(*, prompt, response, record):\n    return 0.5\n", "TypeError", claim="a reward of names alone"),
    function("f = int\n", claim="a reward that is a type of Python"),
]
REWARDS = [*SPECS, *RETURNS, *RAISES, *ARITIES]
