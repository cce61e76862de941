"""Only the tokens that move go through the network; the others keep the keys and values that they had."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from apd_schedules import NoiseMap, Posterior, flow_from_x

from ._attention import equals_seen, one_way, turned
from ._block import Heads
from ._dit import DiT
from ._modulation import distinct_levels
from ._packing import Packed, pack, put, put_, take

Mode = tuple[torch.dtype | None, bool, tuple[tuple[int, int, int], ...]]


@dataclass(slots=True)
class Seen:
    """What was computed for every token, and of what.

    Args:
        z, noise, label, context: of the last call; copies, since what is given may be changed in place.
        mode: what else the numbers depend on, see :meth:`ActiveTokens._mode`.
        weights: the parameters that ``mode`` tells apart, so that no others take their places in memory.
        keys, values: of each block, those in context first.
        posterior: the last guess.
        sound: with one-way attention, tokens whose keys, values and guess are those of a call without any left out.
        calls: since the last one that left nothing out.
    """

    z: Float[Tensor, "b n d"]
    noise: NoiseMap
    label: Int[Tensor, " b"]
    context: Float[Tensor, "b k c"] | None
    mode: Mode
    weights: list[nn.Parameter]
    keys: list[Heads]
    values: list[Heads]
    posterior: Posterior
    sound: Bool[Tensor, "b n"]
    calls: int = 0


class ActiveTokens:
    """A model that computes the tokens that move, packed, and remembers the others.

    A :class:`apd_schedules.Denoiser` for one run: it holds keys, values and guesses of the call before, in each of
    which some tokens are computed: those that it is asked for, and those whose value, level or label has changed since
    they were. What it remembers it checks against what it is given, so it may be used for any call, and starts anew
    where shapes, precision or weights differ (but after a change of weights through ``.data``, which PyTorch does not
    count, :meth:`reset` is to be called); a token that is left out is returned with its last guess, zero before its
    first. It remembers one call: guidance whose contexts do not fit one batch needs one for each. The host waits for
    how many tokens there are to compute.

    With ``one_way`` attention this is exact: a token's keys and values depend on no noisier token, and only those that
    none of the changed tokens could reach are taken from memory. Without, all tokens see each other, and those at rest
    keep the keys and values that they had when their neighbours were noisier. That is an approximation; every
    ``refresh``-th call leaves out nothing. What it costs in error: docs/performance.md.

    Args:
        model: in evaluation mode.
        refresh: calls from one that leaves out nothing to the next; ``None`` for never again. Not read with ``one_way``
            attention.
        check: at each refresh, compute the answer with tokens left out too, and keep how far it was off in
            :attr:`errors`. Costs that much more.

    Attributes:
        errors: root mean square of the difference in the network's output, over that of the output, for the tokens that
            were asked for; one number a refresh.
    """

    def __init__(self, model: DiT, refresh: int | None = 8, *, check: bool = False) -> None:
        if refresh is not None and refresh < 1:
            raise ValueError(f"refresh counts calls and is at least 1, or None for never, got {refresh}")
        self.model = model
        self.refresh = refresh
        self.check = check
        self.errors: list[float] = []
        self._seen: Seen | None = None

    def reset(self) -> None:
        """Forgets everything: the next call leaves out nothing."""
        self._seen = None
        self.errors = []

    @torch.no_grad()
    def __call__(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"] | None = None,
        *,
        moving: Bool[Tensor, "*#b n"] | None = None,
        context: Float[Tensor, "b k c"] | None = None,
    ) -> Posterior:
        """
        Args:
            z, noise, label, context: see :meth:`DiT.forward`.
            moving: tokens whose guess is wanted, of each sample or the same of all; by default those that have changed.

        Raises:
            ValueError: see :meth:`DiT.forward`; or ``moving`` is not of booleans.
        """
        self.model.check(z, label, noise, context)
        if moving is not None and moving.dtype != torch.bool:
            raise ValueError(f"moving says of each token whether it moves, in booleans, got {moving.dtype}")
        noise = noise.to(z)
        noise = NoiseMap(noise.log_snr.expand(*z.shape[:2], noise.log_snr.shape[-1]).clone())
        if label is None:
            label = torch.full((len(z),), self.model.null_label, device=z.device)
        z, label, context = z.clone(), label.clone(), None if context is None else context.clone()
        posterior = self._answer(z, noise, label, moving, context)
        log_var = None if posterior.log_var is None else posterior.log_var.clone()
        return replace(posterior, mean=posterior.mean.clone(), log_var=log_var)

    def _answer(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"],
        moving: Bool[Tensor, "*#b n"] | None,
        context: Float[Tensor, "b k c"] | None,
    ) -> Posterior:
        seen, self._seen = self._seen, None  # what is half done is not kept
        if seen is None or seen.mode != self._mode(z) or not _fits(seen, z, noise, label, context):
            if not self.model.config.one_way or moving is None or context is not None:
                return self._whole(z, noise, label, context)
            seen = self._nothing(z, noise, label)
        changed = (z != seen.z).any(-1) | (noise.log_snr != seen.noise.log_snr).any(-1) | (label != seen.label)[:, None]
        wanted = changed if moving is None else moving.to(z.device).expand_as(changed)
        if self.model.config.one_way:
            compute, sound = self._reached(noise, seen, changed, wanted)
            due = False
        else:
            compute, sound = changed | wanted, seen.sound
            due = self.refresh is not None and seen.calls + 1 >= self.refresh
        if due and not self.check:
            return self._whole(z, noise, label, context)
        now = replace(seen, z=z, noise=noise, label=label, context=context, sound=sound, calls=seen.calls + 1)
        packed = pack(compute)
        posterior = replace(seen.posterior, token_evaluations=0) if packed is None else self._some(now, packed)
        if due:
            whole = self._whole(z, noise, label, context)
            if wanted.any():
                self.errors.append(_difference(posterior, whole, z, noise, wanted))
            return whole
        self._seen = replace(now, posterior=posterior)
        return posterior

    def _mode(self, z: Tensor) -> Mode:
        """Precision, the kind of tensors that are made, and of each weight which it is, where it lies, and how often it
        was changed in place, as far as PyTorch counts that."""
        device = z.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        weights = ((id(p), p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters())
        return autocast, torch.is_inference_mode_enabled(), tuple(weights)

    def _reached(
        self, noise: NoiseMap, seen: Seen, changed: Bool[Tensor, "b n"], wanted: Bool[Tensor, "b n"]
    ) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """With one-way attention: what is to be computed, and what is sound once it is.

        A change reaches tokens that see the cleanest changed one, at its old level or its new. Of those reached, what
        is wanted is computed, and what the noisiest wanted one sees.
        """
        level, before = self.model.token_levels(noise), self.model.token_levels(seen.noise)
        cleanest = torch.maximum(level, before).where(changed, -torch.inf).amax(1, keepdim=True)
        reached = changed | (level < cleanest) | ((level == cleanest) & equals_seen(level))
        stale = reached | ~seen.sound
        wanted = wanted & stale
        noisiest = level.where(wanted, torch.inf).amin(1, keepdim=True)
        compute = stale & (wanted | (level > noisiest) | ((level == noisiest) & equals_seen(level)))
        return compute, ~stale | compute

    def _whole(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"],
        context: Float[Tensor, "b k c"] | None,
    ) -> Posterior:
        """The model's answer, and everything remembered."""
        keys: list[Heads] = []
        values: list[Heads] = []

        def keep(k: Heads, v: Heads) -> None:
            # Alone, not as views of the product that made queries too.
            keys.append(k.transpose(1, 2).contiguous().transpose(1, 2))
            values.append(v.transpose(1, 2).contiguous().transpose(1, 2))

        posterior = self.model(z, noise, label, context=context, watch=keep)
        posterior = replace(posterior, token_evaluations=z.shape[1])
        sound = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        weights = [*self.model.parameters()]
        self._seen = Seen(z, noise, label, context, self._mode(z), weights, keys, values, posterior, sound)
        return posterior

    def _nothing(self, z: Float[Tensor, "b n d"], noise: NoiseMap, label: Int[Tensor, " b"]) -> Seen:
        """A memory in which nothing is sound: with one-way attention, tokens that nobody sees can wait."""
        of, mode = self.model.config, self._mode(z)
        dtype = self.model.head.weight.dtype if mode[0] is None else mode[0]
        shape = (*z.shape[:2], of.heads, of.width // of.heads)
        empty = lambda: [torch.zeros(shape, dtype=dtype, device=z.device).transpose(1, 2) for _ in range(of.depth)]
        mean = torch.zeros_like(z, dtype=torch.promote_types(z.dtype, torch.float32))
        posterior = Posterior(mean, mean[..., 0].clone() if of.error_head else None)
        sound = torch.zeros(z.shape[:2], dtype=torch.bool, device=z.device)
        return Seen(z, noise, label, None, mode, [*self.model.parameters()], empty(), empty(), posterior, sound)

    def _some(self, now: Seen, packed: Packed) -> Posterior:
        """The answer with only some tokens computed; their keys and values take the place of older ones."""
        model, log_snr = self.model, self.model.token_levels(now.noise)
        before = 0 if now.context is None else now.context.shape[1]
        z, noise, of = take(now.z, packed), NoiseMap(take(now.noise.log_snr, packed)), take(log_snr, packed)
        modulations = model.modulations(distinct_levels(of), now.label)
        x = model.enter(z, noise, now.label, packed.at)
        turn, look = model.turns(before), Look(log_snr, of, packed, before) if model.config.one_way else None
        if turn is not None:
            turn = turn[0][packed.at + before], turn[1][packed.at + before]
        places = Packed(packed.at + before, packed.real)
        for i, (block, rows) in enumerate(zip(model.each_block, modulations.blocks, strict=True)):

            def attend(q: Heads, k: Heads, v: Heads, i: int = i) -> Heads:
                if turn is not None:
                    q, k = turned(q, turn), turned(k, turn)
                put_(now.keys[i].transpose(1, 2), places, k.transpose(1, 2))
                put_(now.values[i].transpose(1, 2), places, v.transpose(1, 2))
                if look is None:
                    return F.scaled_dot_product_attention(q, now.keys[i], now.values[i])
                return look(q, now.keys[i], now.values[i])

            x = block(x, rows, attend)
        new, old = model.leave(x, z, noise, modulations), now.posterior
        log_var = None
        if new.log_var is not None and old.log_var is not None:
            log_var = put(old.log_var, packed, new.log_var)
        return Posterior(put(old.mean, packed, new.mean), log_var, token_evaluations=packed.at.shape[1])


class Look:
    """One-way attention of some tokens to all: only keys that one of them sees take part, without a mask where each
    sees all of those."""

    def __init__(self, log_snr: Float[Tensor, "b n"], of: Float[Tensor, "b k"], packed: Packed, context: int) -> None:
        same = packed.at[:, :, None] == torch.arange(log_snr.shape[1], device=log_snr.device)
        visible = F.pad(one_way(of, log_snr, same), (context, 0), value=True)
        seen = pack((visible & packed.real[..., None]).any(1))
        assert seen is not None
        self._keys = seen
        visible = take(visible.transpose(1, 2), seen).transpose(1, 2)
        idle = ~packed.real[..., None]  # what fills a row may look at anything, and where
        all_see_all = bool(seen.real.all() and (visible | idle).all())
        self._mask = None if all_see_all else ((visible & seen.real[:, None]) | idle)[:, None]

    def __call__(self, q: Heads, k: Heads, v: Heads) -> Heads:
        k, v = (take(each.transpose(1, 2), self._keys).transpose(1, 2) for each in (k, v))
        return F.scaled_dot_product_attention(q, k, v, self._mask)


def _fits(seen: Seen, z: Tensor, noise: NoiseMap, label: Tensor, context: Tensor | None) -> bool:
    """Whether what is remembered is of tokens of the same shapes, precision and device, after the same context."""
    pairs = [(seen.z, z), (seen.noise.log_snr, noise.log_snr)]
    if any((a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) for a, b in pairs):
        return False
    if seen.context is None or context is None:
        return seen.context is context
    return torch.equal(seen.context, context) and torch.equal(seen.label, label)  # whose modulation may depend on it


def _difference(
    some: Posterior, whole: Posterior, z: Float[Tensor, "b n d"], noise: NoiseMap, wanted: Bool[Tensor, "b n"]
) -> float:
    flow = flow_from_x(whole.mean, z, noise)
    off = (flow_from_x(some.mean, z, noise) - flow)[wanted]
    return float((off.square().sum() / flow[wanted].square().sum()).sqrt())
