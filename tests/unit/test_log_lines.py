"""Log lines: the access log is written in groups, everything else at once, and no order is lost."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from counterseal import telemetry
from counterseal.telemetry import ACCESS_DELAY_SECONDS, ACCESS_GROUP, ACCESS_LOG, CLEAN, LinesHandler

SCRIPT = """
import asyncio, logging
from counterseal import telemetry
telemetry.configure(telemetry.TelemetryConfig(), {})
async def main():
    logging.getLogger(telemetry.ACCESS_LOG).info("call", extra={telemetry.CLEAN: {"code": "OK"}})
asyncio.run(main())
"""


class Stream(io.StringIO):
    """A stream that counts its writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


@pytest.fixture
def stream() -> Iterator[Stream]:
    """The root logger writes to it for one test."""
    root, out = logging.getLogger(), Stream()
    handlers, level = root.handlers[:], root.level
    telemetry.configure(telemetry.TelemetryConfig(), {"service": "test"}, out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


def access(number: int) -> None:
    logging.getLogger(ACCESS_LOG).info("call", extra={CLEAN: {"number": number}})


def numbers(stream: Stream) -> list[int | None]:
    return [json.loads(line).get("number") for line in stream.getvalue().splitlines()]


async def test_calls_are_written_together_and_within_their_delay(stream: Stream) -> None:
    for number in range(20):
        access(number)
    assert stream.writes == 0
    await asyncio.sleep(2 * ACCESS_DELAY_SECONDS)
    assert (numbers(stream), stream.writes) == (list(range(20)), 1)
    access(20)
    await asyncio.sleep(2 * ACCESS_DELAY_SECONDS)
    assert numbers(stream) == list(range(21))


async def test_any_other_line_is_written_at_once_behind_the_calls_before_it(stream: Stream) -> None:
    access(1)
    logging.getLogger("counterseal.rpc").error("a handler failed")
    assert numbers(stream) == [1, None]


async def test_a_group_has_a_largest_size(stream: Stream) -> None:
    for number in range(ACCESS_GROUP + 1):
        access(number)
    assert numbers(stream) == list(range(ACCESS_GROUP))
    await asyncio.sleep(2 * ACCESS_DELAY_SECONDS)
    assert numbers(stream) == list(range(ACCESS_GROUP + 1))


def test_without_a_loop_a_call_is_written_at_once(stream: Stream) -> None:
    access(1)
    assert numbers(stream) == [1]


def test_the_end_of_the_process_writes_what_waits() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    assert [json.loads(line)["code"] for line in result.stderr.splitlines()] == ["OK"]


async def test_a_stream_that_fails_does_not_end_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    handler = LinesHandler(closed)
    closed.close()
    record = logging.LogRecord("other", logging.ERROR, "", 0, "text", (), None)
    handler.emit(record)
    assert "ValueError" in capsys.readouterr().err


def test_clean_fields_are_part_of_the_line_and_others_are_searched_for_secrets(stream: Stream) -> None:
    logging.getLogger("x").warning("m", extra={"note": "password=hunter2", CLEAN: {"method": "/a/b"}})
    line = json.loads(stream.getvalue())
    assert line["method"] == "/a/b"
    assert "hunter2" not in stream.getvalue()
    assert CLEAN not in line
