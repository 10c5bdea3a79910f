"""Rules for the structure of the package, each with its reason (docs/contributing/architecture.md)."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from anthropic_proxy.routing.providers import PROVIDERS
from tests.support.paths import ROOT

PACKAGE = "anthropic_proxy"
PACKAGES_WITH_PARTS = {"server", "exchange", "routing", "messages", "wire", "upstream", "workers", "platforms"}

# Module → what it may import of this project, beside `errors` and its own folder. The longest name that fits counts;
# a name means everything below it; `*` means everything.
MAY_IMPORT: Mapping[str, str] = {
    "": "app settings",
    "__main__": "cli platforms.signals platforms.standard_streams",
    "cli": "*",
    "app": "*",
    "settings": "",
    "errors": "",
    "installation": "",
    "lab": "",
    "lab.doctor": "services exchange routing messages wire plugins log redaction settings server.responses"
    " ledger.prices stores.memory doctor_run",
    "doctor_run": "platforms.file_lock redaction routing.providers settings",
    "platforms": "",
    "workers": "workers server services routing settings metrics platforms log.in_progress log.request_feed"
    " stores plugins",
    "plugins": "messages.fidelity settings trace_context",
    "trace_context": "",
    "traces": "plugins settings trace_context log.lines",
    "access": "plugins settings ledger client_keys",
    "client_keys": "settings",
    "plugin_packages": "plugins settings",
    "ledger": "plugins settings redaction messages.fidelity platforms",
    "ledger.prices": "settings routing.providers routing.router.provider_setup",
    "ledger.costs": "plugins settings routing.providers",
    "ledger.model_costs": "settings routing.providers",
    "ledger.usage_export": "settings routing.providers",
    "redaction": "",
    "route_table": "plugins",
    "log": "plugins messages.fidelity redaction",
    "metrics": "plugins",
    "startup": "services log routing server.auth settings",
    "routing.backend_checks": "routing settings platforms.os_errors",
    "upstream.transports": "settings upstream wire.contract",
    "server": "server messages exchange services plugins route_table routing.model_listing settings log platforms"
    " trace_context client_keys",
    "server.web_page": "routing.catalog routing.readiness routing.router settings",
    "server.http1": "platforms server.request_body server.responses",
    "exchange": "redaction services messages routing wire.contract wire.framing upstream plugins log exchange"
    " trace_context",
    "exchange.client_request": "messages plugins trace_context",
    "exchange.gateway": "messages log plugins routing services settings exchange.client_request exchange.pipeline"
    " exchange.model_features exchange.plugin_http exchange.recording",
    "exchange.plugin_http": "plugins services wire.contract",
    "exchange.encoding": "messages wire.contract services exchange.client_request",
    "route_prices": "settings ledger.prices ledger.price_source routing installation",
    "services": "route_prices route_table routing upstream wire.contract plugins log settings platforms.heap stores",
    "stores": "plugins settings",
    "exchange.upstream_stream": "services messages wire.contract wire.framing exchange.watchdog exchange.encoding",
    "exchange.relay": (
        "messages routing wire.contract wire.framing exchange.watchdog exchange.upstream_stream redaction"
    ),
    "exchange.attempts": "redaction services messages routing wire.contract plugins exchange",
    "exchange.adaptation": "messages.fidelity routing.router wire.contract services exchange.encoding",
    "exchange.error_messages": "messages.deltas routing.router wire.contract exchange.relay",
    "exchange.not_found": "routing.providers routing.router settings",
    "exchange.single_call": "messages",
    "exchange.strict_mode": "messages.fidelity routing.router",
    "exchange.request_reader": "messages routing.router routing.rules services exchange.client_request"
    " exchange.route_choice",
    "exchange.route_choice": "messages routing.router routing.rules services settings exchange.call_building"
    " exchange.client_request exchange.encoding",
    "exchange.media_inlining": "messages routing.router upstream.contract wire.contract services"
    " exchange.client_request",
    "exchange.call_building": "messages routing wire.contract services exchange.encoding exchange.client_request",
    "exchange.tool_loop": "services messages routing.router exchange upstream.contract wire.contract platforms.sandbox",
    "routing": "settings plugins wire.contract routing",
    "routing.setup_description": "settings routing plugins",
    "routing.settings_listing": "settings routing.catalog routing.providers routing.router",
    "dashboard": "plugins settings ledger dashboard",
    "dashboard.key": "ledger dashboard access",
    "dashboard.key_audit": "ledger dashboard access",
    "dashboard.key_exports": "ledger dashboard access",
    "dashboard.key_forms": "settings dashboard access",
    "dashboard.key_routes": "plugins ledger dashboard access",
    "dashboard.key_rows": "ledger dashboard access",
    "dashboard.keys": "plugins ledger dashboard access",
    "dashboard.doctor_panel": "settings dashboard doctor_run",
    "dashboard.doctor_processes": "plugins dashboard doctor_run platforms.child_process redaction settings",
    "dashboard.doctor_routes": "plugins dashboard doctor_run",
    "dashboard.exports": "plugins settings ledger dashboard routing.settings_listing",
    "dashboard.configuration": "settings ledger dashboard routing.settings_listing",
    "dashboard.settings_change": "settings routing.providers routing.settings_listing",
    "settings.env_writer": "settings platforms.file_lock platforms.os_errors",
    "routing.providers": "wire settings",
    "routing.router": "settings wire.contract routing.providers routing.catalog routing.naming",
    "routing.rules": "settings messages plugins.storage routing.router",
    "routing.catalog": "wire.contract",
    "routing.catalog.learned": "routing.catalog platforms.file_lock",
    "routing.health": "plugins",
    "routing.model_observations": "plugins",
    "messages": "messages.delta_queue messages.deltas messages.models messages.events messages.usage"
    " messages.automaton",
    "messages.deltas": "",
    "messages.models": "",
    "messages.automaton": "",
    "messages.usage": "messages.deltas messages.models",
    "messages.fidelity": "",
    "messages.sealed_passages": "",
    "messages.domains": "",
    "messages.work_budget": "",
    "messages.json_validation": "messages.work_budget",
    "messages.reply_schema": "messages.work_budget messages.json_validation",
    "messages.preparation": "messages.models messages.fidelity messages.sealed_passages messages.domains",
    "messages.tokens": "messages.models messages.preparation",
    "messages.delta_queue": "messages.deltas",
    "messages.fold": "messages.delta_queue messages.deltas messages.models messages.events messages.writer",
    "wire": "messages redaction wire.contract wire.json_schema wire.signatures wire.failures wire.tool_call_repair"
    " wire.json_repair wire.tool_definition_cache wire.tool_call_ids wire.openai_shared_fields"
    " wire.openai_adaptation wire.trailing_thinking wire.message_encoder"
    " wire.shared_notes wire.json_strings messages.server_blocks wire.finish_reasons"
    " wire.input_counts",
    "wire.contract": "messages",
    "wire.framing": "",
    "wire.json_schema": "messages",
    "wire.signatures": "messages",
    "wire.failures": "messages redaction",
    "wire.tool_call_repair": "messages wire.contract",
    "wire.json_repair": "messages",
    "wire.tool_definition_cache": "messages",
    "wire.trailing_thinking": "messages",
    "messages.server_blocks": "messages",
    "wire.tool_call_ids": "messages wire.contract",
    "wire.message_encoder": "messages wire.json_strings wire.shared_notes",
    "wire.shared_notes": "messages.fidelity",
    "wire.json_strings": "",
    "wire.finish_reasons": "",
    "wire.input_counts": "",
    "wire.openai_shared_fields": "messages wire.contract wire.json_schema wire.shared_notes",
    "wire.openai_adaptation": "messages wire.contract wire.failures wire.json_schema wire.openai_shared_fields",
    "upstream": "wire.contract",
    "upstream.demo": "wire.contract messages.work_budget",
    "upstream.litellm": "wire.contract upstream.public_addresses",
    "upstream.contract": "",
    "upstream.http": "wire.contract upstream.public_addresses",
    "upstream.web_fetch": (
        "upstream.contract upstream.http upstream.public_addresses messages.domains wire.contract platforms.sandbox"
    ),
    "upstream.public_addresses": "",
    "upstream.web_search": "wire.contract upstream.contract messages.domains",
}
SHARED_MODULES = {
    "contract",
    "framing",
    "json_schema",
    "signatures",
    "failures",
    "tool_call_repair",
    "json_repair",
    "tool_definition_cache",
    "message_encoder",
    "tool_call_ids",
    "trailing_thinking",
    "server_tools",
    "openai_shared_fields",
    "openai_adaptation",
    "shared_notes",
    "json_strings",
    "finish_reasons",
    "input_counts",
    "__init__",
}  # modules of wire/ that are shared by wires
BROAD_CATCH_ALLOWED = {
    "access.reservations",
    "exchange.pipeline",
    "exchange.reply_delivery",
    "exchange.recording",
    "log.receipts",
    "server.endpoints",
    "ledger.writer",
    "ledger.writer_thread",
}  # a reservation, an exchange and its reply, a recorder, an observer, a request, a row, a batch
SOCKET_LIBRARIES = (
    "socket aiohttp aiohappyeyeballs httpx requests urllib.request urllib3 http.client pycurl websockets grpc smtplib"
)
SOCKET_USERS = {
    "platforms.os_errors",
    "platforms.server_socket",
    "platforms.socket_events",
    "cli.server_processes",
}
SOCKET_CALLS = {
    "open_connection",
    "open_unix_connection",
    "create_connection",
    "create_unix_connection",
    "sock_connect",
}
POSIX_LIBRARIES = "resource ctypes fcntl termios pwd grp pty tty syslog uvloop msvcrt winreg _winapi"
POSIX_CALLS = {
    *("add_signal_handler", "remove_signal_handler", "add_reader", "remove_reader", "add_writer", "remove_writer"),
    *("pthread_sigmask", "fork", "killpg", "getpgid", "setsid", "getsid", "getuid", "geteuid", "AF_UNIX"),
}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
ENVIRONMENT_READERS = {"getproxies", "getproxies_environment", "proxy_bypass", "expandvars"}
THREAD_LIBRARIES = ("sqlalchemy", "alembic", "genai_prices", "google.auth")  # loaded late, by several threads
THREAD_PACKAGES = {"access", "dashboard", "ledger"}  # several threads load their modules
NONDETERMINISTIC = "time datetime random secrets uuid asyncio threading"
MODEL_FAMILIES = {
    "claude",
    "gpt",
    "chatgpt",
    "gemini",
    "gemma",
    "grok",
    "kimi",
    "llama",
    "mistral",
    "mixtral",
    "qwen",
    "deepseek",
}
FIELD_NAMES = {"google", "x_groq"}  # JSON fields on a wire (`extra_content.google`) that hold a provider's name
FOREIGN_NAMES = {word for row in PROVIDERS for word in (row.name, row.prefix)} | MODEL_FAMILIES


class Module(NamedTuple):
    """One source file."""

    name: str
    """Dotted, without the package: `wire.openai_chat.stream`; the package itself is ``."""
    source: str
    is_folder: bool = False

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.source)

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def own(self) -> str:
        """Name of the module or package. Modules with the same `own` may import each other."""
        parts = self.name.split(".")
        return ".".join(parts[:2] if parts[0] in PACKAGES_WITH_PARTS else parts[:1])

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and absolute dotted name of everything imported, anywhere in the file."""
        here = [PACKAGE, *filter(None, self.name.split("."))]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parents = here[: len(here) - node.level + self.is_folder] if node.level else []
                base = ".".join([*parents, *filter(None, [node.module])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    def literals(self) -> Iterator[ast.Constant]:
        """Texts that the program uses: not docstrings, which are statements of their own."""
        statements = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
                yield node


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def below(name: str, roots: str | Sequence[str]) -> bool:
    """Return whether a dotted name is one of the roots or lies below one."""
    return any(
        name == root or name.startswith(root + ".") for root in (roots.split() if isinstance(roots, str) else roots)
    )


Breaches = Iterator[tuple[int, str]]


def imports_are_allowed(module: Module) -> Breaches:
    row = max((key for key in MAY_IMPORT if below(module.name, [key])), key=len, default=None)
    if row is None:
        yield 1, "has no row in MAY_IMPORT"
        return
    allowed = MAY_IMPORT[row]
    for line, name in module.imports():
        inside = name.removeprefix(PACKAGE).removeprefix(".")
        if (
            not below(name, PACKAGE)
            or allowed == "*"
            or below(inside, ["errors", "installation", "platforms.os_errors", "__version__", module.own])
        ):
            continue
        if not below(inside, allowed):
            yield line, f"imports {inside}; it may import {allowed or 'nothing'} of this project"


def only_upstream_opens_sockets(module: Module) -> Breaches:
    if module.package == "upstream":
        return
    for line, name in module.imports():
        reads_constants = module.package in ("server", "workers") or module.name in SOCKET_USERS
        if below(name, SOCKET_LIBRARIES) and not (reads_constants and below(name, "socket")):
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in SOCKET_CALLS:
            yield node.lineno, f"calls {node.attr}"


def only_settings_reads_the_environment(module: Module) -> Breaches:
    if module.name == "settings" or module.name.startswith("settings."):
        return
    given = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "load_settings":
            given |= {id(argument) for argument in [*node.args, *(pair.value for pair in node.keywords)]}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute) or id(node) in given:
            continue
        of_os = node.attr in ENVIRONMENT and isinstance(node.value, ast.Name) and node.value.id == "os"
        if of_os or node.attr in ENVIRONMENT_READERS:
            yield node.lineno, f"touches {ast.unparse(node)} for another purpose than an argument of load_settings"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "trust_env" and ast.unparse(node.value) != "False":
            yield node.value.lineno, "lets a library read the environment (trust_env)"
    for line, name in module.imports():
        last = name.rpartition(".")[2]
        if last in ENVIRONMENT_READERS or name in {f"os.{word}" for word in ENVIRONMENT} or below(name, "dotenv"):
            yield line, f"imports {name}"


def only_platforms_calls_the_operating_system(module: Module) -> Breaches:
    if module.package == "platforms":
        return
    for line, name in module.imports():
        if below(name, POSIX_LIBRARIES):
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in POSIX_CALLS:
            yield node.lineno, f"calls {node.attr}"


def one_registry_finds_providers(module: Module) -> Breaches:
    if module.name.startswith("routing.providers"):
        return
    given = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"load_settings", "SettingsReader"}:
            given |= {id(argument) for argument in node.args}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "PROVIDERS" and id(node) not in given:
            yield node.lineno, "uses PROVIDERS for another purpose than an argument of load_settings"


