"""A diffusion transformer whose every token has its own noise level."""

from ._dit import DiT as DiT, DiTConfig as DiTConfig
from ._hub import (
    ModelFolderError as ModelFolderError,
    Pretrained as Pretrained,
    from_pretrained as from_pretrained,
    save_pretrained as save_pretrained,
)
from ._patch import Patchify as Patchify
