"""Words for shells: none of them is read as anything but itself."""

import shutil
import subprocess

import pytest

from anthropic_proxy.engine.platforms.shells import Shell, format_set_command, quote_word

HOSTILE = (
    *("local/m;>PWNED;#", "a b", "$(id)", "`id`", "$HOME", "%PATH%", "it's", 'say "x"', "a&b|c", "*", "~", "!!", "\\n"),
    *("‘;calc;’", "a\\", "-x", "a^b", "(x)", "@x", "#x", "a=b"),
)


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize("program", ["sh", "bash", "fish"])
def test_a_posix_shell_reads_each_word_as_it_is(program: str, word: str) -> None:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"platform: no {program}")
    shell: Shell = "fish" if program == "fish" else "sh"
    script = f"{format_set_command(shell, 'WORD', word)}\nprintf '%s\\n%s\\n' {quote_word(word, shell)} \"$WORD\""
    done = subprocess.run([path, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{word}\n{word}\n"


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("gpt-5.2", "gpt-5.2"),
        ("it's", "'it''s'"),
        ("local/’;calc;’", "'local/’’;calc;’’'"),
        ("$env:X", "'$env:X'"),
        ("@x", "'@x'"),
        ("a,b", "'a,b'"),
    ],
)
def test_powershell_quotes_each_of_its_quotation_marks(word: str, quoted: str) -> None:
    assert quote_word(word, "powershell") == quoted
    assert format_set_command("powershell", "WORD", word) == f"$env:WORD = '{quoted.strip(chr(39))}'"


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("gpt-5.2", "gpt-5.2"),
        ("a b", '"a b"'),
        ("a&calc", '"a&calc"'),
        ("%PATH%", "^%PATH^%"),
        ('a"&calc&"b', 'a^"^&calc^&^"b'),
        ("a!x", "a^!x"),
    ],
)
def test_cmd_reads_no_variable_and_no_command(word: str, quoted: str) -> None:
    assert quote_word(word, "cmd") == quoted