def wires_export_two_names(module: Module) -> Breaches:
    if module.package != "wire" or module.own != module.name or module.name.split(".")[-1] in {*SHARED_MODULES, "wire"}:
        return
    if "__all__ = ['WIRE', 'Dialect']" not in map(ast.unparse, module.tree.body):
        yield 1, "does not export WIRE and Dialect, and nothing else"


def wires_name_no_provider_and_no_model(module: Module) -> Breaches:
    if module.package != "wire":
        return
    foreign = FOREIGN_NAMES - {module.own.split(".")[-1]}  # a wire may carry its vendor's name, as the file does
    for node in module.literals():
        for word in re.findall(
            r"[a-z]+", str(node.value).lower().replace("xai-", "")
        ):  # a key's beginning, for masking
            if word in foreign and node.value not in FIELD_NAMES:
                yield node.lineno, f"holds the text {node.value!r}, which names {word}"
    for node in ast.walk(module.tree):
        compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            compared = [node.func.value] if node.func.attr in ("startswith", "endswith", "find", "count") else []
        for side in compared:
            if isinstance(side, ast.Attribute) and side.attr in ("model", "provider"):
                yield node.lineno, f"compares {ast.unparse(side)}"


def messages_and_wires_are_deterministic(module: Module) -> Breaches:
    if module.package in ("messages", "wire"):
        yield from ((line, f"imports {name}") for line, name in module.imports() if below(name, NONDETERMINISTIC))


