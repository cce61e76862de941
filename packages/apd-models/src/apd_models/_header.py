"""The header of safetensors files: equal contents in equal bytes."""

import json
from pathlib import Path


def sort_metadata(file: Path) -> None:
    """Puts a file's metadata in the order of their names, in place. The library writes them in a random one, so that a
    model saved twice is two different files.

    The file begins with the header's length in eight bytes, least first; the header is JSON, padded with spaces.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= length, "the same names and numbers take as many bytes"
        stream.seek(8)
        stream.write(ordered.ljust(length))
