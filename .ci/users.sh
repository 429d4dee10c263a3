#!/usr/bin/env bash
# Three users walk the chapters as they are written: each command must end with 0, and its minutes are printed. In an
# environment of the packages of requirements.txt, in a fresh clone.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet . "$work/clone"
cd "$work/clone"

walk() { python .ci/readme.py "$@"; }
page() { # it is whole, and asks for no script and no network
    grep -q "</html>" "$1"
    ! grep -Eq "<script|(src|href)=.?https?:" "$1"
    echo "ok               $1"
}

echo "The student: the tour, its curves, its page"
walk README.md "One minute"
page out/tour/ppo/log.html
page out/tour/eval/report.html
walk minirlhf/tools/README.md "Curves"

echo "The engineer: a table and conversations, an own reward, stop and resume, chat, export"
walk minirlhf/tasks/README.md "A table and conversations, to the end"
status=0
timeout -s INT 12 python train_ppo.py --init out/larger/sft --prompts table.csv --map prompt=question,response=answer \
    --reward mine.py:right --iterations 300 --max-new 8 --out out/larger/stopped > "$work/said" 2>&1 || status=$?
grep "go on with --resume" "$work/said" # timeout's own status is 124
python train_ppo.py --resume --out out/larger/stopped > "$work/said" 2>&1 || { cat "$work/said"; exit 1; }
echo "ok               stopped by Ctrl-C (status $status), and resumed to its end"

echo "The researcher: two algorithms, an ablation, three seeds on a task of their own; a table and curves"
walk minirlhf/rl/README.md "Compare algorithms on a task of your own"
