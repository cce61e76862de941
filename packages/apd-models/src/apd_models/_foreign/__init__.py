"""Weights of DiT, SiT and diffusers' DiT, as models of this library."""

from ._convert import ForeignConvention as ForeignConvention, from_foreign as from_foreign