def libraries_are_loaded_before_their_parts(module: Module) -> Breaches:
    def walk(node: ast.AST, loaded: set[str]) -> Breaches:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in (
                    [child.module or ""] if isinstance(child, ast.ImportFrom) else [each.name for each in child.names]
                ):
                    for library in THREAD_LIBRARIES:
                        if name == library:
                            loaded.add(name)
                        elif below(name, library) and library not in loaded:
                            yield child.lineno, f"imports {name} before {library}"
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, {*loaded} if is_function else loaded)

    yield from walk(module.tree, set())


def packages_of_threads_import_none_of_their_modules(module: Module) -> Breaches:
    if module.is_folder and module.package in THREAD_PACKAGES:
        deferred = {
            line for function in module.functions() for line in range(function.lineno, function.end_lineno or 0)
        }
        for line, name in module.imports():
            if line not in deferred and below(name, f"{PACKAGE}.{module.name}"):
                yield line, f"imports {name}"


def modules_are_short(module: Module) -> Breaches:
    lines = module.source.count("\n")
    if lines > 350:
        yield 350, f"has {lines} lines"


def functions_are_short(module: Module) -> Breaches:
    for node in module.functions():
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > 40:
            yield node.lineno, f"{node.name} has {lines} lines"


def module_names_are_specific(module: Module) -> Breaches:
    if vague := {"utils", "util", "helpers", "helper", "common", "misc"} & set(module.name.split(".")):
        yield 1, f"has the vague name {vague.pop()}"


