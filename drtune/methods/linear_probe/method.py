"""Linear probe: the encoder stays as pretrained (eval mode, no gradient), the head alone is trained.

L = -(1/B) sum_i log softmax_{y_i}( g(f_p(x_i)) ),   f_p frozen
"""

from drtune.training.contract import Method


class LinearProbe(Method):
    """Cross entropy on the head's parameters."""

    trains = "head"
