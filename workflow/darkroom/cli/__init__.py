"""The `darkroom` command: a file a verb.

Takes an argument list. Gives an exit code: 0 done, 1 failed, 2 the input is wrong. Never holds logic of its own.
"""

from darkroom.cli.command import run

__all__ = ["run"]
