"""What ends a command: one clear line for the operator, and the exit status that scripts see.

0 well · 1 a problem was found · 2 wrong usage or configuration
"""

import errno


class Problem(Exception):
    """Something is wrong outside the program: what, with whom, and what to do about it, in one line."""

    exit_status = 1


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there"
    if error.errno == errno.EROFS:
        return "have it mounted for writing"
    return otherwise


class Misuse(Problem):
    """What was asked for cannot be meant: a wrong flag, a bad setting."""

    exit_status = 2
