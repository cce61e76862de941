"""Under which names foreign checkpoints keep the parts of a DiT."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .._hub import ModelFolderError

LEAVES = {"position": ("",), "label": (".weight",)}
"""What a module holds, where it is not a weight and a bias."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of modules, from ours to theirs.

    Args:
        name: of the layout.
        conventions: that such weights are trained with.
        blocks: name of the list of blocks.
        outside: modules outside the blocks.
        inside: modules of each block.
    """

    name: str
    conventions: tuple[str, ...]
    blocks: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]

    def depth(self, names: Iterable[str]) -> int:
        """Number of blocks among the names, at least one."""
        return max(1, len({found[1] for name in names if (found := re.match(rf"{self.blocks}\.(\d+)\.", name))}))

    def names(self, depth: int) -> dict[str, str]:
        """Names of all tensors, from ours to theirs."""
        modules = dict(self.outside)
        for i in range(depth):
            modules |= {f"blocks.{i}.{ours}": f"{self.blocks}.{i}.{theirs}" for ours, theirs in self.inside.items()}
        leaves = {ours: LEAVES.get(ours.rpartition(".")[2], (".weight", ".bias")) for ours in modules}
        return {ours + leaf: modules[ours] + leaf for ours in modules for leaf in leaves[ours]}


ORIGINAL = Layout(
    "the layout of DiT and SiT",
    ("dit", "sit"),
    "blocks",
    {
        "embed": "x_embedder.proj",
        "position": "pos_embed",
        "level.hidden": "t_embedder.mlp.0",
        "level.out": "t_embedder.mlp.2",
        "label": "y_embedder.embedding_table",
        "head_modulation.linear": "final_layer.adaLN_modulation.1",
        "head": "final_layer.linear",
    },
    {
        "modulation.linear": "adaLN_modulation.1",
        "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
        "feed_forward.hidden": "mlp.fc1",
        "feed_forward.out": "mlp.fc2",
    },
)

DIFFUSERS = Layout(
    "the layout of diffusers",
    ("diffusers", "dit"),
    "transformer_blocks",
    {"embed": "pos_embed.proj", "head_modulation.linear": "proj_out_1", "head": "proj_out_2"},
    {
        "level.hidden": "norm1.emb.timestep_embedder.linear_1",
        "level.out": "norm1.emb.timestep_embedder.linear_2",
        "label": "norm1.emb.class_embedder.embedding_table",
        "modulation.linear": "norm1.linear",
        "attention.q": "attn1.to_q",
        "attention.k": "attn1.to_k",
        "attention.v": "attn1.to_v",
        "attention.out": "attn1.to_out.0",
        "feed_forward.hidden": "ff.net.0.proj",
        "feed_forward.out": "ff.net.2",
    },
)


def layout_of(names: Iterable[str]) -> Layout:
    """Which layout the names are of."""
    names = set(names)
    for layout in (ORIGINAL, DIFFUSERS):
        if f"{layout.outside['embed']}.weight" in names:
            return layout
    raise ModelFolderError(
        "these are no weights of DiT, SiT or diffusers' DiT: x_embedder.proj.weight or pos_embed.proj.weight was "
        f"expected, found {_some(names)}"
    )


def check_names(found: Iterable[str], layout: Layout, depth: int) -> None:
    """Refuses weights of a network that has parts that DiT lacks, or lacks parts of it."""
    found, wanted = set(found), set(layout.names(depth).values())
    for names, what in ((wanted - found, "lack"), (found - wanted, "have, besides those of a DiT,")):
        if names:
            raise ModelFolderError(f"these weights in {layout.name} {what} {_some(names)}")


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"
