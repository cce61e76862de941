"""Counter-based randomness: every random number of a run is a function of the seed, a purpose and a counter.

No generator's state outlives a batch, so nothing has to be saved for a run to go on as it would have, and what one
purpose draws does not shift what another draws.
"""

import hashlib

from torch import Generator


def generator(seed: int, purpose: str, counter: int = 0) -> Generator:
    """A CPU generator for one purpose at one count, independent of all others (a 63-bit BLAKE2b hash of the three)."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
