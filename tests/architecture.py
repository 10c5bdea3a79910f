"""Rules for the structure of the package, each with its reason (docs/contributing/architecture.md)."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from anthropic_proxy.engine.providers import PROVIDERS
from tests.support.paths import ROOT

PACKAGE = "anthropic_proxy"

SOCKET_LIBRARIES = (
    "socket aiohttp aiohappyeyeballs httpx requests urllib.request urllib3 http.client pycurl websockets grpc smtplib"
)
SOCKET_USERS = {
    "engine.platforms.os_errors",
    "gateway.platforms.sockets",
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
THREAD_LIBRARIES = ("sqlalchemy", "genai_prices", "google.auth")  # loaded late, by several threads
THREAD_PACKAGES = {
    "console.keys",
    "console.dashboard",
    "console.gateway_protocol",
    "console.doctor",
    "console.identity",
    "console.ledger",
    "console.scim",
}  # several threads load their modules
DATE_READERS = {
    "app",
    "cli.ask",
    "cli.code",
    "console.doctor.stored_runs",
    "cli.health",
    "cli.keys",
    "cli.ledger_access",
    "cli.live_view",
    "cli.logs",
    "cli.remote_proxy",
    "cli.use",
    "console.dashboard.key_form",
    "console.dashboard.palette",
    "console.dashboard.services",
    "console.gateway_protocol.managed_settings",
    "console.gateway_protocol.plugin",
    "console.gateway_protocol.usage",
    "console.gateway_protocol.grants",
    "console.gateway_protocol.sign_in",
    "console.identity.oidc_client",
    "console.identity.token_issuers",
    "console.keys.access",
    "console.keys.access_tokens",
    "console.keys.administration",
    "console.keys.alerts",
    "console.keys.key_policy",
    "console.keys.group_tables",
    "console.keys.key_table",
    "console.keys.own_budget",
    "console.keys.process_limits",
    "console.keys.request_limits",
    "console.keys.service_tokens",
    "console.ledger.bind_people",
    "console.ledger.database",
    "console.ledger.event_push",
    "console.scim.plugin",
    "console.session_models.service",
    "console.session_models.table",
    "console.ledger.instance_watch",
    "console.ledger.instances",
    "console.ledger.receipt_queue",
    "console.ledger.activity_store",
    "console.ledger.retention",
    "console.ledger.spool",
    "console.ledger.writer",
    "engine.engine",
    "engine.ids",
    "engine.upstream.cloud_credentials",
    "engine.upstream.demo",
    "gateway.server.process",
    "gateway.services",
    "gateway.telemetry.log",
    "gateway.workers.link",
}
"""Modules that need the date: to store it, to show it, or to compare it with a date that another program wrote."""
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
FIELD_NAMES = {"google", "x_groq", "google-gemini-v1"}
"""JSON fields on a wire (`extra_content.google`) and values (`reasoning_details[].format`) with a provider's name."""
FOREIGN_NAMES = {word for row in PROVIDERS for word in (row.name, row.prefix)} | MODEL_FAMILIES


class Module(NamedTuple):
    """One source file."""

    name: str
    """Dotted, without the package: `engine.wires.openai_chat.stream`; the package itself is ``."""
    source: str
    is_folder: bool = False

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.source)

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


def only_upstream_opens_sockets(module: Module) -> Breaches:
    if below(module.name, ["engine.upstream", "cli.proxy_client"]):  # the latter calls the proxy, no provider
        return
    for line, name in module.imports():
        reads_constants = below(module.name, "gateway.server gateway.workers") or module.name in SOCKET_USERS
        if below(name, SOCKET_LIBRARIES) and not (reads_constants and below(name, "socket")):
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in SOCKET_CALLS:
            yield node.lineno, f"calls {node.attr}"


def only_settings_reads_the_environment(module: Module) -> Breaches:
    if below(
        module.name, ["gateway.settings", "engine.platforms.sandbox"]
    ):  # the latter gives a process what starts it
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
    if below(module.name, "engine.platforms gateway.platforms"):
        return
    for line, name in module.imports():
        if below(name, POSIX_LIBRARIES):
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in POSIX_CALLS:
            yield node.lineno, f"calls {node.attr}"


def wires_name_no_provider_and_no_model(module: Module) -> Breaches:
    if not below(module.name, "engine.wires"):
        return
    foreign = FOREIGN_NAMES - {*module.name.split(".")[2:3]}  # a wire may carry its vendor's name, as the file does
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
        compared = [part for side in compared for part in (side.elts if isinstance(side, ast.Tuple) else [side])]
        if isinstance(node, ast.Compare) and all(ast.unparse(side).endswith((".model", "None")) for side in compared):
            continue  # one model is compared with another
        for side in compared:
            if isinstance(side, ast.Attribute) and side.attr in ("model", "provider"):
                yield node.lineno, f"compares {ast.unparse(side)}"


def messages_and_wires_are_deterministic(module: Module) -> Breaches:
    if below(module.name, "engine.messages engine.wires"):
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
    if module.is_folder and below(module.name, sorted(THREAD_PACKAGES)):
        deferred = {
            line for function in module.functions() for line in range(function.lineno, function.end_lineno or 0)
        }
        for line, name in module.imports():
            if line not in deferred and below(name, f"{PACKAGE}.{module.name}"):
                yield line, f"imports {name}"


