"""A TensorBoard event file that says nothing but its scalars: no clock, no host name, no process id."""

from __future__ import annotations

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

# TensorBoard reads every file with "tfevents" in its name.
NAME = "events.out.tfevents.imgsynth"


class Board:
    """Scalars over steps in ``folder``, which holds no other event file.

    TensorFlow's event format, version 2. Its usual writers put the host name into the file's name and the time of day
    into every event; the time that a step takes follows the number of patients drawn, which is private. Here the
    "time" of an event is its step, so that the file is a function of the scalars alone.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._records = RecordWriter((folder / NAME).open("wb"))
        self._records.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())

    def add(self, name: str, value: float, step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        self._records.write(Event(wall_time=float(step), step=step, summary=summary).SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()
