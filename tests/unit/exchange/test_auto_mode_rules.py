"""The table of calls that are harmless without a question to a model: whatever is not certain by its text is asked."""

import re
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.safeguards.rules import (
    FREE_TOOLS,
    HARMLESS_COMMANDS,
    HARMLESS_GIT_COMMANDS,
    READING_TOOLS,
    find_harmless_rule,
)
from tests.support.paths import ROOT

SHOP = "/home/ada/shop"
CONTEXT: dict[str, Any] = {
    "live_cwd": SHOP,
    "trusted_directories": {"primary": {"path": SHOP, "resolved": [SHOP]}, "additional": [], "network": []},
    "auto_mode": {"allow": ["Reading."], "soft_deny": [], "hard_deny": [], "environment": ["All is ours."]},
    "restricted": False,
    "classify_all_shell": False,
}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("Read", {"file_path": f"{SHOP}/a.py", "limit": 5}),
        ("Read", {"file_path": "src/a.py"}),
        ("Read", {"file_path": "src/keyboard.py"}),
        ("Read", {"file_path": "src/tokenizer.py"}),
        ("Grep", {"pattern": "rm -rf", "path": SHOP, "output_mode": "content"}),
        ("Grep", {"pattern": "$(id)", "glob": "*.{ts,tsx}"}),
        ("Glob", {"pattern": "**/*.py"}),
        ("Glob", {"pattern": "src/**/*.{ts,tsx}"}),
        ("TodoWrite", {"todos": []}),
        ("ToolSearch", {"query": "select:WebFetch"}),
        ("AskUserQuestion", {"questions": []}),
        ("StructuredOutput", {"answer": "rm -rf /"}),
    ],
)
def test_tools_that_only_read_inside_of_the_directories_are_harmless(tool: str, arguments: Any) -> None:
    assert find_harmless_rule(tool, arguments, CONTEXT)


