"""Fine-tuning methods, one folder each; start at `drtune/training/contract.py`, then `dr_tune/method.py`."""
