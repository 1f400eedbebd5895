"""What a run's optimiser is given: its recipe as it stands, or carried over from the batch that it was tuned at."""

from distillaw.large_batch.rules import Settings, scale_settings
from distillaw.runs.spec import TrunkSpec
from distillaw.train.optim import BETAS, EPS


def own_settings(spec: TrunkSpec) -> Settings:
    """Peak rate, decay, betas and epsilon at the run's own batch.

    Raises:
        ConfigError: an unknown rule, an absurd ratio of batches, or betas that leave (0, 1).
    """
    recipe = spec.recipe
    tuned = Settings(
        batch=recipe.reference_batch_tokens or spec.batch_tokens, peak_lr=spec.peak_lr,
        weight_decay=recipe.weight_decay, beta1=BETAS[0], beta2=BETAS[1], eps=EPS,
    )  # fmt: skip
    if not recipe.reference_batch_tokens:
        return tuned
    return scale_settings(
        tuned, batch=spec.batch_tokens, rate=recipe.rate_rule, betas=recipe.beta_rule, decay=recipe.decay_rule
    )
