"""Early and clear errors for masks and strengths."""

from torch import Tensor


def check_fits(what: str, value: Tensor, z: Tensor) -> None:
    """Raises ValueError if ``value`` is not one number for each token of ``z``, or for each element."""
    *batch, n, e = value.shape if value.ndim > 1 else (0, 0)
    fits = n == z.shape[-2] and e in (1, z.shape[-1]) and len(batch) <= z.ndim - 2
    lead = z.shape[z.ndim - 2 - len(batch) : z.ndim - 2]
    if not fits or any(size not in (1, of) for size, of in zip(batch, lead, strict=True)):
        raise ValueError(
            f"{what} of shape {tuple(value.shape)} does not fit tokens of shape {tuple(z.shape)}: it must broadcast "
            "against them and have their number of tokens"
        )
