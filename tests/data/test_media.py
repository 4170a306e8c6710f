"""Pictures and videos: the right frames, whatever the container and decoder; broken files say what is wrong."""

import importlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spatialprior.data.media import (
    BadMediaError,
    MediaPathError,
    find_media,
    read_image,
    read_video_frames,
)
from spatialprior.data.media import images as images_module
from spatialprior.data.media import video as video_module
from spatialprior.data.media.frame_times import TIME_MARGIN, frame_times
from spatialprior.data.media.paths import media_key

UNEVEN = np.random.default_rng(0).integers(5, 200, 60).cumsum().tolist()
CONTAINERS = {
    "plain.mp4": {},
    "b_frames.mkv": {"g": "12", "bf": "3"},
    "uneven.mp4": {"milliseconds": UNEVEN, "bf": "2"},
    "uneven.mkv": {"milliseconds": UNEVEN, "g": "7"},
    "old.avi": {"codec": "mpeg4"},
    "web.webm": {"codec": "libvpx"},
    "broadcast.ts": {"g": "10", "bf": "2"},
    "turned.mp4": {"rotation": 90},
}


def torchcodec_works():
    try:
        importlib.import_module("spatialprior.data.media.torchcodec_backend")
    except (ImportError, RuntimeError, OSError):
        return False
    return True


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video):
    class Videos(dict):
        def __missing__(self, name):
            self[name] = make_video(tmp_path_factory.mktemp("videos") / name, **CONTAINERS[name])
            return self[name]

    return Videos()


# --- videos -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CONTAINERS if not name.startswith("turned")])
@pytest.mark.parametrize("count", [1, 2, 7, 60, 200])
def test_frames_are_those_shown_at_even_times(videos, shown_number, name, count):
    starts = np.array(UNEVEN if name.startswith("uneven") else range(0, 6000, 100))
    moments = starts[0] + np.arange(count) * (starts[-1] - starts[0]) / max(count - 1, 1)
    wanted = np.unique(np.searchsorted(starts, moments + 0.05, side="right") - 1).tolist()
    found = read_video_frames(videos[name], count, backend="pyav")
    assert [shown_number(view) for view in found.views] == wanted
    assert np.allclose(found.times, (starts[wanted] - starts[0]) / 1000, atol=2e-3)