@pytest.mark.parametrize(
    "command",
    [
        *("pwd", "whoami", "date", "ls", "ls -la src", "ls -R", "head -n 5 a.txt", "head -5 a.txt", "tail -n 20 a.log"),
        *(f"cat {SHOP}/a.txt", "cat a.txt b.txt", "wc -l src/a.py", "stat a.txt", "file a.bin", "tree -L 2 src"),
        *("git status", "git status --short", "git log --oneline -5", "git diff --stat", "git show HEAD"),
    ],
)
def test_commands_that_only_read_inside_of_the_directories_are_harmless(command: str) -> None:
    assert find_harmless_rule("Bash", {"command": command, "description": "Look", "timeout": 5}, CONTEXT)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        # another place
        ("Read", {"file_path": "/home/ada/shop2/a"}),
        ("Read", {"file_path": "/home/ada/shopping"}),
        ("Read", {"file_path": f"{SHOP}/../../../etc/shadow"}),
        ("Read", {"file_path": "~/a"}),
        ("Read", {"file_path": "~root/a"}),
        ("Read", {"file_path": "/proc/self/environ"}),
        ("Read", {"file_path": "/home/ada/.ssh/id_rsa"}),
        ("Read", {"file_path": "C:\\Users\\ada\\a"}),
        ("Read", {"file_path": "//server/share/a"}),
        ("Grep", {"pattern": "x", "path": "/"}),
        ("Glob", {"pattern": "../**"}),
        ("Glob", {"pattern": "/etc/*"}),
        ("Glob", {"pattern": "{a,/etc/*}"}),
        ("Glob", {"pattern": "{a,../b}/*"}),
        ("Glob", {"pattern": "*", "path": "/home/ada"}),
        ("Grep", {"pattern": "x", "glob": "{.env,a}"}),
        # secrets
        ("Read", {"file_path": f"{SHOP}/.env"}),
        ("Read", {"file_path": f"{SHOP}/prod.env"}),
        ("Read", {"file_path": f"{SHOP}/.git/config"}),
        ("Read", {"file_path": f"{SHOP}/deploy/id_ed25519"}),
        ("Read", {"file_path": f"{SHOP}/server.key"}),
        ("Read", {"file_path": f"{SHOP}/cert.PEM"}),
        ("Read", {"file_path": f"{SHOP}/Secrets/a.txt"}),
        ("Read", {"file_path": f"{SHOP}/aws_credentials.json"}),
        ("Read", {"file_path": f"{SHOP}/passwords.csv"}),
        ("Read", {"file_path": f"{SHOP}/api_token.txt"}),
        ("Read", {"file_path": f"{SHOP}/terraform.tfstate"}),
        # another form
        ("Read", {"file_path": f"{SHOP}/a\u200b"}),
        ("Read", {"file_path": f"{SHOP}/a\n"}),
        ("Read", {"file_path": f"{SHOP}/a\x00"}),
        ("Read", {"file_path": f"{SHOP}/-a"}),
        ("Read", {"file_path": f"{SHOP}/{'a' * 1_000}"}),
        ("Read", {"file_path": f"{SHOP}/a", "unknown": 1}),
        ("Read", {"file_path": f"{SHOP}/a", "limit": {"a": 1}}),
        ("Read", {"file_path": ["a"]}),
        ("Read", {"file_path": None}),
        ("Read", {}),
        ("Read", "a"),
        ("Read", None),
        # another tool
        ("Edit", {"file_path": f"{SHOP}/a"}),
        ("Write", {"file_path": f"{SHOP}/a", "content": ""}),
        ("mcp__files__Read", {"file_path": f"{SHOP}/a"}),
        ("read", {"file_path": f"{SHOP}/a"}),
        ("Read ", {"file_path": f"{SHOP}/a"}),
        ("PowerShell", {"command": "ls"}),
        ("Monitor", {"command": "ls"}),
        ("BashOutput", {}),
        ("WebFetch", {"url": "https://example.com"}),
        ("Agent", {"prompt": "look"}),
        ("Skill", {"skill": "x"}),
        ("", {}),
        # another way to run a command
        ("Bash", {"command": "ls", "run_in_background": True}),
        ("Bash", {"command": "ls", "dangerouslyDisableSandbox": True}),
        ("Bash", {"command": "ls", "env": {"PATH": "."}}),
        ("Bash", {"command": ["ls"]}),
        ("Bash", "ls"),
        ("Bash", {}),
    ],
)
def test_a_call_that_is_not_certain_is_asked(tool: str, arguments: Any) -> None:
    assert find_harmless_rule(tool, arguments, CONTEXT) == ""