def durations_need_no_date(module: Module) -> Breaches:
    if module.name in DATE_READERS:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time":
            yield node.lineno, "reads the clock of the machine"


def patterns_are_made_by_modules(module: Module) -> Breaches:
    for function in module.functions():
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "compile_later":
                continue
            if isinstance(node.args[0], ast.Constant):
                yield node.lineno, "makes a pattern with each call"


def only_the_admission_makes_origins_of_clients(module: Module) -> Breaches:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or module.name == "engine.exchange.admission":
            continue
        if ast.unparse(node.func) == "ClientOrigin":
            yield node.lineno, "makes a ClientOrigin"


DECODERS = {"msgspec.json.decode", "json.loads"}
BODY_NAMES = {"body", "_body"}
BODY_READERS = {"engine.messages.models.client_json", "engine.messages.models.decode"}
NO_BODIES = {
    *BODY_READERS,
    "gateway.server.tour",
    "engine.wires.anthropic.reply_forms",
    "engine.wires.anthropic.stream",
}
"""The readers, a module that shows the bodies of its own example, and those that read replies."""
PARTS_OF_BODIES = (
    "engine.messages engine.exchange engine.histories engine.providers gateway.inspectors gateway.server "
    "console.ledger.contents console.dashboard.conversation"
)
REQUEST_ENCODERS = (
    "request",
    "tools",
    "conversation",
    "json_schema",
    "rejected_fields",
    "betas",
    "batches",
    "json_spans",
)
UNTYPED_READERS = {
    *NO_BODIES,
    "engine.messages.models.raw_json",  # below the reader
    "engine.messages.models.tool_arguments",  # of replies
    "engine.messages.reply_schema",  # of replies
    "engine.messages.json_validation",  # a schema with a number out of range is refused
    "engine.exchange.final_calls",  # of replies
    "engine.exchange.inspection.reply",  # of replies
    "engine.exchange.safeguards.relayed",  # of replies
}
"""Modules whose decoding without a type is not one of a client's text, with the reason."""


def only_the_reader_decodes_bodies_of_clients(module: Module) -> Breaches:
    if not below(module.name, [*PARTS_OF_BODIES.split(), "engine.wires.anthropic"]) or module.name in NO_BODIES:
        return
    decoders = {*DECODERS}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assign) and (made := ast.unparse(node.value)).endswith((").decode", ").raw_decode")):
            decoders |= {ast.unparse(target) for target in node.targets if "Decoder(" in made}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in decoders:
            continue
        for given in node.args:
            whole = given.args[0] if isinstance(given, ast.Call) and given.args else given  # bytes(body)
            name = whole.id if isinstance(whole, ast.Name) else whole.attr if isinstance(whole, ast.Attribute) else ""
            if name in BODY_NAMES:
                yield node.lineno, f"decodes a body: {ast.unparse(node)}"


def parts_of_bodies_are_decoded_with_a_type_or_by_the_reader(module: Module) -> Breaches:
    is_encoder = below(module.name, "engine.wires") and module.name.rpartition(".")[2] in REQUEST_ENCODERS
    if not (is_encoder or below(module.name, PARTS_OF_BODIES)) or module.name in UNTYPED_READERS:
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in DECODERS:
            continue
        if not any(pair.arg == "type" for pair in node.keywords):
            yield node.lineno, f"decodes without a type: {ast.unparse(node)}"


class Rule(NamedTuple):
    """A condition that must hold, and its reason."""

    check: Callable[[Module], Breaches]
    reason: str


RULES = (
    Rule(
        only_upstream_opens_sockets,
        "Limits, proxies and cancellation hold only if every connection is opened in one package: engine/upstream/.",
    ),
    Rule(
        only_the_admission_makes_origins_of_clients,
        "A request of the proxy must not reach what the rules of its client exclude. Only the admission knows them.",
    ),
    Rule(
        only_platforms_calls_the_operating_system,
        "A call that one system lacks has a replacement for other systems in `platforms`.",
    ),
    Rule(
        only_settings_reads_the_environment,
        "A variable that is read elsewhere has no default, no check and no line in the documentation.",
    ),
    Rule(
        wires_name_no_provider_and_no_model,
        "Models change weekly. A deviation is a field of the Dialect, set by an entry in engine/providers.",
    ),
    Rule(
        only_the_reader_decodes_bodies_of_clients,
        "A body with half a character, a byte order mark or a repeated key means the same everywhere only if all parts"
        " of the proxy read it by `client_json.py`. A reply is read by `decode_json`, or has another name than `body`.",
    ),
    Rule(
        parts_of_bodies_are_decoded_with_a_type_or_by_the_reader,
        "msgspec refuses a number beyond 64 bits wherever it is, so a decoder without a type fails because of a field"
        " that nobody reads. Use `decode_values`.",
    ),
    Rule(
        messages_and_wires_are_deterministic,
        "Golden files replay to the byte only if clock and identifiers are arguments.",
    ),
    Rule(
        durations_need_no_date,
        "The clock of a machine may be set at any time. Durations come from time.monotonic or engine/clock.py.",
    ),
    Rule(
        patterns_are_made_by_modules,
        "The growth tests measure the patterns that exist after the import of all modules.",
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
