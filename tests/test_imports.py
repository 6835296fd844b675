"""The packages are layers: each imports those before it, and none after it."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers import PACKAGE

LAYERS = ["base", "kernels", "core", "runs", "export", "report", "sweeps"]
CORE = LAYERS[:3]
FILES = {
    ".".join(["microgpt", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer(module):
    """The place of a module's package in the list; what is at the top level, the commands too, comes last."""
    package = module.split(".")[1] if "." in module else ""
    return LAYERS.index(package) if package in LAYERS else len(LAYERS)


def imports(module, tree):
    """The modules of this package that some code imports, within functions and for type checkers too."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            start = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                if name in FILES or source in FILES:
                    yield name if name in FILES else source


def at_import(tree):
    """The code without what runs later or never: functions, and what is for type checkers alone."""

    class Remover(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        def visit_If(self, node):
            if ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
            return self.generic_visit(node)

    return Remover().visit(tree)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    """A module imports none of a package that comes after its own."""
    found = imports(module, ast.parse(FILES[module].read_text(encoding="utf-8")))
    assert [name for name in found if layer(name) > layer(module)] == []


def test_no_cycles():
    """No module needs itself while it is being imported."""
    graph = {
        module: set(imports(module, at_import(ast.parse(path.read_text(encoding="utf-8"))))) - {module}
        for module, path in FILES.items()
    }
    assert sum(map(len, graph.values())) > 200
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [name for name in FILES if layer(name) < len(CORE)])
def test_the_core_stands_alone(module):
    """The core names nothing that is built on it, not as a text for import_module either."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    later = [f"{dots}{name}" for name in LAYERS[len(CORE) :] for dots in (".", "microgpt.")]
    assert [text for text in texts if text.startswith(tuple(later))] == []


def test_every_package_has_its_place():
    """A new package has a line in the list of packages, or is the commands'."""
    packages = {path.parent.name for path in PACKAGE.rglob("*.py")} - {PACKAGE.name}
    assert packages == {*LAYERS, "commands"}
    assert len(list(PACKAGE.glob("*.py"))) <= 8
