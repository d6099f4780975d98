"""Print figures of the source's structure: files in the root, layers, cycles, the longest function and file.

python scripts/structure.py [SRC]    # SRC: the folder that holds the package, by default src
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "excise"


def modules(root: Path) -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(path: Path, paths: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in paths else node.module


def components(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components with more than one member, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in arrows[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                circles.append(sorted(members))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return circles


def floors(arrows: Mapping[str, set[str]]) -> int:
    """Return the number of rooms on the longest chain of imports between rooms, without going round a cycle."""
    height: dict[str, int] = {}

    def of(node: str, above: tuple[str, ...]) -> int:
        if node not in height:
            below = [of(t, (*above, node)) for t in arrows[node] if t not in above and t != node]
            height[node] = 1 + max(below, default=0)
        return height[node]

    return max(of(node, ()) for node in sorted(arrows))


def rooms(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports between rooms, which are the packages and the modules in the package's root."""
    between: dict[str, set[str]] = defaultdict(set)
    for node, targets in arrows.items():
        room = _room(node)
        between[room] |= {_room(t) for t in targets} - {room}
    for target in {t for targets in list(between.values()) for t in targets}:
        between[target] |= set()
    return between


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def functions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield (lines, parameters, "file:name") of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            yield (node.end_lineno or 0) - node.lineno + 1, count, f"{path.name}:{node.name}"


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "src")
    paths = modules(root)
    arrows = {name: set(imports(path, paths)) - {name, PACKAGE} for name, path in paths.items()}
    between = rooms({name: targets for name, targets in arrows.items() if name != PACKAGE})
    longest = sorted((f for path in paths.values() for f in functions(path)), reverse=True)
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}
    largest = max(lines, key=lambda name: lines[name])
    assigned = sum(path.read_text(encoding="utf-8").count("found = ") for path in paths.values())
    print("files in the root:", len(list((root / PACKAGE).glob("*.py"))))
    print("files:", len(paths), "lines:", sum(lines.values()))
    print("rooms:", len(between), "arrows:", sum(map(len, between.values())), "floors:", floors(between))
    print("circles of rooms:", components(between) or 0)
    print("circles of files:", components(arrows) or 0)
    print("longest function:", *longest[0][::2], "above 60 lines:", sum(n > 60 for n, _, _ in longest))
    most = max(longest, key=lambda f: f[1])
    print("most parameters:", *most[1:], "above 8:", sum(n > 8 for _, n, _ in longest))
    print("largest file:", largest, lines[largest])
    print("'found = ':", assigned)


if __name__ == "__main__":
    main()
