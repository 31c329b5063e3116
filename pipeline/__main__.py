"""The door to the stages: `python -m pipeline download | extract | train | evaluate`."""

import signal
import sys

from drtune.runs.runner import run_stage

if __name__ == "__main__":
    # before and after the work a Ctrl-C ends the process by the signal: Python would swallow a late one at
    # its own end, and `dvc repro` would go on with the next stage
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_stage(sys.argv[1:])
