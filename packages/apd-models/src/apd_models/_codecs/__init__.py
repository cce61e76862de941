"""Autoencoders: from images to latents and back."""

from ._autoencoder import Autoencoder as Autoencoder, AutoencoderConfig as AutoencoderConfig
from ._autoencoder_dc import autoencoder_dc as autoencoder_dc
from ._autoencoder_kl import autoencoder_kl as autoencoder_kl
from ._codec import Codec as Codec, CodecError as CodecError, Moments as Moments, without_hidden as without_hidden
from ._fill import filled as filled
from ._folder import load_codec as load_codec
from ._identity import identity as identity
from ._latent_scale import LatentScale as LatentScale
from ._leak import Leak as Leak, Moved as Moved, dilation as dilation, known_cells as known_cells, leak as leak
from ._trained import as_codec as as_codec, autoencoder as autoencoder
