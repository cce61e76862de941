"""A small classifier of the embedded animals, to ask whether a drawn animal is recognised as its class."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from apd_train import hold_out, load_animals28


class AnimalClassifier(nn.Module):
    """28×28 grey images with values in [-1, 1] to logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(1, 32),
            *_block(32, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            *_block(64, 64),
            nn.MaxPool2d(2),
            *_block(64, 128),
            *_block(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(128, 10),
        )

    def forward(self, images: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        return self.layers(images)


def train_classifier(epochs: int = 8, batch: int = 128, seed: int = 0) -> tuple[AnimalClassifier, float]:
    """A classifier trained on the images that models train on, and its accuracy on the held-out ones."""
    training, held_out = hold_out(load_animals28(), 500)
    images, labels = training.squares(), training.labels
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights and dropout
        model = AnimalClassifier()
        steps = len(images) // batch
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * steps)
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator)[: steps * batch]
            for rows in order.split(batch):
                some = distort(images[rows], generator)
                loss = F.cross_entropy(model(some), labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    model.eval()
    return model, accuracy(model, held_out.squares(), held_out.labels)


@torch.no_grad()
def accuracy(model: AnimalClassifier, images: Float[Tensor, "b 1 28 28"], labels: Int[Tensor, " b"]) -> float:
    """Share of images whose most likely class is their label."""
    return (model(images).argmax(1) == labels).float().mean().item()


def distort(images: Float[Tensor, "b c h w"], generator: Generator) -> Float[Tensor, "b c h w"]:
    """Mirrored, turned by up to 9 degrees, scaled by up to 15 %, shifted by up to an eighth."""
    draw = lambda *shape: 2 * torch.rand(len(images), *shape, generator=generator) - 1
    angle, scale = draw() * math.radians(9), 1 + 0.15 * draw()
    mirror = draw().sign()
    theta = torch.stack(
        [
            torch.stack([mirror * scale * angle.cos(), -scale * angle.sin(), draw() / 8], -1),
            torch.stack([mirror * scale * angle.sin(), scale * angle.cos(), draw() / 8], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [*images.shape], align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # black outside


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
