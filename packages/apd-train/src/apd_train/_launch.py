"""Starting processes, and ending them."""

import sys

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment


def launch(fabric: Fabric) -> None:
    """``fabric.launch()`` that also works from an app that is a folder, as in ``python apps/train``.

    With several devices Fabric starts the other processes by repeating the command. For a folder, ``__main__`` has a
    spec whose name is ``__main__``, and Fabric would run ``python -m __main__``, which fails; without a spec it repeats
    ``sys.argv[0]``, the folder.
    """
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", None) == "__main__":
        main.__spec__ = None
    fabric.launch()


def exit_status(fabric: Fabric, status: int) -> int:
    """The status that this process is to end with, where all of them end with ``status`` at the same place.

    It is 0 for those that the first process has started. That one looks after them every few seconds and kills all,
    itself too, when one has ended with another status, be it that it is about to end with the same. What counts is its
    own. A process that fails alone must not ask here: the others wait for it and have to be killed.
    """
    environment = getattr(fabric.strategy, "cluster_environment", None)
    return 0 if isinstance(environment, LightningEnvironment) and environment.local_rank() > 0 else status
