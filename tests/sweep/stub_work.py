"""Work that processes of cells can import by name: it ends well, fails or dies, as the experiment's name says."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from imgsynth.schema import Config
from imgsynth.types import Fault, InputError


def work(config: Config) -> None:
    print("worked on", config.experiment, os.environ.get("SWEEP_TEST"), multiprocessing.get_start_method())
    if config.experiment == "faulty":
        raise InputError(Fault("data.root", "a hole", "a folder", "dig"), Fault("trainer.steps", "0", "1", "2"))
    if config.experiment == "broken":
        raise ZeroDivisionError("by nothing")
    if config.experiment == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(str(config.output)).mkdir(parents=True)
