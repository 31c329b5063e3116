"""Every figure that needs a GPU, by one command: `python -m benchmarks.gpu --minutes 8 --out DIR`."""
