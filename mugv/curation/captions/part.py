"""All clips of a part, many at once: finished ones are logged line by line, the others wait with a reason for the next run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from mugv.curation.captions.ask import Conversation
from mugv.curation.captions.model import Model, NoAnswerError
from mugv.curation.captions.pace import Pace
from mugv.curation.captions.pictures import StoredClip, kept_clips, pictures
from mugv.curation.captions.record import Captioned, CaptionLog, read_captioned, write_captioned
from mugv.errors import UserError
from mugv.media.probe import UnreadableVideoError
from mugv.recipe.curation import SERVICE, Captioning, Curation

Progress = Callable[[int, int, dict[str, float]], None]
Output = tuple[Mapping[str, str], Callable[[], Path | None]]
DECODERS = 2
"""Clips that are decoded at once; each request holds the pictures of one clip and no frames."""
LEAST_LOST = 8
"""Clips in a row without an answer before the server counts as gone, where fewer requests than that are under way."""


def open_model(settings: Captioning) -> Model:
    """The model that the recipe names. Raises UserError when its weights cannot be used."""
    if settings.kind == "transformers":
        from mugv.curation.captions.local import LocalModel

        return LocalModel(settings)
    from mugv.curation.captions.endpoint import Endpoint

    return Endpoint(settings)


def caption_part(
    part: Path, out: Path, work: Path, settings: Curation, progress: Progress, earlier: Iterable[Output] = ()
) -> dict[str, float]:
    """Write captions.jsonl for the kept clips of a part; returns counts, tokens, cost, captions and output tokens a second.

    `earlier`: outputs for other parts by the same model and recipe; what they hold (see `held`) is not asked for again.
    Raises UserError, with a count for each reason, when clips are still waiting after all attempts.
    """
    clips = [clip for clip in kept_clips(part) if not clip.row.caption or settings.tags.kind == "endpoint"]
    log = CaptionLog(work / f"{_identity(clips, settings)}.jsonl")
    taken = _take_over(clips, log, earlier)
    session = Session(clips, settings, log, progress)
    try:
        if session.todo:
            asyncio.run(session.run(open_model(settings.caption)))
    finally:
        log.close()
    if session.waiting:
        raise UserError(session.complaint())
    write_captioned(out, (log.done[clip.row.clip_id] for clip in clips))
    return {**session.metrics(), "taken_over": taken}


def held(part: Path, folder: Path) -> dict[str, str]:
    """Of a finished captions.jsonl, what later parts may take over: clip_id -> digest of what was asked about."""
    digests = {clip.row.clip_id: _asked_about(clip) for clip in kept_clips(part)}
    return {name: digests[name] for name in read_captioned([folder])}


def _asked_about(clip: StoredClip) -> str:
    """The clip, and its own caption: tags are of that one."""
    return hashlib.sha256(f"{clip.row.digest} {clip.row.caption}".encode()).hexdigest()


def _take_over(clips: list[StoredClip], log: CaptionLog, earlier: Iterable[Output]) -> int:
    """Log what earlier outputs hold of the same clips, its tokens as nothing: they are paid for. Returns how many clips that are."""
    missing = {clip.row.clip_id: _asked_about(clip) for clip in clips if clip.row.clip_id not in log.done}
    before = len(missing)
    for holds, folder in earlier if missing else ():
        same = {name for name, digest in holds.items() if missing.get(name) == digest}
        found = folder() if same else None
        for name, captioned in read_captioned([found]).items() if found else ():
            if name in same:
                log.add(replace(captioned, tokens_input=0, tokens_output=0))
                del missing[name]
    return before - len(missing)


def _identity(clips: list[StoredClip], settings: Curation) -> str:
    """What a log holds answers to: a scratch folder that outlives a change of clips or model must not mix them."""
    asked = settings.caption.model_dump(mode="json", exclude={*SERVICE, "score_suffix"})
    facts = [asked, settings.tags.kind, [[clip.row.clip_id, clip.row.digest] for clip in clips]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Session:
    """The clips that are asked for in this process."""

    clips: list[StoredClip]
    settings: Curation
    log: CaptionLog
    progress: Progress
    waiting: dict[str, NoAnswerError] = field(default_factory=dict)
    todo: list[StoredClip] = field(default_factory=list)
    seconds: float = 0.0
    _asked: int = 0
    _tokens: int = 0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.todo = [clip for clip in self.clips if not self._finished(self.log.done.get(clip.row.clip_id))]

    async def run(self, model: Model) -> None:
        caption = self.settings.caption
        self._began = time.perf_counter()
        pace = Pace(caption.requests_a_minute, max(caption.concurrency, LEAST_LOST), well=bool(self.log.done))
        queue = iter(self.todo)
        with ThreadPoolExecutor(DECODERS) as decoders:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(caption.concurrency, len(self.todo))):
                        group.create_task(self._worker(queue, model, pace, decoders))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                self.seconds = time.perf_counter() - self._began
                await model.close()
        if pace.well:
            self._settle(model.name)

    def _settle(self, model: str) -> None:
        """A request that a well server refuses would be refused each time: such a clip has no caption, it does not wait for one."""
        for name, error in list(self.waiting.items()):
            if not error.again:
                del self.waiting[name]
                self.log.add(Captioned(name, source=model, problem=f"the server refuses it: {error}"))

    async def _worker(self, queue: Iterator[StoredClip], model: Model, pace: Pace, decoders: ThreadPoolExecutor) -> None:
        for clip in queue:
            if pace.closed:
                self.waiting[clip.row.clip_id] = pace.closed
                continue
            talk = Conversation(model, self.settings.caption, pace)
            try:
                await self._one(clip, talk, decoders)
            except NoAnswerError as error:
                self.waiting[clip.row.clip_id] = error
            self._asked += 1
            self._tokens += talk.tokens_output
            self._show()

    async def _one(self, clip: StoredClip, talk: Conversation, decoders: ThreadPoolExecutor) -> None:
        """Log the clip's caption as soon as it is there, and once more with its tags: what was paid for is never asked again."""
        name = clip.row.clip_id
        kept = 0, 0
        found = Captioned(name, source=talk.model.name) if clip.row.caption else self.log.done.get(name)
        try:
            if found is None:
                found = await self._caption(clip, talk, decoders)
                self.log.add(found)
                kept = talk.tokens_input, talk.tokens_output
            if not self._finished(found):
                self.log.add(await talk.tags(found, found.caption or clip.row.caption))
        except NoAnswerError:
            self.log.add_lost(talk.tokens_input - kept[0], talk.tokens_output - kept[1])
            raise

    async def _caption(self, clip: StoredClip, talk: Conversation, decoders: ThreadPoolExecutor) -> Captioned:
        caption, loop = self.settings.caption, asyncio.get_running_loop()
        try:
            shown = await loop.run_in_executor(decoders, pictures, clip, caption.frames, caption.short_side)
        except UnreadableVideoError as error:
            return Captioned(clip.row.clip_id, problem=f"the stored clip does not decode: {error}")
        return await talk.caption(clip.row.clip_id, shown)

    def _finished(self, found: Captioned | None) -> bool:
        return found is not None and (bool(found.problem) or self.settings.tags.kind != "endpoint" or found.tags is not None)

    def _show(self) -> None:
        passed = max(1e-9, time.perf_counter() - self._began)
        done = len(self.clips) - len(self.todo) + self._asked
        self.progress(done, len(self.clips), {"captions/s": self._asked / passed, "tokens/s": self._tokens / passed})

    def complaint(self) -> str:
        """One line: how many wait, why, what one server said, and how to go on."""
        counts = ", ".join(f"{reason} {n}" for reason, n in Counter(e.reason for e in self.waiting.values()).most_common())
        last = next(iter(self.waiting.values()))
        said = f"; {last}" if last.detail else ""
        again = "run the same command again: it asks for these alone"
        return f"{len(self.waiting)} of {len(self.clips)} clips wait for a caption ({counts}{said}); {again}"

    def metrics(self) -> dict[str, float]:
        """Tokens and cost are of all runs under this key, rates of this process."""
        found = [self.log.done[clip.row.clip_id] for clip in self.clips]
        tokens = [sum(f.tokens_input for f in found), sum(f.tokens_output for f in found)]
        tokens = [a + b for a, b in zip(tokens, self.log.lost_tokens, strict=True)]
        caption, seconds = self.settings.caption, max(1e-9, self.seconds)
        return {
            "clips": len(found),
            "captioned": sum(bool(f.caption) for f in found),
            "refused": sum(bool(f.problem) for f in found),
            "tokens_input": tokens[0],
            "tokens_output": tokens[1],
            "cost": (tokens[0] * caption.price_input + tokens[1] * caption.price_output) / 1e6,
            "captions_a_second": self._asked / seconds,
            "tokens_a_second": self._tokens / seconds,
        }