COMMANDS = (
    # two commands, and commands in commands
    *("ls; rm -rf a", "ls && rm a", "ls || rm a", "ls | sh", "ls & rm a", "ls\nrm a", "ls\rrm a", "ls\r\nrm a"),
    *("ls $(rm -rf x)", "ls `rm x`", "cat <(rm x)", "ls >(rm x)", "cat <<E\n$(rm x)\nE", "cat <<<x", "(ls)", "{ ls; }"),
    *("! ls", "if ls", "time ls", "exec ls", "eval ls", "command ls", "builtin ls", "env ls", "sudo ls", "xargs ls"),
    *("bash -c ls", "sh a.sh", "./ls", "/bin/ls", "nohup ls", "source a", ". a", "watch ls", "timeout 5 ls"),
    # redirections
    *("ls > a", "ls >> a", "ls 2> a", "ls >| a", "ls &> a", "cat < a", "ls 2>&1"),
    # variables, assignments, aliases, quotes, patterns
    *("cat $HOME", "cat ${HOME}", "A=1 ls", "PATH=. ls", "LD_PRELOAD=a.so ls", "GIT_PAGER=sh git log", "alias ls=rm"),
    *("ls 'a'", 'ls "a"', "l\\s", "cat $'a'", "cat a*", "cat a?", "cat [a]", "cat {a,b}", "ls ~", "cat ~root/a", "!ls"),
    *("ls #a", "ls %1", "ls a:b", "ls ^a"),
    # options that write, follow, or run programs
    *("find . -delete", "find . -exec rm a", "find . -fprint a", "sed -n w", "sed -i a", "sort -o a b", "tee a"),
    *("tar --to-command=sh -xf a.tar", "tar xf a.tar", "rg --pre sh x", "man -P sh ls", "less a", "more a", "vim a"),
    *("tail -f a", "tail -F a", "tail --follow a", "date -s 1", "date --set=1", "file -C", "file -m a", "tree -o a"),
    *("wc --files0-from=a", "ls --color=always", "stat -f a", "head --bytes=5 a", "awk 1 a", "jq . a", "xxd a"),
    *("git -C / status", "git -c core.pager=sh log", "git --exec-path=. status", "git --git-dir=a status"),
    *("git diff --ext-diff", "git diff --no-index a b", "git diff --output=a", "git log --output=x", "git log -O a"),
    *("git show --textconv", "git status --ignored=a", "git push", "git config x", "git branch -D a", "git fetch"),
    *("git stash", "git checkout a", "git grep -O a", "git", "git -p log", "git log --format=x", "git st"),
    # other places and secrets
    *(
        "cat /etc/passwd",
        "cat ../x",
        "cat a/../../x",
        "cat .env",
        "cat prod.env",
        "cat id_rsa",
        "cat /proc/self/environ",
    ),
    *("cat .git/config", "ls ..", "ls /", "ls /home/ada", "cat /dev/sda", "cd /etc", "cd ..", "cd src", "pushd /etc"),
    *("cat -", "cat --", "cat -a", "head -n -f a", "cat //etc/passwd", "printenv", "env", "set", "history", "id"),
    # look-alikes
    *(
        "l\u0455 a",
        "ls\u00a0a",
        "ls\u3000a",
        "\uff4c\uff53",
        "ls \u202ea",
        "ls\u200b",
        "ls a\u0301",
        "\ufeffls",
        "ls\x00",
    ),
    *(
        " ls",
        "ls ",
        "ls  a",
        "ls\t",
        "\tls",
        "ls\x0ba",
        "",
        " ",
        "pwd x",
        "whoami x",
        "date x",
        "LS",
        f"ls {'a' * 1_000}",
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_not_certain_is_asked(command: str) -> None:
    assert find_harmless_rule("Bash", {"command": command}, CONTEXT) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"restricted": True},
        {"classify_all_shell": True},
        {"trusted_directories": None},
        {"trusted_directories": {"primary": {"path": "/"}}},
        {"trusted_directories": {"primary": {"path": "/home"}}},
        {"trusted_directories": {"primary": {"path": "../shop"}}},
        {"live_cwd": "/"},
        {"live_cwd": "/home/ada"},
        {"live_cwd": None},
        {"auto_mode": {"hard_deny": ["Reading payroll."]}},
        {"auto_mode": {"soft_deny": ["Reading payroll."]}},
    ],
)
def test_the_client_and_the_user_can_have_all_commands_asked(change: dict[str, Any]) -> None:
    assert find_harmless_rule("Bash", {"command": "ls"}, {**CONTEXT, **change}) == ""


def test_the_guide_lists_the_harmless_calls() -> None:
    guide = (ROOT / "docs/guide/auto-mode.md").read_text("utf-8")
    whole, _, _ = guide.partition("Some calls need no model")[2].partition("The model is asked nevertheless")
    listed = [re.findall(r"`([^`]+)`", line) for line in whole.splitlines() if line.startswith("- ")]
    commands = [*HARMLESS_COMMANDS, *(f"git {name}" for name in HARMLESS_GIT_COMMANDS)]
    assert listed == [[*READING_TOOLS], sorted(FREE_TOOLS), commands]
