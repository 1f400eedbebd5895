"""What a divergence needs of a teacher; torch-free, so that a study file can be checked without it."""


def is_reverse_kl(divergence: str, *, beta: float, skew: float) -> bool:
    """Whether a divergence is the reverse KL, by its own name or as the end of another's range.

    It is infinite where the student has mass and a truncated teacher none; all others are defined there.
    """
    return (
        divergence == "reverse-kl"
        or (divergence == "jsd" and beta == 1)
        or (divergence == "skew-reverse-kl" and skew == 0)
    )
