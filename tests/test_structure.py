"""The house: each room imports only from floors below it, without circles, and files stay small (CONTRIBUTING.md)."""

import ast
import collections
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "his4mae_jax"
# From the lowest floor to the highest. Data flows the same way: volumes, fields of view, step, checkpoint, features,
# centres, labels, scores, report.
FLOORS = (
    ("errors", "bucket", "files", "palette", "progress", "workdir", "settings", "config"),
    ("data", "models"),
    ("pretext",),
    ("training",),
    ("inference",),
    ("clustering",),
    ("export",),
    ("output",),
    ("probe",),
    ("evaluation",),
    ("naming",),
    ("figures",),
    ("compare",),
    ("report",),
    ("view",),
    ("library",),
    ("cli", "main", "__main__"),
)
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
LINES, FILES = 300, 12


def modules():
    """Path of each module of the package by its dotted name."""
    names = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        names[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return names


def imports(names):
    """`{module: modules it imports}`, late imports too."""
    graph = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                targets = (f"{node.module}.{alias.name}" for alias in node.names)
                graph[name] |= {t if t in names else node.module for t in targets}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in names}
        graph[name] -= {name, PACKAGE}
    return graph


def circles(graph):
    """Groups of nodes that reach each other (Tarjan's strongly connected components of two nodes or more)."""
    index, low, stack, groups = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def room(name, names):
    """The folder of a module; a module at the top of the package is a room of its own."""
    folder = names[name].parent
    return name if folder.name == PACKAGE else ".".join(folder.relative_to(ROOT).parts)


NAMES = modules()
GRAPH = imports(NAMES)


def test_every_room_has_a_floor():
    rooms = {name.split(".")[1] for name in NAMES if name != PACKAGE}
    assert rooms <= set(LEVEL), rooms - set(LEVEL)


def test_the_documentation_lists_the_rooms_from_the_lowest_floor_up():
    text = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+(?:/|\.py)`(?:, )?)+) \|", text, re.MULTILINE)
    listed = [name.removesuffix("/").removesuffix(".py") for row in rows for name in re.findall(r"`(.+?)`", row)]
    assert sorted(listed) == sorted(set(LEVEL) - {"__main__"})
    levels = [LEVEL[name] for name in listed]
    assert levels == sorted(levels)


def test_no_import_runs_up():
    def level(name):
        return LEVEL[name.split(".")[1]]

    up = [(a, b) for a, found in GRAPH.items() if a != PACKAGE for b in found if level(b) > level(a)]
    assert not up


def test_no_circle_of_files():
    assert not circles(GRAPH)


def test_no_circle_of_rooms():
    rooms = collections.defaultdict(set)
    for name, found in GRAPH.items():
        for other in found:
            if name != PACKAGE and room(name, NAMES) != room(other, NAMES):
                rooms[room(name, NAMES)].add(room(other, NAMES))
    assert not circles(rooms)


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]


def test_files_are_short():
    assert not {str(p): n for p in NAMES.values() if (n := len(p.read_text("utf-8").splitlines())) > LINES}


def test_folders_are_not_crowded():
    count = collections.Counter(p.parent for p in NAMES.values() if p.name != "__init__.py")
    assert not {str(folder): n for folder, n in count.items() if n > FILES}


@pytest.mark.parametrize("name", sorted(n for n, p in NAMES.items() if p.name == "__init__.py"))
def test_every_room_says_what_it_is(name):
    assert ast.get_docstring(ast.parse(NAMES[name].read_text("utf-8")))


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[1:2] not in (["cli"], ["main"])])
def test_errors_below_the_command_line_name_no_flags(name):
    """They also reach users of the library."""
    raised = [node for node in ast.walk(ast.parse(NAMES[name].read_text("utf-8"))) if isinstance(node, ast.Raise)]
    constants = [node.value for error in raised for node in ast.walk(error) if isinstance(node, ast.Constant)]
    assert not [text for text in constants if isinstance(text, str) and "--" in text]


def public_functions(body, prefix=""):
    """(name, node) of the public functions and methods of a module or class, `__init__` included."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield prefix + node.name, node


def unannotated(node, method):
    """Arguments of a function that have no type, and "return"."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    missing = [a.arg for a in arguments[method and not static :] if a.annotation is None]
    return missing + ["return"] * (node.returns is None and node.name != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_public_functions_say_the_types_they_take_and_return(name):
    for function, node in public_functions(ast.parse(NAMES[name].read_text(encoding="utf-8")).body):
        assert not unannotated(node, "." in function), function
