"""Compiled models against eager ones, for a process of its own: ``python compiled_checks.py '{"one_way": true}'``."""

import json
import sys

import torch
from torch import Tensor

from apd_models import Levels
from apd_schedules import NoiseMap, RectifiedFlow
from dit_cases import inputs, random_model


def main() -> None:
    torch.set_num_threads(1)
    options = json.loads(sys.argv[1])
    whole = options.pop("whole", True)
    model = random_model(**options).float()
    z, noise, label = inputs(few=4)
    z, noise = z.float(), NoiseMap(noise.log_snr.float())
    grid = RectifiedFlow()(torch.arange(1, 5) / 4)
    index = (noise.log_snr - grid).abs().argmin(-1)

    def run(z: Tensor, index: Tensor) -> Tensor:
        return model(z, noise, label, modulations=model.modulations(Levels(grid, index), label)).mean

    # Given the modulations there is no graph break; values and gradients.
    weights = list(model.parameters())
    eager = run(z, index)
    torch.testing.assert_close(eager, model(z, noise, label).mean, rtol=1e-4, atol=1e-4)
    if whole:
        compiled = torch.compile(run, fullgraph=True)(z, index)
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
        for a, b in zip(*(torch.autograd.grad(each.sum(), weights) for each in (compiled, eager)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        print("whole")
        return

    # Blocks are compiled in place: names of weights stay, and one compilation serves all blocks.
    names = list(model.state_dict())
    for block in model.blocks:
        block.compile(fullgraph=True)
    torch.testing.assert_close(model(z, noise, label).mean, eager, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == names
    print("blocks")


if __name__ == "__main__":
    main()
