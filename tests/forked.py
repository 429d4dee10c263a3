"""A program in a process of its own that begins in milliseconds: a fresh one would import torch for a second."""

import os
import signal
import sys


class Forked:
    """Like `subprocess.Popen` of a Python program: a copy of this process in which the program runs, with pipes."""

    def __init__(self, program: str, *argv: str) -> None:
        (stdin, writer), (reader, stdout) = os.pipe(), os.pipe()
        self.pid, self.returncode = os.fork(), None
        if not self.pid:
            status = 1
            try:
                os.dup2(stdin, 0), os.dup2(stdout, 1)
                os.closerange(3, 256)  # pipes of others, too
                sys.stdin, sys.stdout, sys.argv = open(0), open(1, "w", encoding="utf-8"), ["-c", *argv]
                exec(program, {"__name__": "__main__"})
                sys.stdout.flush()
                status = 0
            finally:
                os._exit(status)
        os.close(stdin), os.close(stdout)
        self.stdin, self.stdout = open(writer, "w"), open(reader, encoding="utf-8")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, None]:
        """What is left of stdout, when the process has ended."""
        said = self.stdout.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.returncode = status
        self.stdin.close(), self.stdout.close()
        return said, None
