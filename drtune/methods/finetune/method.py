"""Plain fine-tuning: cross entropy on the whole network; L2 comes from `train.weight_decay`.

L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) )
"""

from drtune.training.contract import Method


class FineTune(Method):
    """The objective that every method begins with, and nothing else."""
