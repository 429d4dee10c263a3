#!/usr/bin/env bash
# On a machine with a CUDA GPU and the packages of requirements.txt, in under 5 minutes: the tests that need a GPU, the
# bench, and training by one process of torchrun. Prints one table; logs and JSON are in $OUT, or out/gpu.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
device=${DEVICE:-cuda} # cpu tries the script itself
if [ "$device" = cuda ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: torch sees no CUDA device; run it where there is one" >&2
    exit 2
fi
mkdir -p "$out" && : > "$out/steps" || exit 1
failed=0

step() { # a name, the most seconds, a command, whose stdout goes to NAME.out
    local start=$SECONDS said=ok
    timeout "$2" "${@:3}" > "$out/$1.out" 2> "$out/$1.err" || said="FAILED with status $?"
    [ "$said" = ok ] || { failed=1 && tail -n 20 "$out/$1.out" "$out/$1.err" >&2; }
    printf '%-9s %4d s  %s\n' "$1" $((SECONDS - start)) "$said" >> "$out/steps"
}

step tests 60 python -m pytest -q -k cuda tests/test_cuda.py tests/harness/test_machine.py
step bench 150 python -m minirlhf.tools.bench --device "$device" --sizes ${SIZES:-small baby smollm2} --json
few="--task reviews --device $device --overwrite"
one="python -m torch.distributed.run --standalone --nproc-per-node 1"
step sft 40 $one train_sft.py $few --base-steps 20 --steps 20 --out "$out/run"
step ppo 40 $one train_ppo.py $few --init "$out/run/sft" --iterations 3 --out "$out/run/ppo"

python - "$out" "$device" <<'PYTHON'
import json, sys, torch
from pathlib import Path
out = Path(sys.argv[1])
name = torch.cuda.get_device_name() if sys.argv[2] == "cuda" else "CPU"
print(f"{name}, torch {torch.__version__}\n\n{(out / 'steps').read_text()}")
if text := (out / "bench.out").read_text():
    told = json.loads(text.splitlines()[-1])
    print(f"{told['dtype']}, peak {told['peak'] / 1e12:.3g} TFLOP/s\n")
    print("| size | row | median | min to max | unit | share of the peak | GB |\n|---|---|--:|--:|---|--:|--:|")
    for x in told["rows"]:
        least, most = (f"{x[key]:,.4g}" if x[key] < 1000 else f"{x[key]:,.0f}" for key in ("min", "max"))
        middle = f"{x['median']:,.4g}" if x["median"] < 1000 else f"{x['median']:,.0f}"
        cells = x["size"], x["row"], middle, f"{least} to {most}", x["unit"], f"{x['share']:.0%}", f"{x['peak_gb']:.2f}"
        print("| " + " | ".join(cells) + " |")
PYTHON
[ "$failed" = 0 ]