@pytest.mark.skipif(not torchcodec_works(), reason="torchcodec finds no FFmpeg libraries here")
@pytest.mark.parametrize("name", list(CONTAINERS))
def test_both_backends_give_the_same_frames(videos, name):
    ours = read_video_frames(videos[name], 9, backend="pyav")
    theirs = read_video_frames(videos[name], 9)  # torchcodec, and PyAV where that cannot seek
    assert np.allclose(ours.times, theirs.times)
    for a, b in zip(ours.views, theirs.views, strict=True):
        assert (
            a.int() - b.int()
        ).abs().max() <= 2  # two builds of FFmpeg may round colours differently


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(2, 128), st.sampled_from([10, 24, 25, 29.97, 30, 60]))
def test_evenly_spread_frames_are_those_of_llava_video(length, count, rate):
    """At an even rate: the whole part of k (n - 1) / (count - 1), as its training code's ``linspace`` has it.

    (That rounds down one too far where k (n - 1) / (count - 1) is whole and its floats fall short of it.)
    """
    starts = np.arange(length) / rate
    ours = np.searchsorted(starts, frame_times(0.0, starts[-1], count) + TIME_MARGIN, "right") - 1
    assert ours.tolist() == [k * (length - 1) // (count - 1) for k in range(count)]
    theirs = np.linspace(0, length - 1, count, dtype=int)
    assert ((ours - theirs) <= (np.arange(count) * (length - 1) % (count - 1) == 0)).all()
    assert (ours >= theirs).all()


def test_a_rate_takes_frames_until_there_are_too_many(videos, shown_number):
    take = lambda **how: [  # noqa: E731
        shown_number(view)
        for view in read_video_frames(videos["plain.mp4"], backend="pyav", **how).views
    ]
    assert take(count=60, fps=1) == [0, 10, 20, 30, 40, 50]
    assert take(count=60, fps=2.5) == list(range(0, 60, 4))
    assert take(count=3, fps=1) == [0, 29, 59]


def test_turned_video_stands_upright(videos, shown_number):
    turned = read_video_frames(videos["turned.mp4"], 60, backend="pyav").views
    plain = read_video_frames(videos["plain.mp4"], 60, backend="pyav").views
    for a, b in zip(turned, plain, strict=True):
        assert (
            a.int() - torch.rot90(b, 1, (1, 2)).int()
        ).abs().max() <= 40  # lossy, but the same way up


def test_views_are_bounded(videos):
    views = read_video_frames(videos["plain.mp4"], 2, max_side=20).views
    assert {tuple(view.shape) for view in views} == {(3, 20, 20)}
    assert views[0].dtype == torch.uint8


@pytest.mark.parametrize("threads", [1, 2])
def test_decoder_threads_are_pinned(videos, monkeypatch, threads):
    backend = importlib.import_module("spatialprior.data.media.pyav_backend")
    counts, decode = [], backend._decode

    def spy(container, stream, *rest):
        found = decode(container, stream, *rest)
        counts.append(stream.codec_context.thread_count)
        return found

    monkeypatch.setattr(backend, "_decode", spy)
    read_video_frames(videos["plain.mp4"], 9, threads=threads, backend="pyav")
    assert counts == [threads]


@pytest.mark.parametrize("keep", [0, 100, 0.3, 0.8])
@pytest.mark.parametrize("name", ["plain.mp4", "b_frames.mkv", "web.webm"])
def test_cut_off_file_never_gives_wrong_frames(tmp_path, videos, shown_number, name, keep):
    data = videos[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    try:
        found = read_video_frames(path, 6)
    except BadMediaError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert name != "plain.mp4"  # its header tells how much there should be
    assert [shown_number(view) for view in found.views] == [round(10 * t) for t in found.times]


def test_cut_off_mp4_with_its_header_in_front_is_told(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", movflags="faststart")
    import av

    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(path)) as source,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as out,
    ):
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    assert len(read_video_frames(fast, 3).views) == 3
    fast.write_bytes(fast.read_bytes()[: fast.stat().st_size * 2 // 3])
    with pytest.raises(BadMediaError, match=r"cut off: \d+ of 60|cannot be decoded"):
        read_video_frames(fast, 3, backend="pyav")


def test_what_is_no_video_is_told(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("no video")
    Image.new("RGB", (8, 8)).save(tmp_path / "folder.png")
    (tmp_path / "empty").mkdir()
    for name in ("text.mp4", "missing.mp4", "empty"):
        with pytest.raises(BadMediaError, match=name):
            read_video_frames(tmp_path / name, 3)


def test_folder_of_pictures_is_a_video(tmp_path):
    for i in (10, 2, 1, 0):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"c01_{i}.png")
    found = read_video_frames(tmp_path, 3)
    assert [int(view[0, 0, 0]) for view in found.views] == [0, 1, 10]


def test_without_a_backend_one_line_says_what_to_type(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")

    def missing(name):
        raise ImportError(f"No module named {name}")

    video_module.video_backends.cache_clear()
    monkeypatch.setattr(video_module, "_module", missing)
    with pytest.raises(RuntimeError, match=r'pip install "spatialprior\[video\]"') as caught:
        read_video_frames(tmp_path / "a.mp4", 3)
    assert "\n" not in str(caught.value)
    video_module.video_backends.cache_clear()


def test_importing_the_data_package_needs_no_video_library():
    code = (
        "import sys; sys.modules['av'] = sys.modules['torchcodec'] = None;"
        "import spatialprior.data.conversations, spatialprior.data.media"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- pictures -----------------------------------------------------------------------------


def test_picture_is_rgb_upright_and_bounded(tmp_path):
    picture = Image.fromarray(np.arange(40 * 20 * 3, dtype=np.uint8).reshape(40, 20, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # recorded lying on its side
    picture.save(tmp_path / "a.png", exif=exif)
    view = read_image(tmp_path / "a.png")
    assert view.shape == (3, 20, 40) and view.dtype == torch.uint8
    assert torch.equal(
        view, torch.from_numpy(np.rot90(np.asarray(picture), -1).copy()).permute(2, 0, 1)
    )
    assert read_image(tmp_path / "a.png", max_side=10).shape == (3, 5, 10)
    assert read_image(tmp_path / "a.png", max_side=100).shape == (3, 20, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_become_rgb(tmp_path, mode):
    suffix = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        picture = Image.fromarray(np.full((4, 6), 40_000, np.uint16))
    else:
        picture = Image.new("RGB", (6, 4), "white").convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    view = read_image(tmp_path / f"a.{suffix}")
    assert view.shape == (3, 4, 6)
    assert view.float().mean() == pytest.approx(40_000 >> 8 if mode == "I;16" else 255)


def test_broken_pictures_are_told(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "run.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("cut.jpg", "text.png", "missing.png", "run.eps"):
        with pytest.raises(BadMediaError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "big.jpg").write_bytes(buffer.getvalue())
    monkeypatch.setattr(images_module, "MAX_PIXELS", 64 * 63)
    with pytest.raises(BadMediaError, match="64 x 64 pixels"):
        read_image(tmp_path / "big.jpg")


# --- paths --------------------------------------------------------------------------------


def test_only_files_below_the_root_are_found(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "sub").mkdir(parents=True)
    other.mkdir()
    for file in (root / "sub" / "a.png", other / "b.png", tmp_path / "secret.png"):
        file.touch()
    (root / "inside.png").symlink_to(root / "sub" / "a.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "away").symlink_to(other)
    assert find_media("sub/a.png", [root]) == root / "sub" / "a.png"
    assert find_media("sub//./a.png", [root]).exists() and find_media("inside.png", [root]).exists()
    assert find_media("b.png", [root, other]) == other / "b.png"
    outside = [
        "../secret.png",
        "sub/../../secret.png",
        str(tmp_path / "secret.png"),
        "~/x",
        "..",
        "a\0b",
    ]
    for path in [*outside, "C:\\x.png", "..\\secret.png", "out.png", "away/b.png"]:
        with pytest.raises(MediaPathError):
            find_media(path, [root])
    assert find_media("away/b.png", [root], follow_links=True).exists()
    with pytest.raises(BadMediaError, match=r"c\.png: no such file below"):
        find_media("c.png", [root])


@settings(deadline=None)
@given(st.text(alphabet="a./\\~:\0", max_size=12))
def test_no_path_climbs_out(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp() / "root"
    try:
        key = media_key(text)
    except MediaPathError:
        return
    assert os.path.normpath(root / key).startswith(str(root))
    assert media_key(key) == key
