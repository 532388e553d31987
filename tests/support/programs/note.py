"""`note`: says `ready`, and the name of every signal it gets; ends on SIGTERM with status 7.

With NOTE_ON_TERM, a command line, it runs that first and says what it printed.
"""

import os
import shlex
import signal
import subprocess
import sys

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    print("ready", flush=True)
    while True:
        signum = signal.sigwait(SIGNALS)
        print(f"got {signal.Signals(signum).name}", flush=True)
        if signum == signal.SIGTERM:
            if on_term := os.environ.get("NOTE_ON_TERM"):
                subprocess.run(shlex.split(on_term), check=True)
            sys.exit(7)


main()
