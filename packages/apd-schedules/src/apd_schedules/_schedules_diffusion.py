"""The noise schedules of two families of published diffusion models: DDPM's betas and EDM's sigmas.

Both know their level from either end, as the schedules of rectified flow do: see ``_schedules``.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ._schedules import LIMIT, check_ends, level_between, mix, sigmoid


@dataclass(frozen=True, slots=True)
class VPBeta:
    """DDPM's linear betas (Ho et al. 2020, arXiv:2006.11239) in continuous time (Song et al. 2021, arXiv:2011.13456).

    ``log alpha² = -B(t)`` with ``B = beta_min t + (beta_max - beta_min) t² / 2``, so that ``log_snr = -log(expm1(B))``.
    The discrete model of T steps has betas ``beta_min / T … beta_max / T``.

    At time 0 the log-SNR is infinite. The schedule begins where it is ``clean``, by default near Song's time 1e-5, and
    the level is squeezed into what is left of the time.

    Args:
        beta_min, beta_max: rate at which the signal decays at time 0 and 1, ``0 <= beta_min <= beta_max``.
        clean: log-SNR at level 0, in nats.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    clean: float = 13.8

    def __post_init__(self) -> None:
        if not (0 <= self.beta_min <= self.beta_max and 0 < self.beta_max <= 2 * LIMIT):
            raise ValueError(
                f"betas must satisfy 0 <= beta_min <= beta_max, above 0 and up to {2 * LIMIT:g}, "
                f"got beta_min={self.beta_min}, beta_max={self.beta_max}"
            )
        check_ends(self.clean, self.noise)

    @property
    def noise(self) -> float:
        """Log-SNR at level 1, in nats: ``-log(expm1((beta_min + beta_max) / 2))``."""
        return -math.log(math.expm1((self.beta_min + self.beta_max) / 2))

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        decay = math.log1p(math.exp(-self.clean))
        time = mix(2 * decay / (self.beta_min + self._rate(decay)), 1.0, t)
        return -(time * (self.beta_min + (self.beta_max - self.beta_min) / 2 * time)).expm1().log()

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The share of the time: between decays ``B`` and ``C`` lies ``2 (B - C) / (beta(B) + beta(C))``.

        The decay is ``softplus(-l)``, and ``B - C = log1p(-exp(-l) sigmoid(k) expm1(l - k))`` for log-SNRs ``l < k``.
        """
        log_snr = log_snr.clamp(self.noise, self.clean)
        rate = (self.beta_min**2 - 2 * (self.beta_max - self.beta_min) * F.logsigmoid(log_snr)).sqrt()
        since = (-(-log_snr).exp() * sigmoid(self.clean) * (log_snr - self.clean).expm1()).log1p()
        until = (-math.exp(-self.noise) * log_snr.sigmoid() * (self.noise - log_snr).expm1()).log1p()
        p = since / (rate + self._rate(math.log1p(math.exp(-self.clean))))
        q = until / (rate + self.beta_max)
        return level_between(p, q)

    def _rate(self, decay: float) -> float:
        """Beta, as a function of ``B``; its square is linear in it."""
        return math.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * decay)


@dataclass(frozen=True, slots=True)
class EDM:
    """The sigmas of Karras et al. 2022 (arXiv:2206.00364, eq. 5): ``sigma^(1 / rho)`` is linear in level.

    ``log_snr = -2 log sigma``, with ``sigma`` the noise on data of unscaled signal. ``level = i / (N - 1)``, counted
    from the clean end, gives their sequence of N steps.

    Args:
        sigma_min, sigma_max: sigma at level 0 and 1.
        rho: at least 1. 1 is linear in sigma; the larger, the more of the levels are near ``sigma_min``.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not math.exp(-LIMIT / 2) <= self.sigma_min < self.sigma_max <= math.exp(LIMIT / 2):
            raise ValueError(
                f"sigmas must satisfy sigma_min < sigma_max, within exp(±{LIMIT / 2:g}), "
                f"got sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )
        if not 1 <= self.rho <= 1e3:
            raise ValueError(f"rho must be from 1, linear in sigma, to 1000, nearly geometric, got {self.rho}")

    @property
    def clean(self) -> float:
        """Log-SNR at level 0, in nats."""
        return -2 * math.log(self.sigma_min)

    @property
    def noise(self) -> float:
        """Log-SNR at level 1, in nats."""
        return -2 * math.log(self.sigma_max)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        # From the clean end, and not log of an interpolated sigma^(1 / rho): that would lose log10(rho) digits.
        growth = math.expm1((self.clean - self.noise) / (2 * self.rho))
        return self.clean - 2 * self.rho * (growth * t).log1p()

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """``(sigma^(1 / rho) - sigma_min^(1 / rho)) / (sigma_max^(1 / rho) - sigma_min^(1 / rho))``."""
        log_snr = log_snr.clamp(self.noise, self.clean)
        p = -((log_snr - self.clean) / (2 * self.rho)).expm1()
        q = ((log_snr - self.noise) / (2 * self.rho)).expm1()
        return level_between(p, q)
