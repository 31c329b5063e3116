"""The door to the stages: `python -m pipeline download | extract | train | evaluate`."""

import sys

from drtune.runs.runner import run_stage

if __name__ == "__main__":
    run_stage(sys.argv[1:])
