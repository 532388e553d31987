"""What ends a command: one clear line for the operator, and the exit status that scripts see.

0 well · 1 a problem was found · 2 wrong usage or configuration
"""


class Problem(Exception):
    """Something is wrong outside the program: what, with whom, and what to do about it, in one line."""

    exit_status = 1


class Misuse(Problem):
    """What was asked for cannot be meant: a wrong flag, a bad setting."""

    exit_status = 2
