"""minirlhf: pretraining, SFT, reward models, PPO and their evaluation for a GPT, from scratch."""

import os
import signal
import sys
from pathlib import Path

# While torch is being imported, Ctrl-C ends a program of ours without a word, not in forty lines; then `run_script`
# takes over. Who imports the package in a program of their own keeps Python's handler.
module = sys.argv[0] == "-m" and "minirlhf" in str(sys.orig_argv)
script = sys.argv[0].endswith(".py") and Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parents[1]
if (module or script) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
