"""What a guess cost."""

from apd_schedules import Posterior


def token_evaluations(posterior: Posterior) -> int:
    """Tokens of a sample that went through the network: all at each evaluation, unless the posterior says otherwise."""
    if posterior.token_evaluations is None:
        return posterior.evaluations * posterior.mean.shape[-2]
    return posterior.token_evaluations
