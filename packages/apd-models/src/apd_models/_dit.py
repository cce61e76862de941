"""The transformer."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from apd_schedules import NoiseMap, Posterior

from ._attention import Turn, Watch, one_way, seeing, turns, watched, with_turns
from ._block import Attend, Attention, Block, FeedForward
from ._config import DiTConfig
from ._context import Context
from ._conventions import CONVENTIONS, Convention
from ._error_head import ErrorHead, log_var_of_mean
from ._fused import at_least_float32, modulated_norm
from ._inputs import check_inputs
from ._modulation import LevelEmbedding, Levels, Modulation, Rows, distinct_levels, sincos_2d, with_labels
from ._triton import runs_of


@dataclass(frozen=True, slots=True)
class Modulations:
    """Shift, scale and gate vectors of the whole network, see :meth:`DiT.modulations`.

    Args:
        blocks: of each block.
        head: of the head.
        error: of the error head.
    """

    blocks: tuple[Rows, ...]
    head: Rows
    error: Rows | None = None


class DiT(nn.Module):
    """A diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748) in which each token has its own noise level.

    A :class:`apd_schedules.Denoiser`: it predicts the velocity of the rectified flow and returns the clean tokens that
    follow from it. It is conditioned on :attr:`NoiseMap.flow_level`, so it serves any noise schedule. Norms, level
    embedding and modulation run in float32.

    Attributes:
        kernels: do the modulation of the blocks by operators of their own, which on a GPU are Triton kernels with a
            deterministic gradient of the tables; false at first, since they have not been raced against
            ``torch.compile`` on a GPU. A choice of how, not of what: it is not part of the configuration.
        checkpoint_activations: keep only what goes into each block and compute the rest again in the backward pass
            (Chen et al. 2016, arXiv:1604.06174): far less memory for a third more work, and the same gradients. Not
            while the model is watched. A choice of how, too.
    """

    kernels: bool = False
    checkpoint_activations: bool = False

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.convention: Convention = CONVENTIONS[config.convention]
        width = config.width
        self.embed = nn.Linear(config.token_dim, width)
        self.position = nn.Parameter(sincos_2d(config.grid, width)) if config.position == "learned" else None
        if config.embedders == "shared":
            self.level = LevelEmbedding(width, self.convention)
            # The row after the last class stands for "no label"; an unconditional model has that row alone.
            self.label = nn.Embedding(config.classes + 1, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = Modulation(width, 2, labels=config.conditioning == "separable")
        self.head = nn.Linear(width, config.token_dim)
        self.error = ErrorHead(width) if config.error_head else None
        self.element_level = nn.Linear(config.token_dim, width, bias=False) if config.element_levels else None
        self.context = Context(config.context_dim, width) if config.context_dim else None
        self._initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for none."""
        return self.config.classes

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def each_block(self) -> list[Block]:
        """The blocks, as what they are."""
        return cast(list[Block], list(self.blocks))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                for linear in module.children():
                    if isinstance(linear, nn.Linear):
                        nn.init.xavier_uniform_(linear.weight)
                        if linear.bias is not None:
                            nn.init.zeros_(linear.bias)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if self.element_level is not None:
            nn.init.zeros_(self.element_level.weight)

    def forward(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"] | None = None,
        *,
        context: Float[Tensor, "b k c"] | None = None,
        modulations: Modulations | None = None,
        watch: Watch | None = None,
    ) -> Posterior:
        """
        Args:
            z: noisy tokens.
            noise: one level a token, ``(b, n, 1)``, or with ``element_levels`` one an element; a map without batch
                axis, or with size 1 there, serves all samples.
            label: class of each sample, or :attr:`null_label`; without it no sample has a label.
            context: clean tokens that all others see, of ``context_dim`` elements.
            modulations: of the tokens, where they are known beforehand; by default they are computed once for each
                distinct level.
            watch: is shown the keys and values of each block.

        Raises:
            ValueError: tokens of another grid or precision, labels that are none (on the CPU; elsewhere the device
                refuses them), a map of other samples, levels of elements where the model takes one a token, tokens in
                context of another size, weights in half precision.
        """
        self.check(z, label, noise, context)
        noise = noise.to(z)
        log_snr = self.token_levels(noise)
        if label is None:
            label = torch.full((len(z),), self.null_label, device=z.device)
        if modulations is None:
            modulations = self.modulations(distinct_levels(log_snr), label)
        x, blocks = self.enter(z, noise, label), modulations.blocks
        before = 0
        if context is not None:
            x, blocks = self.with_context(x, blocks, context)
            before = context.shape[1]
        attend = self.attention(log_snr, before, watch)
        runs = runs_of(blocks[0].index, len(blocks[0].table)) if self.kernels else None
        again = self.checkpoint_activations and watch is None
        for block, rows in zip(self.each_block, blocks, strict=True):
            if again:  # nothing in a block is random
                x = checkpoint(block, x, rows, attend, runs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rows, attend, runs)
        return self.leave(x[:, before:], z, noise, modulations)

    def check(
        self,
        z: Float[Tensor, "..."],
        label: Int[Tensor, "..."] | None,
        noise: NoiseMap | None = None,
        context: Float[Tensor, "..."] | None = None,
    ) -> None:
        """Refuses what is not this model's, see :meth:`forward`."""
        check_inputs(self.config, self.head.weight.dtype, z, label, noise, context)

    def token_levels(self, noise: NoiseMap) -> Float[Tensor, "b n"]:
        """The log-SNR that each token's modulation goes by; size 1 along the batch where one map serves all.

        Raises:
            ValueError: levels of elements, where the model takes one a token; or not of each.
        """
        log_snr = noise.log_snr if noise.log_snr.ndim == 3 else noise.log_snr[None]
        tokens = self.config.grid[0] * self.config.grid[1]
        if log_snr.ndim != 3 or log_snr.shape[-2] not in (1, tokens):
            raise ValueError(f"a map has a level for each of {tokens} tokens, got {tuple(noise.log_snr.shape)}")
        if self.config.one_way:  # where each token's level says what it sees
            log_snr = log_snr.expand(-1, tokens, -1)
        if log_snr.shape[-1] == 1:
            return log_snr[..., 0]
        if self.element_level is None:
            raise ValueError(f"this model takes one level a token, got {log_snr.shape[-1]} (one an element)")
        if log_snr.shape[-1] != self.config.token_dim:
            raise ValueError(
                f"a map has one level a token or one for each of its {self.config.token_dim} elements, got "
                f"{log_snr.shape[-1]}"
            )
        return log_snr.amin(-1)

    def modulations(self, levels: Levels, label: Int[Tensor, " b"]) -> Modulations:
        """The tables of all blocks, for these levels. What a fixed schedule needs can be computed once: see
        :func:`tabulated`.

        Args:
            label: of the samples.
        """
        if self.config.conditioning == "joint" and levels.label is None:
            levels = with_labels(levels, label, self.config.classes + 1)
        with torch.autocast(self.device.type, enabled=False):
            blocks = self.each_block
            if self.config.embedders == "shared":
                features = [self._features(self.level, self.label, levels, label)] * len(blocks)
            else:
                features = [self._features(block.level, block.label, levels, label) for block in blocks]
            of_level, of_label = features[0]
            return Modulations(
                tuple(
                    block.modulation(level, levels.index, sample)
                    for block, (level, sample) in zip(blocks, features, strict=True)
                ),
                self.head_modulation(of_level, levels.index, of_label),
                None if self.error is None else self.error.modulation(of_level.detach(), levels.index),
            )

    def _features(
        self, embed_level: LevelEmbedding, embed_label: nn.Embedding, levels: Levels, label: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "u width"], Float[Tensor, "b width"] | None]:
        """Of the rows, with one more for tokens in context where there can be any; and of the samples."""
        of_level = embed_level(levels.log_snr)
        if levels.label is not None:
            of_level = of_level + embed_label(levels.label)
        if self.context is not None:
            of_level = torch.cat([of_level, self.context.level[None]])
        of_label = F.silu(embed_label(label)) if self.config.conditioning == "separable" else None
        return F.silu(of_level), of_label

    def enter(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"],
        at: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n width"]:
        """Noisy tokens as the first block takes them.

        Args:
            at: which tokens of the grid they are; by default all, in order.
        """
        x = self.embed(self.convention.enter(z, noise, self.config.data_std))
        added = x.new_zeros(())
        if self.position is not None:
            added = self.position if at is None else self.position[at]
        if self.config.conditioning == "token":
            added = added + self.label(label)[:, None]
        if self.element_level is not None and noise.log_snr.shape[-1] > 1:
            level = noise.flow_level
            added = added + self.element_level((level.amax(-1, keepdim=True) - level).expand_as(z))
        return x + added

    def leave(
        self, x: Float[Tensor, "b n width"], z: Float[Tensor, "b n d"], noise: NoiseMap, modulations: Modulations
    ) -> Posterior:
        """The posterior from what the last block puts out."""
        out = at_least_float32(self.head(modulated_norm(x, modulations.head, 0, 1)))
        log_var = None
        if self.error is not None and modulations.error is not None:
            log_error = at_least_float32(self.error(x, modulations.error))
            log_var = log_var_of_mean(log_error, noise, self.convention)
        return Posterior(self.convention.mean(out, z, noise), log_var)

    def attention(self, log_snr: Float[Tensor, "b n"], context: int = 0, watch: Watch | None = None) -> Attend:
        """How tokens at these levels, after ``context`` tokens in context, see each other."""
        visible, turn = self.visible(log_snr, context), self.turns(context)
        attend: Attend = F.scaled_dot_product_attention if visible is None else seeing(visible)
        if watch is not None:
            attend = watched(attend, watch)
        return attend if turn is None else with_turns(attend, turn)

    def visible(self, log_snr: Float[Tensor, "b n"], context: int = 0) -> Bool[Tensor, "b m m"] | None:
        """Which tokens see which, if not all see all. Those in context come first, are seen, and see each other."""
        if not self.config.one_way:
            return None
        levels = F.pad(log_snr, (context, 0), value=torch.inf)
        same = torch.eye(levels.shape[1], dtype=torch.bool, device=levels.device)
        same[:context, :context] = True
        return one_way(levels, levels, same[None])

    def turns(self, context: int = 0) -> Turn | None:
        """By how much rotary positions turn each token; those in context are not turned."""
        of = self.config
        if of.position != "rope":
            return None
        return turns(of.grid, of.position_grid or of.grid, of.width // of.heads, context, self.device)

    def with_context(
        self, x: Float[Tensor, "b n width"], blocks: tuple[Rows, ...], context: Float[Tensor, "b k c"]
    ) -> tuple[Float[Tensor, "b m width"], tuple[Rows, ...]]:
        """Tokens in context put before the others, and their rows before those of the others."""
        if self.context is None:
            raise ValueError("this model takes no context: its context_dim is 0")
        before = context.shape[1]

        def longer(rows: Rows) -> Rows:
            index = rows.index.expand(*x.shape[:2])
            last = index.new_full((len(x), before), len(rows.table) - 1)
            return Rows(rows.table, torch.cat([last, index], 1), rows.sample)

        return torch.cat([self.context(context), x], 1), tuple(map(longer, blocks))
