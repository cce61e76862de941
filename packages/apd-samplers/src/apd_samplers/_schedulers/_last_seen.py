"""What was last seen of each token."""

from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import Posterior


class LastSeen(NamedTuple):
    """The guess of each token that was last asked for, and the log-SNR at which it was.

    Args:
        log_snr: of every token then, in float64.
        posterior: put together of those guesses.
    """

    log_snr: Float[Tensor, "*batch n 1"]
    posterior: Posterior

    def renewed(self, asked: Bool[Tensor, "*batch n 1"], now: "LastSeen") -> "LastSeen":
        """With what is seen now of the tokens that were asked for; of others nothing is looked at."""
        old, new = self.posterior, now.posterior
        log_var = new.log_var
        if log_var is not None and old.log_var is not None:
            log_var = log_var.where(asked[..., 0], old.log_var)
        posterior = replace(new, mean=new.mean.where(asked, old.mean), log_var=log_var)
        return LastSeen(now.log_snr.where(asked, self.log_snr), posterior)

    def now(
        self, error: Float[Tensor, "*batch n 1"], log_snr: Float[Tensor, "*batch n 1"]
    ) -> Float[Tensor, "*batch n 1"]:
        """``v / (1 + v (s - s_seen))``: to what the error that was seen has fallen by the token's own way since.

        As that of a normal variable does. What its neighbours have told since is not in it.
        """
        return error / (1 + error * (log_snr.exp() - self.log_snr.exp()))
