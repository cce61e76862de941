"""Does a method sample the conditional law? Inpainting where that law is known in closed form.

uv run python benchmarks/inpainting_exact.py docs/results/inpainting-exact.json

The data are a mixture of four Gaussians on a 4 × 4 grid of tokens: stripes, columns, a small and a large checkerboard,
strong in the right half and weak in the left. The left half is shown. Seen clean, it moves the odds of the four from
.10 .20 .30 .40 to .29 .45 .10 .16; seen noisy, it hardly does: a model that sees it at the noise level of the rest
decides between them before it can know.

All methods have the same exact denoiser, schedule and image. What is compared with the closed form is the mean and the
covariance of the completions, and how often each component comes up (chi-square, three degrees of freedom).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from apd_samplers import DDIM, DPMSolverPP2M, Heun, NoiseSource, Sampled, Solver, inpaint, repaint, replacement
from apd_schedules import GaussianMixtureDenoiser, RectifiedFlow, gaussian_texture, synchronous

SIDE = 4
TOKENS = SIDE**2
SEED = 0
COMPLETIONS = 2000
SCHEDULE = RectifiedFlow()
PATH = synchronous(TOKENS)


@dataclass(frozen=True, slots=True)
class Score:
    """Args:
    mean_error: root mean square error of the mean over the unknown tokens.
    cov_error: of the covariance, relative, in Frobenius' norm.
    frequencies: of the components.
    chi_square: of the frequencies.
    p: probability of a larger one under the conditional law.
    """

    mean_error: float
    cov_error: float
    frequencies: list[float]
    chi_square: float
    p: float


@dataclass(frozen=True, slots=True)
class Problem:
    """An image of which some tokens are known, and the law that it is from."""

    data: GaussianMixtureDenoiser
    x: Float[Tensor, "n 1"]
    known: Bool[Tensor, "n 1"]

    @property
    def law(self) -> GaussianMixtureDenoiser:
        """Of the unknown tokens given the known ones."""
        return self.data.conditional(self.x, self.known)

    def score(self, completions: Float[Tensor, "b u"]) -> Score:
        """How far completions, their unknown tokens alone, are from the law.

        A completion counts for its likeliest component. Of a million draws from the law, the shares found so were
        within 3e-4 of the weights, which is the error of that many draws.
        """
        law, count = self.law, len(completions)
        each = MultivariateNormal(law.means.flatten(1), law.covs).log_prob(completions[:, None]) + law.weights.log()
        found = each.argmax(-1).bincount(minlength=len(law.weights)).double()
        expected = count * law.weights
        chi_square = ((found - expected).square() / expected).sum()
        freedom = torch.tensor(len(law.weights) - 1.0, dtype=torch.float64)
        return Score(
            (completions.mean(0) - law.mean.flatten()).square().mean().sqrt().item(),
            ((completions.mT.cov() - law.cov).norm() / law.cov.norm()).item(),
            (found / count).tolist(),
            chi_square.item(),
            torch.special.gammaincc(freedom / 2, chi_square / 2).item(),
        )


def problem() -> Problem:
    """Given the left half, the four components have .29, .45, .10 and .16; without it, .1, .2, .3 and .4."""
    row, column = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).mT
    patterns = 1.0 - 2 * (torch.stack([row, column, row + column, row // 2 + column // 2]) % 2).double()
    left = column < SIDE // 2
    means = (patterns * torch.where(left, 0.15, 0.4))[..., None]
    scales = torch.tensor([0.04, 0.05, 0.06, 0.08], dtype=torch.float64)
    covs = scales[:, None, None] * gaussian_texture((SIDE, SIDE), length=1.0, grain=0.2).cov
    data = GaussianMixtureDenoiser(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), means, covs)
    shown = torch.einsum("k,knd->nd", torch.tensor([0.4, 0.3, 0.3, 0.0], dtype=torch.float64), means)
    return Problem(data, shown, left[:, None])


def gaussian_noise(seed: int) -> NoiseSource:
    generator = Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


Row = dict[str, Any]
SOLVERS: dict[str, Callable[[Problem, NoiseSource], Solver[Any]]] = {
    "DDIM": lambda task, noise: DDIM(),
    "ancestral": lambda task, noise: DDIM(1.0, noise),
    "DPM-Solver++(2M)": lambda task, noise: DPMSolverPP2M(),
    "Heun": lambda task, noise: Heun(task.data),
}


def native(task: Problem, solver: str, steps: int, count: int, seed: int = SEED) -> Sampled:
    """Inpainting with a level for each token."""
    noise = gaussian_noise(seed)
    return inpaint(
        task.data,
        SOLVERS[solver](task, noise),
        task.x,
        task.known,
        path=PATH,
        schedule=SCHEDULE,
        steps=steps,
        noise=noise,
        candidates=count,
    ).sampled


def replaced(task: Problem, solver: str, steps: int, count: int, seed: int = SEED) -> Sampled:
    """The known tokens at the level of the rest, put back after each step."""
    noise = gaussian_noise(seed)
    return replacement(
        task.data,
        SOLVERS[solver](task, noise),
        task.x.expand(count, TOKENS, 1),
        task.known,
        path=PATH,
        schedule=SCHEDULE,
        steps=steps,
        noise=noise,
    )


def repainted(task: Problem, steps: int, jump: int, resamples: int, count: int) -> Sampled:
    """The same with resampling."""
    return repaint(
        task.data,
        task.x.expand(count, TOKENS, 1),
        task.known,
        schedule=SCHEDULE,
        noise=gaussian_noise(SEED),
        steps=steps,
        jump=jump,
        resamples=resamples,
    )


def rows(task: Problem, count: int) -> list[Row]:
    """Every method at its settings."""

    def row(method: str, settings: dict[str, int], result: Sampled) -> Row:
        score = asdict(task.score(result.tokens[:, ~task.known[:, 0], 0]))
        return {"method": method, **settings, "evaluations": result.evaluations, **score}

    exact = asdict(task.score(task.law.sample(count, Generator().manual_seed(SEED))[..., 0]))
    table: list[Row] = [{"method": "draws from the law itself", "evaluations": 0, **exact}]
    for name in SOLVERS:
        for steps in (10, 25, 50, 100):
            table.append(row(f"native, {name}", {"steps": steps}, native(task, name, steps, count)))
    for name in ("DDIM", "ancestral"):
        for steps in (50, 250):
            table.append(row(f"replacement, {name}", {"steps": steps}, replaced(task, name, steps, count)))
    for steps, jump, resamples in ((50, 1, 10), (50, 5, 5), (50, 10, 10), (50, 10, 40), (250, 10, 10)):
        settings = {"steps": steps, "jump": jump, "resamples": resamples}
        table.append(row("RePaint", settings, repainted(task, steps, jump, resamples, count)))
    return table


def markdown(table: list[Row]) -> str:
    lines = [
        "| method | steps | evaluations | mean, error | covariance, error | frequencies | chi-square | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        way = f", j={row['jump']}, r={row['resamples']}" if "jump" in row else ""
        often = " ".join(f"{share:.3f}"[1:] for share in row["frequencies"])
        p = f"{row['p']:.2g}" if row["p"] > 1e-12 else "< 1e-12"
        lines.append(
            f"| {row['method']}{way} | {row.get('steps', '')} | {row['evaluations'] or ''} | {row['mean_error']:.3f} | "
            f"{row['cov_error']:.3f} | {often} | {row['chi_square']:.1f} | {p} |"
        )
    return "\n".join(lines)


def measure(completions: int = COMPLETIONS) -> dict[str, Any]:
    """What the result file holds."""
    task = problem()
    return {
        "completions": completions,
        "seed": SEED,
        "torch": torch.__version__,
        "schedule": repr(SCHEDULE),
        "weights": task.data.weights.tolist(),
        "conditional_weights": task.law.weights.tolist(),
        "rows": rows(task, completions),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} RESULT.json")
    torch.set_num_threads(1)
    measured = measure()
    Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[1]).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(markdown(measured["rows"]))
