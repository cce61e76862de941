"""Runs that train autoencoders: what they leave, that they go on to the bit, and what is refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

from apd_models import LatentScale, load_codec
from apd_train import (
    AutoencoderTraining,
    ConfigError,
    DataError,
    DataLostError,
    Execution,
    ImageFolder,
    Progress,
    RunFolder,
    RunFolderError,
    TrainedAutoencoder,
    WriteError,
    _fit_autoencoder,
    fit_autoencoder,
    hold_out,
    make_fabric,
    read_metrics,
)
from apd_train._autoencoder_loss import PARTS, watched
from apd_train._fit_autoencoder import autoencoder_optimizers, for_the_scale, make_autoencoder, scale_of
from apd_train._held_out_images import HeldOutReconstruction
from apd_train._image_batches import ImageBatches
from autoencoder_cases import some_autoencoder, some_images, training_of

CONFIG = training_of(steps=7, log_every=3)
EXECUTION = Execution(checkpoint_every=100)
IGNORED = ("seconds", "images_per_second", "peak_memory")


def run(
    path: Path,
    config: AutoencoderTraining = CONFIG,
    execution: Execution = EXECUTION,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainedAutoencoder:
    fabric = Fabric(accelerator="cpu", devices=1)
    folder = RunFolder(path, resume=resume)
    return fit_autoencoder(config, some_images(), folder, fabric, on_progress, {}, execution, lambda message: None)


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_progress


def lines(path: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in IGNORED} for line in read_metrics(path)]


def learned(path: Path) -> dict[str, Any]:
    (newest,) = sorted((path / "checkpoints").glob("step-*"))[-1:]
    shards = sorted(newest.glob("*.safetensors"))
    return {name: t.tolist() for shard in shards for name, t in load_file(shard).items()}


@pytest.fixture(scope="module", params=[None, 5], ids=["normal", "codebook"])
def codes(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(codes: int | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run(path, replace(CONFIG, codes=codes))
    return path


def test_a_stopped_run_goes_on_to_the_bit(codes: int | None, undisturbed: Path, tmp_path: Path) -> None:
    path, config = tmp_path / "run", replace(CONFIG, codes=codes)
    first = run(path, config, on_progress=stop_at(3))
    assert (first.stopped, first.steps) == (signal.SIGTERM, 4)
    second = run(path, config, resume=True)
    assert (second.stopped, second.steps) == (None, 7)
    assert learned(path) == learned(undisturbed)
    assert lines(path) == lines(undisturbed)
    assert load_codec(path / "model").digest == load_codec(undisturbed / "model").digest


def test_what_a_run_leaves(codes: int | None, undisturbed: Path) -> None:
    assert sorted(entry.name for entry in undisturbed.iterdir()) == [
        *("checkpoints", "config.json", "metrics.jsonl", "model"),
    ]
    assert sorted(entry.name for entry in (undisturbed / "model").iterdir()) == ["config.json", "model.safetensors"]
    record = json.loads((undisturbed / "config.json").read_text())
    assert record["autoencoder"] == {
        **{"image_channels": 1, "channels": 2, "widths": [4, 6], "blocks": [1, 1], "codes": codes}
    }
    assert record["config"]["widths"] == [4, 6]
    metrics = lines(undisturbed)
    (held_out, *_) = [line for line in metrics if "heldout_loss" in line]
    parts = ("reconstruction", "features", "code", "agreement")
    watched = {"psnr", "psnr_masked"} | ({"codes_used"} if codes else set())
    assert {*held_out} == {"step", "heldout_loss", *(f"heldout_{name}" for name in (*parts, *watched))}
    trained = [line for line in metrics if "loss" in line]
    assert [line["step"] for line in trained] == [3, 6, 7]
    for line in trained:
        assert {*line} - watched == {"step", "loss", *parts, "grad_norm", "learning_rate", "skipped_steps"}
        assert line["loss"] == pytest.approx(sum(line[name] for name in parts))


def test_the_first_loss_is_that_of_the_first_batch(codes: int | None, tmp_path: Path) -> None:
    """With its masks and its noise, and with the weights that the run begins with."""
    config = replace(CONFIG, codes=codes, steps=1, code_weight=1.0)
    training = run(tmp_path / "run", config).training
    parts, sums = make_autoencoder(config, 1)(*ImageBatches(config, training)(0).tensors)
    (line,) = [line for line in lines(tmp_path / "run") if "loss" in line]
    told = {**dict(zip(PARTS, parts.tolist(), strict=True)), **watched(sums)}
    assert {name: line[name] for name in told} == pytest.approx(told, rel=1e-5)
    assert line["loss"] == pytest.approx(float(parts.detach().sum()), rel=1e-5)


def test_the_model_folder_is_an_autoencoder_of_the_averaged_weights(codes: int | None, tmp_path: Path) -> None:
    trained = run(tmp_path / "run", replace(CONFIG, codes=codes, steps=3))
    codec = load_codec(tmp_path / "run" / "model")
    images = some_images().squares([0, 1])
    with torch.no_grad():
        assert torch.equal(codec.encode(images), trained.network.moments(images).mean)
    assert codec.stats == scale_of(trained.network, trained.training)
    config = replace(CONFIG, codes=codes)
    module = make_autoencoder(config, 1)
    module.model.load_state_dict(trained.network.state_dict())
    assert HeldOutReconstruction(config, trained.held_out, module, 4)().loss == trained.heldout_loss[1]


def test_standardised_latents_have_unit_variance() -> None:
    """Of latents drawn from their distributions, as training draws them."""
    network, images = some_autoencoder().float(), some_images(600)
    with torch.no_grad():
        chosen = images.squares(range(0, 600, 2))
        mean, log_var = network.moments(chosen)
        assert log_var is not None
        scale = scale_of(network, images)
    exact = torch.cat(
        [mean - (0.5 * log_var).exp(), mean + (0.5 * log_var).exp()]
    ).double()  # of this mean and variance
    z = LatentScale.standardise(scale, exact)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(2).double(), rtol=0, atol=1e-4)


def test_it_learns(tmp_path: Path) -> None:
    """With masks and without; the loss is of images more than of anything else."""
    config = training_of(steps=40, batch_size=8, evaluate_every=40, log_every=40, learning_rate=1e-2)
    run(tmp_path / "run", config)
    first, last = (line for line in lines(tmp_path / "run") if "heldout_loss" in line)
    assert last["heldout_loss"] < 0.6 * first["heldout_loss"]
    for name in ("heldout_psnr", "heldout_psnr_masked"):
        assert last[name] > first[name] + 3, (first, last)


def test_runs_of_one_seed_are_equal_and_others_are_not(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = run(tmp_path / "a", replace(CONFIG, steps=2)).network
    torch.manual_seed(2)
    two = run(tmp_path / "b", replace(CONFIG, steps=2)).network
    three = run(tmp_path / "c", replace(CONFIG, steps=2, seed=1)).network
    weights = [parameters_to_vector(network.parameters()) for network in (one, two, three)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_pictures_change_nothing_and_show_what_is_hidden(undisturbed: Path, codes: int | None, tmp_path: Path) -> None:
    execution = replace(EXECUTION, grid_every=3, snapshot_every=5, workers=1, checkpoint_every=2)
    run(tmp_path / "run", replace(CONFIG, codes=codes), execution)
    assert learned(tmp_path / "run") == learned(undisturbed)
    assert lines(tmp_path / "run") == lines(undisturbed)
    files = sorted(file.name for file in (tmp_path / "run" / "grids").iterdir())
    assert files == [f"reconstructions-0000000{step}.png" for step in (3, 6, 7)]
    sheet = np.array(Image.open(tmp_path / "run" / "grids" / files[-1]))
    original, decoded, shown, _ = (sheet[26:90, 4 + 68 * k :][:, :64] for k in range(4))
    hidden = (shown == (120, 150, 200)).all(-1)
    assert 0 < hidden.mean() < 1
    assert (shown[~hidden] == original[~hidden]).all()
    assert not (decoded == original).all()


def test_a_model_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    run(path, on_progress=stop_at(3))
    before = {file.name: file.read_bytes() for file in (path / "model").iterdir()}

    def full(network: object, stats: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_fit_autoencoder, "as_codec", full)
    with pytest.raises(WriteError, match="model cannot be written: No space left on device"):
        run(path, resume=True)
    assert {file.name: file.read_bytes() for file in (path / "model").iterdir()} == before
    assert not [entry for entry in path.iterdir() if entry.name.startswith(".")]
    monkeypatch.undo()
    (path / ".model-old.tmp").mkdir()  # as of a process that was killed while it wrote
    (path / ".model-new.tmp").mkdir()
    run(path, resume=True)
    assert {file.name: file.read_bytes() for file in (path / "model").iterdir()} != before
    assert not [entry for entry in path.iterdir() if entry.name.startswith(".")]


def test_decay_is_on_the_kernels_of_convolutions_alone() -> None:
    config = training_of(codes=5)
    model = make_autoencoder(config, 1).model
    (adam,) = autoencoder_optimizers(config, model)
    decayed, rest = ({id(p) for p in group["params"]} for group in adam.param_groups)
    assert [group["weight_decay"] for group in adam.param_groups] == [config.weight_decay, 0.0]
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) != (id(parameter) in rest)
        assert (id(parameter) in decayed) == (parameter.ndim == 4), name


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path, on_progress=stop_at(3))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"channels": 3}, "channels 2, now it is 3"),
        ({"masked": 0.1}, "masked 0.5, now it is 0.1"),
        ({"agreement_weight": 0.0}, "agreement_weight 0.1, now it is 0.0"),
        ({"codes": 4}, "codes None, now it is 4"),
    ]
    for options, name in changes:
        with pytest.raises(ConfigError, match=f"was begun with {name}"):
            run(path, training_of(steps=7, log_every=3, **options), resume=True)
    with pytest.raises(RunFolderError, match="already holds a run"):
        run(path)
    assert run(path, replace(CONFIG, steps=9), resume=True).steps == 9


def test_what_is_not_of_autoencoders_is_refused(tmp_path: Path) -> None:
    for execution in (Execution(compile=True), Execution(checkpoint_activations=True)):
        with pytest.raises(ConfigError, match="are of transformers: leave them out"):
            run(tmp_path / "run", execution=execution)
    images, fabric = some_images(), Fabric(accelerator="cpu", devices=1)
    latents = replace(images, latents=LatentScale((0.0,), (1.0,)))
    with pytest.raises(DataError, match="these are latents already"):
        fit_autoencoder(CONFIG, latents, RunFolder(tmp_path / "run"), fabric)
    with pytest.raises(DataError, match="too few"):
        fit_autoencoder(CONFIG, images.subset([0]), RunFolder(tmp_path / "run"), fabric)
    with pytest.raises(ConfigError, match="trained with ddp"):
        fit_autoencoder(CONFIG, images, RunFolder(tmp_path / "run"), make_fabric(2, "fsdp"))
    with pytest.raises(ConfigError, match="features are of grey or RGB images, not of 2 channels"):
        make_autoencoder(training_of(features_weight=0.1), 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 9}, "image_size must be a multiple of 2, by which latents are smaller, got 9"),
        ({"image_size": 6}, "image_size must be at least 8"),
        ({"widths": (4,)}, "2 to 4 resolutions, got 1 widths"),
        ({"blocks": (1,)}, "blocks say how many for each of 2 resolutions, got 1"),
        ({"codes": 1}, "a codebook has 2 codes at least"),
        ({"masked": 1.5}, r"masked is a share in \[0, 1\], got 1.5"),
        ({"features_weight": -0.1}, "features_weight must not be negative"),
        ({"code_weight": float("nan")}, "code_weight must be finite"),
        ({"features_side": 16}, "features_side must be at least 32"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"ema_sigma_rels": ()}, "ema_sigma_rels must name at least one"),
    ],
)
def test_impossible_runs_are_refused_before_anything_happens(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_of(**options)


def pictures(folder: Path, count: int = 40) -> ImageFolder:
    """In as many sub-folders, read when they are asked for."""
    for k, square in enumerate(some_images(count).squares()):
        (folder / f"of-{k}").mkdir(parents=True)
        Image.fromarray(((square[0] + 1) * 127.5).round().to(torch.uint8).numpy()).save(folder / f"of-{k}" / "it.png")
    return ImageFolder(folder, in_memory=False)


def from_disk(path: Path, data: ImageFolder, on_progress: Callable[[Progress], None], **options: Any) -> list[str]:
    config, fabric, said = replace(CONFIG, data=data), Fabric(accelerator="cpu", devices=1), []
    fit_autoencoder(config, data.load(8), RunFolder(path, **options), fabric, on_progress, {}, EXECUTION, said.append)
    return said


def at_step(step: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    return lambda progress: act() if progress.step == step else None  # pyrefly: ignore


def test_held_out_images_that_are_lost_end_a_run_that_goes_on(tmp_path: Path) -> None:
    """As training images do: with what was learned, and a reason."""
    data = pictures(tmp_path / "data")
    from_disk(tmp_path / "whole", data, lambda progress: None)
    held_out = hold_out(data.load(8), 2)[1].images
    files = [data.path / held_out.name(i) for i in range(2)]  # pyrefly: ignore
    contents = [file.read_bytes() for file in files]
    lose = at_step(3, lambda: [file.unlink() for file in files])
    with pytest.warns(UserWarning, match="stands in"), pytest.raises(DataLostError, match="is the data damaged"):
        from_disk(tmp_path / "run", data, lose)
    assert load_codec(tmp_path / "run" / "model").channels == 2
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    said = from_disk(tmp_path / "run", data, lambda progress: None, resume=True)
    assert said[0].endswith("step 4 of 7")
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_training_images_that_are_lost_leave_a_model(tmp_path: Path) -> None:
    """Whose scale was measured before."""
    data = pictures(tmp_path / "data")
    with pytest.raises(DataLostError, match="cannot be read: is the data damaged"):
        from_disk(tmp_path / "run", data, at_step(3, lambda: shutil.rmtree(data.path)))
    assert load_codec(tmp_path / "run" / "model").stats is not None
    assert [*(tmp_path / "run" / "checkpoints").glob("step-*")]


def test_any_image_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    """Sub-folders play no part, though each has one image here."""
    data = pictures(tmp_path / "data")
    held_out = hold_out(data.load(8), 2)[1].images
    (data.path / held_out.name(0)).write_bytes(b"damaged")  # pyrefly: ignore
    with pytest.warns(UserWarning, match="stands in"):
        from_disk(tmp_path / "run", data, lambda progress: None)
    assert len(lines(tmp_path / "run")) > 3


def test_the_scale_is_that_of_the_training_images_as_they_are() -> None:
    network, images = some_autoencoder().float(), some_images(600)
    assert scale_of(network, for_the_scale(images)) == scale_of(network, images)
