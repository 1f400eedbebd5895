"""The divergences by the formulas of the papers."""

import torch


def divergence_of(q, p, *, divergence="forward-kl", beta=0.5, skew=0.1):
    """Per token, from the student's probabilities q and the teacher's p."""

    def kl(a, b):
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(-1)

    m = beta * p + (1 - beta) * q
    return {
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "jsd": lambda: beta * kl(p, m) + (1 - beta) * kl(q, m),
        "skew-kl": lambda: kl(p, skew * p + (1 - skew) * q),
        "skew-reverse-kl": lambda: kl(q, (1 - skew) * p + skew * q),
    }[divergence]()
