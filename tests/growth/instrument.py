"""Import of the package with its code rewritten, so that it counts its work (`work.py`).

The rewritten code gives the same results. `install` must run before the first import of the package.
"""

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.growth import work

PACKAGE = "anthropic_proxy"
_NAME = "__growth_work__"
_UNCOUNTED = frozenset(("super", "cast", "TypeVar", "NamedTuple", "locals", "globals", "vars"))
"""Functions that the compiler, a type checker or their caller's frame gives a meaning."""


class _Rewriter(ast.NodeTransformer):
    """Puts counting calls around calls, operators, loops and comprehensions."""

    def _counted(self, name: str, node: ast.expr, *values: ast.expr) -> ast.Call:
        function = ast.Attribute(ast.Name(_NAME, ast.Load()), name, ast.Load())
        return ast.copy_location(ast.Call(function, list(values), []), node)

    def _statement(self, name: str, node: ast.AST, *values: ast.expr) -> ast.Expr:
        function = ast.Attribute(ast.Name(_NAME, ast.Load()), name, ast.Load())
        return ast.copy_location(ast.Expr(ast.Call(function, list(values), [])), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _UNCOUNTED:
            return self.generic_visit(node)
        self.generic_visit(node)
        node.func = self._counted("call", node.func, node.func)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.Mult | ast.Mod | ast.BitOr):
            return self._counted("result", node, node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                value.value = self.visit(value.value)
        return self._counted("result", node, node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            return self._counted("result", node, node)
        return node

    def _display(self, node: ast.List | ast.Tuple | ast.Set) -> ast.AST:
        self.generic_visit(node)
        loaded = isinstance(node, ast.Set) or isinstance(node.ctx, ast.Load)
        if loaded and any(isinstance(element, ast.Starred) for element in node.elts):
            return self._counted("result", node, node)
        return node

    visit_List = visit_Set = _display

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        return self._counted("result", node, node) if None in node.keys else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) != 1:
            return node
        kind, right = node.ops[0], node.comparators[0]
        if isinstance(kind, ast.In | ast.NotIn):
            found = self._counted("contains", node, node.left, right)
            return found if isinstance(kind, ast.In) else ast.copy_location(ast.UnaryOp(ast.Not(), found), node)
        if isinstance(kind, ast.Eq):
            return self._counted("equals", node, node.left, right)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Add) or isinstance(node.target, ast.Subscript):
            return node
        target = node.target
        loaded: ast.expr = (
            ast.Name(target.id, ast.Load())
            if isinstance(target, ast.Name)
            else ast.Attribute(target.value, target.attr, ast.Load())
        )
        node.value = self._counted("result", node.value, node.value)
        return [node, self._statement("added", node, ast.copy_location(loaded, node))]

    def visit_Delete(self, node: ast.Delete) -> ast.AST | list[ast.stmt]:
        counts = [
            self._statement("deleted", node, target.value)
            for target in node.targets
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
        ]
        self.generic_visit(node)
        return [*counts, node]

    def visit_Assign(self, node: ast.Assign) -> ast.AST | list[ast.stmt]:
        counts = [
            self._statement("deleted", node, target.value)
            for target in node.targets
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice)
        ]
        self.generic_visit(node)
        return [*counts, node]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self._statement("step", node))
        return node

    visit_For = visit_AsyncFor = visit_While = _loop

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        returns, node.returns = node.returns, None
        self.generic_visit(node)
        node.returns = returns
        place = 1 if ast.get_docstring(node, clean=False) is not None else 0
        node.body.insert(place, self._statement("step", node))
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        function = ast.Attribute(ast.Name(_NAME, ast.Load()), "step", ast.Load())
        node.ifs.insert(0, ast.copy_location(ast.Call(function, [], []), node.target))
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        pattern, node.pattern = node.pattern, ast.MatchAs()
        self.generic_visit(node)
        node.pattern = pattern
        return node


def rewrite(source: str | bytes, path: str, names: dict[str, Any]) -> CodeType:
    names[_NAME] = work
    tree = ast.fix_missing_locations(_Rewriter().visit(ast.parse(source)))
    code: CodeType = compile(tree, path, "exec", dont_inherit=True)
    return code


def copy_counting(module: ModuleType) -> ModuleType:
    """Return a second instance of a module that counts its work, without that of other modules."""
    assert module.__file__ is not None
    copy = ModuleType(f"{module.__name__}{_NAME}")
    sys.modules[copy.__name__] = copy  # where types look up the names in their annotations
    exec(rewrite(Path(module.__file__).read_bytes(), module.__file__, copy.__dict__), copy.__dict__)
    return copy


class _CountingLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        path = self.get_filename(module.__name__)
        exec(rewrite(self.get_data(path), path, module.__dict__), module.__dict__)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _CountingLoader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Have all modules of the package count their work from now on."""
    assert not any(name.partition(".")[0] == PACKAGE for name in sys.modules), "the package is imported already"
    sys.meta_path.insert(0, _Finder())
