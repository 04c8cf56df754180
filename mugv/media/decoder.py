"""Decoding in a process of its own: the same frames as `decode.VideoReader` gives, over shared memory, some of them ahead.

Python threads of one process wait for each other's interpreter lock at every small call (0.2 ms a frame were lost so); two
processes do not. And a file on which the decoder crashes, or hangs, costs that file, not the run.

    this process                                     the decoder's
    ("read", path, wants, slots read)          ->
                                               <-    ("frames", [(slot, layout, index, seconds, key, ...), ...], info)
    ("more", slots read) for each group        ->
                                               <-    ("end", what `VideoReader` knows then, error)
    "stop" at any time; "end" follows          ->
"""

from __future__ import annotations

import atexit
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from mugv.media.decode import Frame, VideoReader
from mugv.media.picture import Converter, Decoded, Layout, Want, packed, unpacked
from mugv.media.probe import NoVideoStreamError, UnreadableVideoError, VideoInfo
from mugv.media.slots import Reader, Slot, Writer
from mugv.media.start import started_decoder

AHEAD_BYTES, AHEAD = 48 * 2**20, 64
"""What the decoder may be ahead: so much memory, so many frames."""
TOGETHER, TOGETHER_LARGE = 8, 2
"""Frames that it hands over at a time; fewer of those that take long to decode."""
STALLED_SECONDS = 120.0
"""Without a message from the decoder, after which the file counts as one that never ends; a group of frames takes a second at most."""
KEPT_BYTES = 384 * 2**20
"""Memory with which a decoder waits for the next file; one that has more is ended. A 4K file leaves 240 MiB; damaged ones that claim
large pictures left 3 GiB after some hundreds, which the allocator never gave back."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Ends of the decoder's process that the file is to blame for."""


class DecoderError(RuntimeError):
    """Decoding raised an error of the program; the message names it."""


class DecoderEndedError(RuntimeError):
    """The decoder's process was ended from outside: most likely for want of memory; `stopped`: since all is being stopped."""

    def __init__(self, signal_: signal.Signals) -> None:
        super().__init__(f"the decoder's process was ended ({signal_.name}), most likely for want of memory")
        self.stopped = signal_ in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


_ERRORS: dict[str, type[Exception]] = {"no video": NoVideoStreamError, "unreadable": UnreadableVideoError, "failed": DecoderError}


class ProcessReader:
    """Iterates over the frames of a file, once. Attributes as `VideoReader`'s; all but `info` are set when the last frame was given."""

    def __init__(self, path: Path, wants: Sequence[Want]) -> None:
        """`wants`: the uses of the frames; of larger ones halves are kept."""
        self.path, self.wants = path, wants
        self.info: VideoInfo | None = None
        self.problem = ""
        self.busy_seconds = self.seconds = 0.0
        self.count = 0

    def __iter__(self) -> Iterator[Frame]:
        """Raises UnreadableVideoError (NoVideoStreamError) before the first frame; later errors end the iteration and set `problem`.

        DecoderError and DecoderEndedError at any time.
        """
        process = _idle.pop() if _idle else _Process()
        try:
            process.send(("read", str(self.path), self.wants, process.slots.take_freed()))
            while (message := process.receive())[0] == "frames":
                self.info = message[2]
                while process.group:
                    frame = process.next_frame()
                    self.count, self.seconds = self.count + 1, frame.seconds
                    yield frame
                process.send(("more", process.slots.take_freed()))
            vars(self).update(message[1])
            if message[2]:
                kind, text = message[2]
                if kind == "failed":
                    # What it left in the process is not known.
                    process.close()
                raise _ERRORS[kind](text)
        except _CrashError as crash:
            self.problem = str(crash)
            if not self.count:
                raise UnreadableVideoError(self.problem) from None
        finally:
            process.leave()


class _CrashError(Exception):
    """The decoder's process died of the file."""


