"""A command in a process of its own that has imported everything already, since a fresh one spends seconds on that.

That a fresh one works too is shown once for each kind of command, by a true subprocess.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import imgsynth.pipeline  # noqa: F401  what every verb imports, and its processes then have
from imgsynth.cli import main


def imgsynth_forked(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``imgsynth ARGUMENTS``: its exit code and what it wrote to stdout and stderr."""
    return _forked(main, ["imgsynth", *arguments], cwd)


def script_forked(script: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``python SCRIPT ARGUMENTS``, the same way."""
    return _forked(lambda: runpy.run_path(str(script), run_name="__main__"), [str(script), *arguments], cwd)


def _forked(command: Callable[[], object], argv: list[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os._exit(_exit_code_of(command, argv, cwd, out.fileno(), err.fileno()))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())


def _exit_code_of(command: Callable[[], object], argv: list[str], cwd: Path | None, out: int, err: int) -> int:
    """What Python does with a program's end, here before pytest's own code could run in the child."""
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr, sys.argv = open(1, "w"), open(2, "w"), argv  # noqa: SIM115  until the process ends
        os.chdir(cwd or Path.cwd())
        command()
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1
