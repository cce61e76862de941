"""Training of the error head: with the model, which does not feel it, or afterwards, on a model that is left alone."""

import json
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Generator, nn

from apd_models import DiT, DiTConfig, Patchify, Pretrained, calibration, error_nll, from_pretrained, save_pretrained
from apd_samplers import Draw, loss
from apd_schedules import NoiseMap, RectifiedFlow, corrupt
from apd_train import (
    ConfigError,
    DataError,
    ImageSet,
    Progress,
    RunFolder,
    TrainConfig,
    Trained,
    fit,
    fit_error_head,
    hold_out,
    load_animals28,
    read_metrics,
)
from apd_train._held_out import HeldOutLoss
from apd_train._model import clipped_apart, make_model, make_optimizers
from apd_train._step import LossModule
from tiny_runs import TINY, some_animals


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return some_animals()


def tiny(**options: object) -> TrainConfig:
    return TrainConfig(**{**TINY, **options})  # pyrefly: ignore


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def run(images: ImageSet, path: Path, **options: object) -> Trained:
    return fit(tiny(**options), images, RunFolder(path), fabric())


def batch(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Three samples of four tokens; of the first all are noisy, of the second one, of the third none."""
    generator = Generator().manual_seed(seed)
    x, eps = torch.randn(2, 3, 4, 196, generator=generator)
    level = 0.2 + 0.6 * torch.rand(3, 4, 1, generator=generator)
    level[1, 1:], level[2] = 0, 0
    return x, eps, RectifiedFlow()(level), torch.where(level > 0, level**-2, 0.0), torch.tensor([0, 5, 10])


def random_model(images: ImageSet) -> DiT:
    """With an error head; weights that start at zero are no longer."""
    model = make_model(tiny(error_head=True), images, Patchify(28, 28, 1, 14))
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def test_the_losses_are_the_squared_error_and_the_likelihood_of_noisy_tokens(images: ImageSet) -> None:
    model = random_model(images)
    x, eps, log_snr, weight, label = batch()
    values, _ = LossModule(model)(x, eps, log_snr, weight, label)
    noise = NoiseMap(log_snr)
    expected = loss(model, x, Draw(noise, weight), eps, label=label).mean() / (4 * 196)
    assert torch.equal(values[0], expected)
    posterior = model(corrupt(x, noise, eps), noise, label=label)
    assert posterior.log_var is not None
    each = error_nll(posterior.log_var, posterior.mean, x)
    torch.testing.assert_close(values[1], (each[0].mean() + each[1, 0]) / 3)
    other = x.clone()
    other[2] += 1  # clean context: what it holds is no error
    again, _ = LossModule(model)(other, eps, log_snr, weight, label)
    assert torch.equal(again, values)


def test_each_loss_has_gradients_of_its_own(images: ImageSet) -> None:
    model = random_model(images)
    values, _ = LossModule(model)(*batch())
    named = dict(model.named_parameters())
    of = lambda value: torch.autograd.grad(value, [*named.values()], retain_graph=True, allow_unused=True)
    together, squared, nll = of(values.sum()), of(values[0]), of(values[1])
    for name, both, one, other in zip(named, together, squared, nll, strict=True):
        none, some = (one, other) if name.startswith("error.") else (other, one)
        assert none is None or not none.any(), name
        assert some is not None, name
        assert some.any(), name
        assert torch.equal(both, some), name


@pytest.mark.parametrize("clip_norm", [1.0, 0.05])
def test_the_model_learns_the_same_with_and_without(images: ImageSet, tmp_path: Path, clip_norm: float) -> None:
    """To the bit, also where gradients are clipped."""
    without = run(images, tmp_path / "without", steps=6, clip_norm=clip_norm)
    with_one = run(images, tmp_path / "with", steps=6, clip_norm=clip_norm, error_head=True)
    learned = with_one.model.state_dict()
    for name, tensor in without.model.state_dict().items():
        assert torch.equal(tensor, learned[name]), name
    assert with_one.model.error is not None
    assert with_one.model.error.out.weight.any()
    for a, b in zip(read_metrics(tmp_path / "without"), read_metrics(tmp_path / "with"), strict=True):
        shared = a.keys() - {"seconds", "images_per_second", "peak_memory"}
        assert {name: a[name] for name in shared} == {name: b[name] for name in shared}


def test_both_losses_are_logged_and_kept(images: ImageSet, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = tiny(steps=40, error_head=True, learning_rate=1e-2)
    trained = fit(config, images, RunFolder(tmp_path), fabric(), seen.append)
    metrics = read_metrics(tmp_path)
    held = [line["heldout_error_nll"] for line in metrics if "heldout_loss" in line]
    assert trained.heldout_error_nll == (held[0], held[-1])
    assert held[-1] < held[0] - 0.1
    logged = [line["error_nll"] for line in metrics if "loss" in line]
    assert [progress.error_nll for progress in seen] == logged
    loaded = from_pretrained(tmp_path / "model").model
    assert loaded.config.error_head
    found = HeldOutLoss(config, trained.held_out, trained.patchify)(loaded)
    assert (found.loss, found.error_nll) == (trained.heldout_loss[1], held[-1])
    chunks = HeldOutLoss(tiny(batch_size=3), trained.held_out, trained.patchify)(loaded)
    assert chunks.error_nll == pytest.approx(found.error_nll, rel=1e-5)


def test_muon_gets_none_of_it_and_clipping_goes_apart(images: ImageSet) -> None:
    model = random_model(images)
    assert model.error is not None
    of_head = {id(parameter) for parameter in model.error.parameters()}
    muon, adam = make_optimizers(tiny(), model)
    members = lambda optimizer: {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not members(muon) & of_head
    assert members(adam) > of_head
    decayed, plain = ({id(p) for p in group["params"]} for group in adam.param_groups)
    assert {id(model.error.hidden.weight), id(model.error.out.weight)} <= decayed
    assert {id(model.error.hidden.bias), id(model.error.out.bias)} <= plain
    rest, head = ({id(p) for p in group} for group in clipped_apart(model))
    assert head == of_head
    assert rest == {id(p) for p in model.parameters()} - of_head


# A head for a model that is there already.


def make_pretrained(folder: Path, names: tuple[str, ...] | None = None) -> Pretrained:
    names = load_animals28().class_names if names is None else names
    patchify = Patchify(28, 28, 1, 14)
    model = DiT(DiTConfig(patchify.grid, patchify.token_dim, 16, 1, 2, classes=len(names), conditioning="separable"))
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.head.weight.data[:, 0] += 1.0  # tokens err by how large their first feature is
    save_pretrained(folder, model, patchify, names, "made up {}")
    return from_pretrained(folder)


def test_a_head_is_added_and_all_else_is_left_alone(images: ImageSet, tmp_path: Path) -> None:
    pretrained = make_pretrained(tmp_path / "before")
    files = {file: file.read_bytes() for file in (tmp_path / "before").iterdir()}
    before = {name: tensor.clone() for name, tensor in pretrained.model.state_dict().items()}
    config = tiny(steps=20, patch=4, width=32, weight_decay=0.5)  # the model's own shape counts
    trained = fit_error_head(pretrained, config, images, RunFolder(tmp_path / "run"), fabric(), facts={"of": "it"})
    after = from_pretrained(tmp_path / "run" / "model")
    state = after.model.state_dict()
    for name, tensor in before.items():
        assert torch.equal(pretrained.model.state_dict()[name], tensor), name
        assert torch.equal(state.pop(name), tensor), name
    assert state.keys() == {name for name in after.model.state_dict() if name.startswith("error.")}
    assert state["error.out.weight"].any()
    assert {file: file.read_bytes() for file in (tmp_path / "before").iterdir()} == files
    assert pretrained.model.error is None
    assert after.weights == "made up {}; error head ema(sigma_rel=0.05) at step 20"
    assert after.class_names == pretrained.class_names
    first, last = trained.heldout_loss
    assert first == last
    assert trained.heldout_error_nll is not None
    assert trained.heldout_error_nll[1] < trained.heldout_error_nll[0]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    said = {name: record["config"][name] for name in ("patch", "width", "conditioning", "error_head")}
    assert said == {"patch": 14, "width": 16, "conditioning": "separable", "error_head": True}
    assert record["of"] == "it"


def test_it_learns_to_tell_what_is_wrong(tmp_path: Path) -> None:
    """On held-out images: as much as it says, at every level, and better than one number a level."""
    images = load_animals28().subset(range(0, 10_000, 5))
    pretrained = make_pretrained(tmp_path / "before")
    config = tiny(steps=150, learning_rate=1e-2, evaluate_every=1000)
    trained = fit_error_head(pretrained, config, images, RunFolder(tmp_path / "run"), fabric())
    held_out = hold_out(images, 100)[1]
    assert len(held_out) == len(trained.held_out)
    x = trained.patchify.to_tokens(held_out.squares())
    generator = Generator().manual_seed(0)
    noise = NoiseMap(RectifiedFlow()(torch.rand(4, len(x), 4, 1, generator=generator)))
    eps = torch.randn(4, *x.shape, generator=generator)
    found = calibration(trained.model, x, noise, eps, edges=(0.05, 0.4, 0.7, 0.95), label=held_out.labels)
    assert len(found.rows) == 3
    for row in found.rows:
        assert abs(row.ratio - 1) < 0.1, str(found)
        assert row.spearman > 0.5, str(found)
        assert row.nll < row.nll_constant - 0.02, str(found)


def test_classes_go_by_name(images: ImageSet, tmp_path: Path) -> None:
    """A model that counts the classes the other way round sees the same labels, and learns the same."""
    names = images.class_names
    nlls = []
    for folder, order in (("a", names), ("b", tuple(reversed(names)))):
        pretrained = make_pretrained(tmp_path / folder, order)
        if folder == "b":
            weight = pretrained.model.label.weight
            weight[:-1] = weight[:-1].flip(0).clone()
        config = tiny(steps=4)
        nlls.append(
            fit_error_head(
                pretrained, config, images, RunFolder(tmp_path / f"run {folder}"), fabric()
            ).heldout_error_nll
        )
    assert nlls[0] == nlls[1]


def test_a_model_without_classes_is_told_none(images: ImageSet, tmp_path: Path) -> None:
    pretrained = make_pretrained(tmp_path / "before", ())
    trained = fit_error_head(pretrained, tiny(steps=2), images, RunFolder(tmp_path / "run"), fabric())
    assert trained.training.class_names == ()
    assert from_pretrained(tmp_path / "run" / "model").class_names == ()


def test_heads_that_cannot_be_added(images: ImageSet, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, pretrained: Pretrained, images: ImageSet = images) -> None:
        with pytest.raises(kind, match=message):
            fit_error_head(pretrained, tiny(steps=1), images, RunFolder(tmp_path / "run"), fabric())
        assert not (tmp_path / "run").exists()

    pretrained = make_pretrained(tmp_path / "before")
    small = ImageSet([image[:, :14, :14] for image in images.images], images.labels, images.class_names, 14)
    refused(DataError, "1 channels and 14 pixels a side, those of the model 1 and 28×28", pretrained, small)
    bare = ImageSet(images.images, images.labels * 0, (), 28)
    refused(DataError, "the images have no classes, and the model has bear, bird", pretrained, bare)
    refused(DataError, "the class 'bear' is not one of the model's: cats", make_pretrained(tmp_path / "c", ("cats",)))
    fit_error_head(pretrained, tiny(steps=1), images, RunFolder(tmp_path / "once"), fabric())
    refused(ConfigError, "an error head already", from_pretrained(tmp_path / "once" / "model"))
