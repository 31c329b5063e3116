"""LP-FT: first a linear probe, solved; then fine-tuning of everything from that head.

    1. head = argmin over linear g of the regularised cross entropy of g(f_p(x)), f_p the pretrained encoder
    2. L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) ), f from f_p, g from that head

Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022 (arXiv 2202.10054); official code AnanyaKumar/transfer_learning at 13c3e2b.
Step 1 is `train.head_init: bank`: `drtune/training/head_start.py` solves it before the first step.
"""

from drtune.training.contract import Method


class LPFT(Method):
    """Cross entropy on all parameters, from the solved head on."""
