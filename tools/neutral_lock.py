"""Reduces a uv.lock on stdin to what does not depend on a package index: names, versions and workspace members.

The git filter of .gitattributes; uv completes such a file from the index at hand on the next `uv run`.
"""

import sys
import tomllib

lock = tomllib.loads(sys.stdin.read())
print(f'version = {lock["version"]}\nrevision = {lock["revision"]}\nrequires-python = "{lock["requires-python"]}"')
for package in lock["package"]:
    ((kind, place),) = package["source"].items()
    print(f'\n[[package]]\nname = "{package["name"]}"')
    if "version" in package:
        print(f'version = "{package["version"]}"')
    print(f'source = {{ {kind} = "{"." if kind == "registry" else place}" }}')
