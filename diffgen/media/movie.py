"""MP4 and WebM through PyAV: encoded as the frames come, then put beside the sound with the recipe in front.

The frames are encoded into a file without a name. At the end its packets are copied, not encoded again, into the
real one: by then the recipe is whole, and an MP4's index can stand at the front ("faststart").

H.264 and H.265 halve the colour resolution only of even sizes. Nothing is padded or rescaled: an odd clip is written
with full colour resolution (4:4:4), which every software player shows and some devices do not. VP9 and AV1 take any
size. Colours are BT.709 in limited range, and the file says so.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from diffgen.errors import DiffgenError, UsageError, unknown
from diffgen.media.containers import Encoding, Shape, Sound

if TYPE_CHECKING:
    import numpy as np

    from diffgen.recipe import Recipe

BT709, LIMITED = 1, 1  # ITU-T H.273, tables 2 to 4; AVCOL_RANGE_MPEG


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec and how it is used here. `tag` is what Apple's players look for; `odd` is the format of odd sizes."""

    encoder: str
    crf: int
    most: int = 51
    odd: str = "yuv444p"
    tag: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


CODECS = {
    "h264": Codec(encoder="libx264", crf=18),
    "h265": Codec(encoder="libx265", crf=20, tag="hvc1", options={"x265-params": "log-level=error"}),
    "av1": Codec(encoder="libsvtav1", crf=24, most=63, odd="yuv420p", options={"preset": "6"}),
    "vp9": Codec(
        encoder="libvpx-vp9", crf=20, most=63, odd="yuv420p", options={"b": "0", "row-mt": "1", "cpu-used": "2"}),
}  # fmt: skip
CONTAINERS = {".mp4": ("h264", "h265", "av1"), ".webm": ("vp9", "av1")}


def check_movie(extension: str, encoding: Encoding) -> Codec:
    """The codec for that container, found to be installed.

    Raises:
        UsageError: the container does not hold it, a value is out of range, or it is not installed.
    """
    accepted = CONTAINERS[extension]
    name = encoding.codec or accepted[0]
    if name not in accepted:
        raise unknown(f"codec for {extension}", name, accepted)
    codec = CODECS[name]
    if encoding.crf is not None and not 0 <= encoding.crf <= codec.most:
        raise UsageError(f"the crf of {name} is 0 to {codec.most}; got {encoding.crf}")
    if encoding.bitrate is not None and encoding.bitrate < 1000:
        raise UsageError(f"the bitrate is at least 1000 bits a second; got {encoding.bitrate}")
    av = library(extension)
    try:
        av.codec.Codec(codec.encoder, "w")
    except av.codec.codec.UnknownCodecError as error:
        others = ", ".join(other for other in accepted if other != name)
        raise UsageError(
            f"the encoder {codec.encoder} is not in this build of PyAV; try --codec {others}, or .gif, .webp, .apng"
        ) from error
    return codec


def library(extension: str) -> Any:
    """PyAV. Raises UsageError with what to do where it is not installed."""
    # Read by SVT-AV1 when it starts; at its own level it prints thirty lines a clip.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        import av
    except ImportError as error:
        raise UsageError(
            f"{extension} needs the package av; run: pip install 'diffgen[video]'; "
            f"without it clips are written as .gif, .webp, .apng, .npz or a folder of PNG files"
        ) from error
    return av


class MovieWriter:
    """Implements `diffgen.media.containers.Writer`. `path` is overwritten; it is the temporary name of the file."""

    def __init__(self, path: str, extension: str, shape: Shape, encoding: Encoding) -> None:
        self.path, self.extension, self.shape = path, extension, shape
        self.codec, self.encoding = check_movie(extension, encoding), encoding
        self.av = library(extension)
        self.count = 0
        self.waiting: BinaryIO = tempfile.TemporaryFile(dir=os.path.dirname(path) or ".")  # noqa: SIM115 - see close
        self.encoded = self.av.open(self.waiting, "w", format="mp4")
        odd = shape.width % 2 or shape.height % 2
        self.pixel_format = self.codec.odd if odd else "yuv420p"
        self.stream = self._stream(self.encoded)

    def add(self, pixels: np.ndarray) -> None:
        frame = self.av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format=self.pixel_format, dst_colorspace=BT709, dst_color_range=LIMITED
        )
        frame.pts, frame.time_base, frame.duration = self.count, 1 / self.shape.fps, 1
        self.count += 1
        self._encode(frame)

    def finish(self, recipe: Recipe | None, sound: Sound | None) -> tuple[str, ...]:
        from diffgen.media.sound import SoundTrack

        self._encode(None)
        self.encoded.close()
        self.waiting.seek(0)
        length = self.count / self.shape.fps
        with self.av.open(self.waiting) as source, self._container(recipe) as out:
            video = self._copied(out, source.streams.video[0])
            track = SoundTrack(self.av, out, self.extension, sound, length) if sound else None
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = video
                    out.mux(packet)
            if track:
                track.copy()
        odd = self.pixel_format == "yuv444p"
        size = f"{self.shape.width}x{self.shape.height}"
        advice = f"{size} is odd, so colour is stored at full resolution (4:4:4), which some devices cannot play; "
        notes = (advice + "even sizes and .webm play everywhere",) if odd else ()
        return (*notes, *(track.notes if track else ()))

    def close(self) -> None:
        try:
            self.encoded.close()
        except Exception as error:
            # Closing writes an index; after a failure that fails again, and the first error is the one to tell.
            del error
        self.waiting.close()

    def _stream(self, container: Any) -> Any:
        encoding, options = self.encoding, dict(self.codec.options)
        if encoding.bitrate is None:
            options["crf"] = str(self.codec.crf if encoding.crf is None else encoding.crf)
        else:
            options.pop("b", None)
        stream = container.add_stream(self.codec.encoder, rate=self.shape.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = self.shape.width, self.shape.height, self.pixel_format
        if encoding.bitrate is not None:
            stream.bit_rate = encoding.bitrate
        context = stream.codec_context
        context.time_base = 1 / self.shape.fps
        if self.codec.tag:
            context.codec_tag = self.codec.tag
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        return stream

    def _copied(self, out: Any, source: Any) -> Any:
        """The stream of `out` that packets of `source` go to."""
        if self.extension == ".mp4":
            video = out.add_stream_from_template(source, opaque=True)
            if self.codec.tag:
                video.codec_context.codec_tag = self.codec.tag
            return video
        # Matroska stores the rate apart from the times, and a copied stream does not carry it. The same encoder
        # with the same settings describes VP9 and AV1 in the same bytes.
        return self._stream(out)

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self.stream.encode(frame):
                self.encoded.mux(packet)
        except self.av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno and 0 < error.errno < 200:
                raise  # the disk's own error, which the caller puts into words
            size = f"{self.shape.width}x{self.shape.height}"
            reason = error.strerror or error
            raise DiffgenError(f"{self.codec.encoder} cannot encode frames of {size}: {reason}") from error

    def _container(self, recipe: Recipe | None) -> Any:
        options = {"movflags": "+faststart"} if self.extension == ".mp4" else {}
        out = self.av.open(self.path, "w", format=self.extension[1:], options=options)
        if recipe:
            # The two keys that MP4, Matroska and the tools around them all know.
            out.metadata.update(comment=recipe.to_json(), description=recipe.to_parameters())
        return out
