"""From images to a set of latents."""

from ._set import Encoded as Encoded, encode_set as encode_set
from ._to_encode import ToEncode as ToEncode, load_to_encode as load_to_encode
from ._verify import load_set_images as load_set_images, round_trip as round_trip, verify_set as verify_set