def failures_are_caught_by_name(module: Module) -> Breaches:
    if module.name in BROAD_CATCH_ALLOWED:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
            if re.search(r"\b(everything|Exception|BaseException)\b", caught) and not raises:
                yield node.lineno, f"catches {caught} and does not raise it again"


def public_names_have_docstrings(module: Module) -> Breaches:
    def walk(node: ast.Module | ast.ClassDef) -> Breaches:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith(
                "_"
            ):
                if ast.get_docstring(child) is None and "override" not in ast.dump(ast.List(child.decorator_list)):
                    yield child.lineno, f"{child.name} has none"
                if isinstance(child, ast.ClassDef):
                    yield from walk(child)

    if ast.get_docstring(module.tree) is None:
        yield 1, "the module has none"
    yield from walk(module.tree)


class Rule(NamedTuple):
    """A condition that must hold, and its reason."""

    check: Callable[[Module], Breaches]
    reason: str


RULES = (
    Rule(
        imports_are_allowed,
        "Packages import only what MAY_IMPORT lists (section 2); `exchange/` calls the packages below it.",
    ),
    Rule(
        only_upstream_opens_sockets,
        "Limits, proxies and cancellation hold only if every connection is opened in one package: upstream/.",
    ),
    Rule(
        only_platforms_calls_the_operating_system,
        "A call that one system lacks has a replacement for other systems in one package: platforms/.",
    ),
    Rule(
        only_settings_reads_the_environment,
        "A variable that is read elsewhere has no default, no check and no line in the documentation.",
    ),
    Rule(
        one_registry_finds_providers,
        "Providers of the configuration file are missing in PROVIDERS. `find_registry(settings)` has all of them.",
    ),
    Rule(
        wires_export_two_names,
        "A wire package exports its instance of `Wire` and its dialect class. The type checker verifies their members.",
    ),
    Rule(
        wires_name_no_provider_and_no_model,
        "Models change weekly. A deviation is a field of the Dialect, set by an entry in routing/providers.",
    ),
    Rule(
        messages_and_wires_are_deterministic,
        "Golden files replay to the byte only if clock and identifiers are arguments.",
    ),
    Rule(
        libraries_are_loaded_before_their_parts,
        "`import library` waits until another thread has loaded the library; `import library.part` may load the part at"
        " the same time, and both threads then see incomplete modules. Write `from library import part`.",
    ),
    Rule(
        packages_of_threads_import_none_of_their_modules,
        "A thread that loads a module waits for its package. The package must not wait for this module in another"
        " thread, because both threads then see incomplete modules.",
    ),
    Rule(modules_are_short, "A module with more than 350 lines has two subjects. Make it a package of the same name."),
    Rule(functions_are_short, "More than 40 lines do not fit on one screen. Move steps into functions with names."),
    Rule(
        module_names_are_specific,
        "Such a name does not describe the contents. Put the code into the module that uses it, or name its subject.",
    ),
    Rule(
        failures_are_caught_by_name,
        "A broad `except` hides failures. Only the modules in BROAD_CATCH_ALLOWED may have one.",
    ),
    Rule(public_names_have_docstrings, "A docstring states the result, units, errors and source (section 13)."),
)


@cache
def modules_of_the_package() -> list[Module]:
    """Every source file, as it is on disk."""
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        is_folder = parts[-1] == "__init__"
        found.append(Module(".".join(parts[:-1] if is_folder else parts), path.read_text("utf-8"), is_folder))
    return found
