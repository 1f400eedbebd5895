"""The divergences by name, and what each needs of a teacher; torch-free, so that study files are checked without it."""

DIVERGENCES = ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl")


def is_reverse_kl(divergence: str, *, beta: float, skew: float) -> bool:
    """Whether a divergence is the reverse KL, by its own name or as the end of another's range.

    It is infinite where the student has mass and a truncated teacher none; all others are defined there.
    """
    ends = {"reverse-kl": True, "jsd": beta == 1, "skew-reverse-kl": skew == 0}
    return ends.get(divergence, False)
