"""A diffusion transformer whose every token has its own noise level."""

from ._active import ActiveTokens as ActiveTokens
from ._calibration import Calibration as Calibration, CalibrationRow as CalibrationRow, calibration as calibration
from ._codecs import (
    Autoencoder as Autoencoder,
    AutoencoderConfig as AutoencoderConfig,
    Codec as Codec,
    CodecError as CodecError,
    LatentScale as LatentScale,
    Leak as Leak,
    Moments as Moments,
    Moved as Moved,
    as_codec as as_codec,
    autoencoder as autoencoder,
    autoencoder_dc as autoencoder_dc,
    autoencoder_kl as autoencoder_kl,
    dilation as dilation,
    filled as filled,
    identity as identity,
    known_cells as known_cells,
    leak as leak,
    load_codec as load_codec,
    without_hidden as without_hidden,
)
from ._config import DiTConfig as DiTConfig, dit_config as dit_config
from ._dit import DiT as DiT, Modulations as Modulations
from ._error_head import error_nll as error_nll
from ._foreign import ForeignConvention as ForeignConvention, from_foreign as from_foreign
from ._hub import (
    ModelFolderError as ModelFolderError,
    Pretrained as Pretrained,
    from_pretrained as from_pretrained,
    save_pretrained as save_pretrained,
)
from ._interpolated import interpolated as interpolated
from ._latents import (
    check_codec as check_codec,
    image_patchify as image_patchify,
    to_latents as to_latents,
    to_pixels as to_pixels,
)
from ._modulation import Levels as Levels, Rows as Rows
from ._patch import Patchify as Patchify
from ._tabulated import tabulated as tabulated
from ._with_error_head import with_error_head as with_error_head
