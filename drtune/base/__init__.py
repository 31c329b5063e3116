"""What everything stands on: faults, files, seeds, the numeric state."""
