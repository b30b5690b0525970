"""Writes testdata/golden/report/events.tfevents with TensorBoard's own record writer and protocol
buffers.

Needs the package tensorboard (2.21.0 wrote the stored file), not nnU-Net.

With a folder as argument it instead prints, as JSON, the scalars that TensorBoard itself reads from
that folder: tag -> list of [step, wall time, value].
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

GOLDEN = Path(__file__).resolve().parents[2] / "testdata" / "golden" / "report"


def write(path):
    scalars = lambda **values: Summary(
        value=[Summary.Value(tag=k.replace("__", "/"), simple_value=v) for k, v in values.items()]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        w = RecordWriter(f)
        for e in (
            Event(wall_time=1700000000.5, file_version="brain.Event:2"),
            Event(
                wall_time=1700000001.25,
                step=0,
                summary=scalars(loss__train=0.25, loss__val=float("nan")),
            ),
            Event(wall_time=1700000002.0, step=300, summary=scalars(lr=0.0)),
            Event(
                wall_time=1700000003.0, step=300, session_log=SessionLog(status=SessionLog.START)
            ),
        ):
            w.write(e.SerializeToString())
        w.flush()


def read(folder):
    a = EventAccumulator(folder)
    a.Reload()
    return {
        tag: [[e.step, e.wall_time, e.value] for e in a.Scalars(tag)] for tag in a.Tags()["scalars"]
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(read(sys.argv[1])))
    else:
        write(GOLDEN / "events.tfevents")
