"""Files of weights: all of one network's tensors and nothing else, or one line that says why not."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from apd_metrics import (
    Extractor,
    WeightsError,
    _dinov2,
    _efficientnet,
    _inception,
    dinov2,
    efficientnet_lite0,
    inception,
)
from apd_metrics._dinov2 import DINOv2
from apd_metrics._inception import Inception
from feature_weights import frozen_image, frozen_weights

State = dict[str, Tensor]
each_reader = pytest.mark.parametrize("read", [inception, dinov2])


@pytest.fixture(scope="module")
def small() -> State:
    """Of a DINOv2 with one head and two blocks."""
    with torch.device("meta"):
        return frozen_weights(DINOv2(64, 2, 5).state_dict(), seed=4)


def refuse(read: Callable[[Path], Extractor], file: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def dinov2_of(state: dict[str, Any], file: Path) -> Extractor:
    torch.save(state, file)
    return dinov2(file)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@each_reader
@pytest.mark.parametrize("save", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
@pytest.mark.parametrize("whole", [True, False])
def test_code_in_a_pickle_does_not_run(
    read: Callable[[Path], Extractor], save: Callable[[Any, Path], Any], whole: bool, small: State, tmp_path: Path
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "hostile.pth"
    thing = Hostile(mark)
    save(thing if whole else {**small, "cls_token": thing}, file)
    refuse(read, file, "not a state dict of tensors and nothing else; no other is opened, as a pickle can run code")
    assert not mark.exists()
    pickle.loads(pickle.dumps(thing))
    assert mark.exists()  # it would have


@each_reader
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_of_weights_is_refused(
    read: Callable[[Path], Extractor], suffix: str, small: State, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    refuse(read, file, "cannot be read: No such file or directory")
    refuse(read, tmp_path, "cannot be read: Is a directory")
    save_file(small, file) if suffix == ".safetensors" else torch.save(small, file)
    whole = file.read_bytes()
    for content in (b"", b"<html>404</html>", whole[: len(whole) // 2]):
        file.write_bytes(content)
        refuse(read, file, "not a state dict of tensors")


@pytest.mark.parametrize("thing", [[], 3, {"model": {}}, {"a": [torch.zeros(1)]}, {1: torch.zeros(1)}], ids=repr)
def test_only_a_flat_dict_of_tensors_is_taken(thing: Any, tmp_path: Path) -> None:
    torch.save(thing, tmp_path / "weights.pth")
    refuse(inception, tmp_path / "weights.pth", "not a state dict of tensors")


def test_every_tensor_must_be_there_and_no_other(small: State, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    refuse(lambda file: dinov2_of(small | {"register_tokens": torch.zeros(1, 4, 64)}, file), file, "register_tokens")
    refuse(
        lambda file: dinov2_of(small | {"norm.weight": torch.zeros(65)}, file), file, "size mismatch for norm.weight"
    )
    for name in small:
        rest = {key: tensor for key, tensor in small.items() if key != name}
        refuse(lambda file, rest=rest: dinov2_of(rest, file), file, "does not hold the weights of this network")


@pytest.mark.parametrize("shape", [(1, 0, 64), (1, 1, 64), (1, 6, 64), (5, 64)])
def test_positions_are_of_a_square(shape: tuple[int, ...], small: State, tmp_path: Path) -> None:
    state = small | {"pos_embed": torch.zeros(shape)}
    refuse(lambda file: dinov2_of(state, file), tmp_path / "weights.pth", "no pos_embed of a square")


def test_inception_takes_its_own_tensors_only(small: State, tmp_path: Path) -> None:
    torch.save(small, tmp_path / "weights.pth")
    refuse(inception, tmp_path / "weights.pth", "does not hold the weights of this network: .*Missing key")


def test_kinds_of_file_and_precisions(small: State, tmp_path: Path) -> None:
    """Counts of batches may be there or not; half precision is computed with in float32."""
    image = frozen_image(30, 30)
    expected = dinov2_of(small, tmp_path / "a.pth")(image).pooled
    save_file(small | {"norm.num_batches_tracked": torch.tensor(3)}, tmp_path / "b.safetensors")
    assert torch.equal(dinov2(tmp_path / "b.safetensors")(image).pooled, expected)
    half = {name: tensor.half() for name, tensor in small.items()}
    from_half = dinov2_of(half, tmp_path / "c.pth")(image).pooled
    assert from_half.dtype == torch.float32
    torch.testing.assert_close(from_half, expected, rtol=0, atol=5e-3)


def test_only_the_published_file_has_the_plain_name(
    small: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dinov2_vitl14_pretrain.pth"
    extractor = dinov2_of(small, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert extractor.sha256 == digest
    assert extractor.name == f"dinov2-unverified-{digest[:8]}"
    monkeypatch.setitem(_dinov2.NAMES, digest, "dinov2-vit-l-14")
    assert dinov2(file).name == "dinov2-vit-l-14"


def test_only_the_published_inception_has_the_plain_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one with its name, nor one that begins with the same digits of SHA-256 as the name has."""
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    monkeypatch.setattr(_inception, "renamed", lambda name: name)
    state = {name: tensor.bfloat16() for name, tensor in Inception().state_dict().items()}
    torch.save(state, file)
    extractor = inception(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert extractor.name == f"inception-unverified-{digest[:8]}"
    for known, name in ((digest, "inception"), (digest[:8] + "0" * 56, f"inception-unverified-{digest[:8]}")):
        monkeypatch.setattr(_inception, "SHA256", known)
        assert inception(file).name == name


def test_known_digests() -> None:
    """The one in the name of the file of Inception; all of them whole."""
    assert _inception.SHA256.startswith("6726825d")
    assert {len(bytes.fromhex(digest)) for digest in (_inception.SHA256, *_dinov2.NAMES)} == {32}


def test_a_changed_file_in_the_package_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one weight."""
    file = tmp_path / "models" / _efficientnet.FILE
    file.parent.mkdir()
    shutil.copyfile(str(resources.files(_efficientnet.PACKAGE) / "models" / _efficientnet.FILE), file)
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    efficientnet_lite0()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    refuse(lambda _: efficientnet_lite0(), file, "another file than expected: its SHA-256 is .*, not 579344248a93…")
