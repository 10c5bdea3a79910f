"""Decoder of YAML whose work is proportional to the text: aliases, merge keys and numbers cannot multiply it."""

from typing import Any

from anthropic_proxy.errors import ConfigurationError, build_extra_install_command
from anthropic_proxy.gateway.settings.values import redact_and_shorten

_MORE_VALUES = 10_000
"""Maximum number of values that aliases add, beside one for each character."""
_MAX_DIGITS = 100
_MAX_PROBLEM_CHARACTERS = 200


def decode_yaml(text: str, name: str) -> Any:
    """Return the document in `text`, the content of the file `name`.

    Raises `ConfigurationError` with the line of an error, and `RecursionError`.
    """
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        command = build_extra_install_command("import")
        raise ConfigurationError(
            f"{name} is YAML, which needs PyYAML. It is not installed:  {command}", code="import-file"
        ) from None

    if character := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, character.start()) + 1
        raise _reject(name, f"line {line}: the character {character[0]!r} is not allowed")

    loader = None
    try:
        loader = _build_loader(yaml)(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise _reject(name, f"line {mark.line + 1}: {redact_and_shorten(problem, _MAX_PROBLEM_CHARACTERS)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _build_loader(yaml: Any) -> Any:
    """Return the loader with the parser in C if there is one, which is six times as fast.

    Its composer is not used: it has no limit of levels, so that many of them end the process.
    """
    in_python = yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser
    parsers = (yaml.cyaml.CParser,) if yaml.__with_libyaml__ else in_python
    others = yaml.composer.Composer, yaml.constructor.SafeConstructor, yaml.resolver.Resolver

    class Loader(others[0], *parsers, *others[1:]):  # type: ignore[misc, valid-type]
        values = 0
        """Number of values so far, those behind aliases included."""

        def __init__(self, text: str) -> None:
            self.max_values = _MORE_VALUES + len(text)
            self.sizes: dict[int, int] = {}
            """Identity of a node → number of values in it, itself included."""
            parsers[0].__init__(self, text)
            for kind in (*parsers[1:], *others):
                kind.__init__(self)

        def compose_node(self, parent: Any, index: Any) -> Any:
            is_alias = self.check_event(yaml.AliasEvent)
            before = self.values
            mark = self.peek_event().start_mark
            node = super().compose_node(parent, index)
            if is_alias and id(node) not in self.sizes:
                raise yaml.composer.ComposerError(None, None, "an alias stands in its own value", mark)
            self.values += self.sizes[id(node)] if is_alias else 1
            self.sizes.setdefault(id(node), self.values - before)
            if self.values > self.max_values:
                raise yaml.composer.ComposerError(None, None, "aliases make too many values", mark)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
            problem = "a number has too many digits"
            if not is_number or len(node.value) <= _MAX_DIGITS:
                try:
                    return super().construct_object(node, deep)
                except (ValueError, ArithmeticError, LookupError, AttributeError):  # of the functions for one type
                    problem = f"this is no value of the type {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    return Loader


def _reject(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is not valid YAML: {problem}.", code="import-file")
