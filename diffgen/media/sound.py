"""A clip's sound: copied as it is where the new container can hold it, else encoded again."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from diffgen.errors import UsageError
from diffgen.media.containers import Sound

# Codecs that may be copied, and the encoder for all others.
HELD = {
    ".mp4": (("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"), "aac"),
    ".webm": (("opus", "vorbis"), "libopus"),
}


class SoundTrack:
    """Adds the sound of another clip to a container that is being written.

    Args:
        av: PyAV.
        out: the open container; nothing may be written to it before this is made.
        seconds: the length of the new clip; the track ends there at the latest.

    Raises:
        UsageError: the other clip cannot be read.
    """

    def __init__(self, av: Any, out: Any, extension: str, sound: Sound, seconds: Fraction) -> None:
        self.av, self.out, self.sound = av, out, sound
        self.start, self.stop = sound.start, sound.start + seconds
        self.notes: tuple[str, ...] = ()
        self.stream: Any = None
        copied, encoder = HELD[extension]
        with self._opened() as source:
            tracks = source.streams.audio
            if not tracks:
                self.notes = (f"{sound.path} has no sound",)
                return
            found, context = tracks[0].codec_context.name, tracks[0].codec_context
            self.copied = found in copied
            if self.copied:
                self.stream = out.add_stream_from_template(tracks[0])
                return
            # Opus knows a few rates only; 48 kHz is its own.
            rate = 48000 if encoder == "libopus" else context.sample_rate
            self.stream = out.add_stream(encoder, rate=rate, layout=context.layout.name)
            self.notes = (
                f"{extension} holds no {found}, so the sound was encoded again as {encoder.removeprefix('lib')}",
            )

    def copy(self) -> None:
        """Writes the part of the sound that belongs to the clip."""
        if self.stream is None:
            return
        with self._opened() as source:
            track = source.streams.audio[0]
            if self.copied:
                self._copy(source, track)
            else:
                self._encode(source, track)

    def _opened(self) -> Any:
        try:
            return self.av.open(str(self.sound.path))
        except (self.av.FFmpegError, OSError) as error:
            raise UsageError(f"the sound of {self.sound.path} cannot be read: {error.strerror or error}") from error

    def _copy(self, source: Any, track: Any) -> None:
        shift = round(self.start / track.time_base)
        for packet in source.demux(track):
            if packet.pts is None or not self.start <= packet.pts * track.time_base < self.stop:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self.stream
            self.out.mux(packet)

    def _encode(self, source: Any, track: Any) -> None:
        context = self.stream.codec_context
        resampler = self.av.AudioResampler(format=context.format, layout=context.layout, rate=context.sample_rate)
        most = round((self.stop - self.start) * context.sample_rate)
        fifo, written = self.av.AudioFifo(), 0

        def write(frame: Any) -> None:
            for packet in self.stream.encode(frame):
                self.out.mux(packet)

        def frames() -> Any:
            for frame in source.decode(track):
                time = frame.pts * frame.time_base
                if self.start <= time < self.stop:
                    frame.pts = None
                    yield from resampler.resample(frame)
            yield from resampler.resample(None)

        # Encoders take blocks of one size; only the last may be shorter.
        size = context.frame_size or 1024
        for frame in frames():
            frame.pts = None
            fifo.write(frame)
            while fifo.samples >= size and written + size <= most:
                written = self._write_block(fifo.read(size), written, write)
        rest = min(fifo.samples, most - written)
        if rest > 0:
            self._write_block(fifo.read(rest), written, write)
        write(None)

    def _write_block(self, frame: Any, written: int, write: Any) -> int:
        frame.pts, frame.time_base = written, Fraction(1, frame.sample_rate)
        write(frame)
        return written + frame.samples