class _Process:
    """One running decoder; reads one file after the other."""

    def __init__(self) -> None:
        self.child, ours, self.file = started_decoder()
        self.pipe = Connection(ours.detach())
        self.slots = Reader(self.file)
        self.converters: dict[Layout, Converter] = {}
        self.group: deque[Any] = deque()
        """Frames that have come and were not asked for yet."""
        self.busy = False

    def send(self, message: Any) -> None:
        """Not when the process is gone: `receive` tells."""
        self.busy = True
        try:
            self.pipe.send(message)
        except OSError:
            return

    def receive(self) -> Any:
        """The next message. Raises _CrashError when the file is why there is none, else DecoderError or DecoderEndedError."""
        try:
            if not self.pipe.poll(STALLED_SECONDS):
                raise _CrashError(f"the decoder made no progress for {STALLED_SECONDS:g} s")
            message = self.pipe.recv()
        except (EOFError, OSError):
            code = self.child.wait()
            self.close()
            if -code in CRASHES:
                raise _CrashError(f"the decoder crashed ({signal.Signals(-code).name})") from None
            if code < 0:
                raise DecoderEndedError(signal.Signals(-code)) from None
            raise DecoderError(f"the decoder's process ended (exit code {code})") from None
        except BaseException:
            # Interrupted, when half a message may have been read, or stalled.
            self.close()
            raise
        if message[0] == "frames":
            self.group.extend(message[1])
        self.busy = message[0] != "end"
        return message

    def next_frame(self) -> Frame:
        slot, layout, index, seconds, *marks = self.group.popleft()
        return Frame(index, seconds, unpacked(self.slots.read(slot), layout, self.converters), None, *marks)

    def leave(self) -> None:
        """Ready for another file; what is left of this one is passed over."""
        if self.busy and not self.pipe.closed:
            self.send("stop")
        with suppress(_CrashError, RuntimeError):
            while self.busy and not self.pipe.closed:
                self.receive()
        self.slots.freed.extend(slot for slot, *_ in self.group)
        self.group.clear()
        self.converters.clear()
        if self.pipe.closed:
            return
        if psutil.Process(self.child.pid).memory_info().rss > KEPT_BYTES:
            self.close()
        else:
            _idle.append(self)

    def close(self) -> None:
        """End the process and wait for it; it has nothing to lose."""
        self.child.kill()
        self.child.wait()
        self.pipe.close()
        os.close(self.file)


_idle: list[_Process] = []


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()


def serve(pipe: int, file: int) -> None:
    """The decoder's process: reads files as it is told until the other side goes away."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _Server(Connection(pipe), Writer(file)).run()
    except (EOFError, OSError):
        return


class _Server:
    def __init__(self, pipe: Connection[Any, Any], slots: Writer) -> None:
        self.pipe, self.slots = pipe, slots
        self.unsent: set[Slot] = set()

    def run(self) -> None:
        while True:
            message = self.pipe.recv()
            if message[0] == "read":
                self.slots.take_back(message[3])
                self._read(message[1], message[2])
            elif message[0] == "more":
                self.slots.take_back(message[1])

    def _read(self, path: str, wants: Sequence[Want]) -> None:
        reader, error = VideoReader(path), None
        try:
            self._send_frames(reader, wants)
        except NoVideoStreamError as problem:
            error = ("no video", str(problem))
        except UnreadableVideoError as problem:
            error = ("unreadable", str(problem))
        except Exception as problem:
            # When it is the pipe that broke, the message below ends the process.
            error = ("failed", f"{type(problem).__name__}: {problem}")
        self.slots.take_back(self.unsent)
        self.unsent.clear()
        known = {name: getattr(reader, name) for name in ("info", "problem", "busy_seconds", "count", "seconds")}
        self.pipe.send(("end", known, error))

    def _send_frames(self, reader: VideoReader, wants: Sequence[Want]) -> None:
        group: list[Any] = []
        waiting = 0
        for shown in reader.read(lambda picture: self._keep(picture, wants)):
            assert shown.kept is not None
            slot, layout = shown.kept
            group.append((slot, layout, shown.index, shown.seconds, shown.key, shown.corrupt, shown.piece))
            together = TOGETHER if reader.threads == 1 else TOGETHER_LARGE
            if len(group) < together:
                continue
            self._send(group, reader)
            waiting += together
            group = []
            while self.pipe.poll(None if waiting >= min(AHEAD, AHEAD_BYTES // slot.size) else 0):
                message = self.pipe.recv()
                if message == "stop":
                    return
                self.slots.take_back(message[1])
                waiting -= together
        if group:
            self._send(group, reader)

    def _send(self, group: list[Any], reader: VideoReader) -> None:
        self.pipe.send(("frames", group, reader.info))
        self.unsent.difference_update(item[0] for item in group)

    def _keep(self, picture: Decoded, wants: Sequence[Want]) -> tuple[Slot, Layout]:
        parts, layout = packed(picture, wants)
        slot = self.slots.write(parts)
        self.unsent.add(slot)
        return slot, layout
