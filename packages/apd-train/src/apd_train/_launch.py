"""Starting processes."""

import sys

from lightning_fabric import Fabric


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
