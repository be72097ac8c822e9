"""Terminal output shows what a terminal would obey."""

import os
import subprocess
import sys
import threading

from counterseal.cli.output import fenced, shown


def test_control_ansi_bidi_and_invisible_characters_are_shown_as_escapes() -> None:
    hostile = "a\x1b[31mred\u202egnp\u200b\x07\u2028z"
    assert shown(hostile) == "a\\u{1b}[31mred\\u{202e}gnp\\u{200b}\\u{7}\\u{2028}z"


def test_ordinary_text_of_any_language_is_left_alone() -> None:
    assert shown("Größe 東京 €5") == "Größe 東京 €5"


def test_cut_text_says_how_much_is_missing() -> None:
    assert fenced("x" * 12, limit=10).splitlines() == ["  | xxxxxxxxxx", "  | [... 2 more characters]"]


def test_what_is_said_is_seen_at_once_by_whoever_reads_a_pipe() -> None:
    script = "import sys; from counterseal.cli.output import emit, say; say('one'); emit({'two': 2}); sys.stdin.read()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, stdout = list[bytes](), process.stdout
        reader = threading.Thread(target=lambda: lines.extend((stdout.readline(), stdout.readline())))
        reader.start()
        reader.join(10)
        seen = list(lines)
        process.stdin.close()
    assert seen == [b"one\n", b'{"two": 2}\n']
