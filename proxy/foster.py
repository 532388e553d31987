"""The process between a generation of the proxy and the one that follows: `python foster.py PIPE PROGRAM ARGUMENT…`

systemd looks at whose child a process is when it is told that this is the service's main process from now on
(MAINPID=). One that is not its own it does not wait for, ever after: a restart kills it with all that is under way. A
generation that the one before started is such a process, even when that one is gone.

So there is one in between. It writes the number of the new generation and a newline to PIPE, and ends as that ends.
When all is well the old generation kills it, and only then tells systemd, whose child the new one has become.

It is run by its path, and imports nothing of ours.
"""

import os
import sys


def main() -> None:
    """The program."""
    pipe, program, *arguments = sys.argv[1:]
    pid = os.posix_spawn(program, arguments, os.environ)
    os.write(int(pipe), b"%d\n" % pid)
    os.close(int(pipe))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
