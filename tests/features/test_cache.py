"""The cache of feature maps: what its key says, that nothing damaged comes back, that processes share it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spatialprior.features import cache as cache_module
from spatialprior.features.cache import EntryKey, FeatureCache, media_hash
from spatialprior.features.cached import CachedEncoder
from spatialprior.features.encoder import EncoderConfig, FeatureEncoder, noise_like
from spatialprior.features.maps import FeatureMaps

PLENTY = 10**8


class Blur(FeatureEncoder):
    """One random convolution, with noise drawn from the frame; counts what it does."""

    multiple = 4
    version = "1"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.loads = 0
        self.encoded: list[int] = []

    @property
    def channels(self) -> int:
        return 5

    @property
    def revision(self) -> str:
        return self.version

    def load(self) -> nn.Module:
        self.loads += 1
        torch.manual_seed(self.config.seed)
        return nn.Conv2d(3, 5, 4, 4).to(getattr(torch, self.config.dtype))

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        self.encoded.append(len(pixels))
        noisy = pixels + 0.1 * noise_like(pixels, seeds)
        # One by one, so that a value never depends on the size of the batch.
        kind = next(module.parameters()).dtype
        return torch.cat([module(frame[None].to(kind)) for frame in noisy])


class JointBlur(Blur):
    joint = True

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        maps = super().encode_pixels(module, pixels, seeds)
        return maps + maps.mean(0, keepdim=True)


def frames(count: int = 3, seed: int = 0, size: tuple[int, int] = (24, 32)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, *size), generator=generator, dtype=torch.uint8)


def maps(seed: int = 0, side: int = 3) -> FeatureMaps:
    generator = torch.Generator().manual_seed(seed)
    return FeatureMaps(torch.randn(1, 4, side, side, generator=generator), (0.0, 0.5, 4.0, 3.0))


def key(number: int = 0, **changed: object) -> EntryKey:
    values = {**Blur(EncoderConfig()).settings(), **changed}
    return EntryKey.of(frames(1), (number,), values)


def same_bytes(a: FeatureMaps, b: FeatureMaps) -> bool:
    if a.values.dtype != b.values.dtype or a.values.shape != b.values.shape or a.box != b.box:
        return False
    raw = (m.values.contiguous().reshape(-1).view(torch.uint8) for m in (a, b))
    return torch.equal(*raw)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- round trip ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoder_class", [Blur, JointBlur])
@pytest.mark.parametrize("fit", ["aspect", "crop"])
def test_warm_is_byte_for_byte_cold_and_loads_no_weight(tmp_path, encoder_class, dtype, fit):
    config = EncoderConfig(dtype=dtype, size=(16, 16), fit=fit, pool=(2, 2))
    images, ids = frames(), (0, 4, 9)
    plain = encoder_class(config)(images)
    cold_cache = FeatureCache(tmp_path, PLENTY)
    cold = CachedEncoder(encoder_class(config), cold_cache)(images, ids)
    assert same_bytes(cold, plain) and cold.values.dtype == getattr(torch, dtype)

    class Unloadable(encoder_class):
        def load(self):
            raise AssertionError("a warm call loaded weights")

    # The class is part of the key: this one passes for the other.
    Unloadable.__module__, Unloadable.__qualname__ = (
        encoder_class.__module__,
        encoder_class.__qualname__,
    )
    warm_cache = FeatureCache(tmp_path, PLENTY)
    warm = CachedEncoder(Unloadable(config), warm_cache)(images, ids)
    assert same_bytes(warm, plain)
    entries = 1 if encoder_class.joint else 3
    assert (cold_cache.hits, cold_cache.misses, cold_cache.corrupted) == (0, entries, 0)
    assert (warm_cache.hits, warm_cache.misses, warm_cache.corrupted) == (entries, 0, 0)
    assert cold_cache.bytes_written == warm_cache.bytes_read > warm_cache.bytes_written == 0
    assert sum(path.stat().st_size for path in files(tmp_path)) == cold_cache.bytes_written


def test_a_frame_is_found_in_any_clip_and_encoded_once(tmp_path):
    encoder = Blur(EncoderConfig(size=(16, 16)))
    cached = CachedEncoder(encoder, FeatureCache(tmp_path, PLENTY))
    a, b, c, d = frames(4).unsqueeze(1)
    cached(torch.cat([a, b, a]), (0, 1, 2))
    found = cached(torch.cat([c, b, d, a]), (7, 8, 9, 10))
    assert encoder.encoded == [2, 2]  # a and b, then c and d
    assert same_bytes(found, Blur(encoder.config)(torch.cat([c, b, d, a])))


def test_a_joint_encoder_has_an_entry_a_clip(tmp_path):
    encoder = JointBlur(EncoderConfig(size=(16, 16)))
    cached = CachedEncoder(encoder, FeatureCache(tmp_path, PLENTY))
    cached(frames(), (0, 1, 2))
    cached(frames(), (0, 1, 3))
    cached(frames().flip(0), (0, 1, 2))
    cached(frames(), (0, 1, 2))
    assert encoder.encoded == [3, 3, 3]


def test_the_cache_can_be_off(tmp_path):
    cache = FeatureCache(tmp_path / "never", 0)
    encoder = Blur(EncoderConfig(size=(16, 16)))
    cached = CachedEncoder(encoder, cache)
    cached(frames(), (0, 1, 2))
    assert same_bytes(cached(frames(), (0, 1, 2)), Blur(encoder.config)(frames()))
    cache.put(key(), maps())
    assert cache.get(key()) is None and encoder.encoded == [3, 3]
    assert not (tmp_path / "never").exists()


def test_default_folder_and_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path))
    assert FeatureCache(None, PLENTY).folder == tmp_path / "features"
    with pytest.raises(ValueError, match="max_bytes=-1"):
        FeatureCache(None, -1)
    with pytest.raises(ValueError, match="2 frame ids for 3 frames"):
        CachedEncoder(Blur(EncoderConfig()), FeatureCache(None, PLENTY))(frames(), (0, 1))
    with pytest.raises(TypeError, match="uint8"):
        media_hash(frames().float())
    with pytest.raises(ValueError):
        key(noise=float("nan"))


# --- keys ---------------------------------------------------------------------------------

CHANGES = {
    "revision": "main",
    "weights": "random",
    "dtype": "bfloat16",
    "size": (64, 80),
    "fit": "crop",
    "pool": (2, 2),
    "seed": 1,
}


def test_every_setting_of_every_encoder_is_tried():
    free = {"path", "batch"}  # the revision names the weights; the batch is how, not what
    assert CHANGES.keys() | free == {field.name for field in dataclasses.fields(EncoderConfig)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_the_key(name):
    changed = Blur(dataclasses.replace(EncoderConfig(), **{name: CHANGES[name]})).settings()
    assert (
        EntryKey.of(frames(1), None, changed).name
        != EntryKey.of(frames(1), None, Blur(EncoderConfig()).settings()).name
    )


def test_weights_class_and_frames_change_the_key():
    newer = Blur(EncoderConfig())
    newer.version = "2"
    values = Blur(EncoderConfig()).settings()
    shape = frames(1)
    keys = [
        EntryKey.of(shape, (0,), values),
        EntryKey.of(shape, (1,), values),
        EntryKey.of(shape, None, values),
        EntryKey.of(shape, (0,), newer.settings()),
        EntryKey.of(shape, (0,), JointBlur(EncoderConfig()).settings()),
        EntryKey.of(shape.reshape(1, 3, 32, 24), (0,), values),
        EntryKey.of(shape[0], (0,), values),
        EntryKey.of(shape.flip(-1), (0,), values),
    ]
    assert len({each.name for each in keys}) == len(keys)


@given(place=st.integers(0, 24 * 32 * 3 - 1), change=st.integers(1, 255))
@settings(max_examples=50, deadline=None)
def test_one_pixel_changes_the_key(place, change):
    image = frames(1)
    other = image.clone()
    other.view(-1)[place] += change  # modulo 256
    assert media_hash(image) != media_hash(other)
    other.view(-1)[place] -= change
    assert media_hash(image) == media_hash(other)


plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
)
some_settings = st.dictionaries(
    st.text(), st.one_of(plain_values, st.lists(plain_values, max_size=3)), max_size=4
)


def typed(value: object) -> str:
    return repr(sorted((name, repr(each)) for name, each in value.items()))


@given(
    one=some_settings, two=some_settings, ids=st.lists(st.integers(0, 99), min_size=1, max_size=3)
)
@settings(max_examples=100, deadline=None)
def test_equal_settings_alone_give_equal_keys(one, two, ids):
    image = frames(1, size=(2, 2))
    turned = dict(reversed(list(one.items())))
    strided = image.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert EntryKey.of(image, ids, one) == EntryKey.of(strided, tuple(ids), turned)
    same = EntryKey.of(image, ids, one).name == EntryKey.of(image, ids, two).name
    assert same == (typed(one) == typed(two))


# --- damage -------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_key(path: Path) -> None:
    donor = FeatureCache(path.parent / "donor", PLENTY)
    donor.put(key(99), maps(99))
    os.replace(donor.path(key(99)), path)


def without_metadata(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"values": torch.zeros(1, 5, 4, 4)}))


def no_safetensors(path: Path) -> None:
    path.write_bytes(b"\x80\x04]\x94." * 50)


@pytest.mark.parametrize(
    "damage", [truncated, flipped, empty, of_another_key, without_metadata, no_safetensors]
)
def test_a_damaged_entry_is_made_again_and_counted(tmp_path, damage):
    config = EncoderConfig(size=(16, 16))
    images, ids = frames(), (0, 1, 2)
    expected = CachedEncoder(Blur(config), FeatureCache(tmp_path, PLENTY))(images, ids)
    cache, encoder = FeatureCache(tmp_path, PLENTY), Blur(config)
    entry = cache.path(EntryKey.of(images[1], None, encoder.settings()))
    damage(entry)
    assert same_bytes(CachedEncoder(encoder, cache)(images, ids), expected)
    assert (cache.hits, cache.misses, cache.corrupted) == (2, 1, 1)
    assert encoder.encoded == [1]
    assert same_bytes(CachedEncoder(Blur(config), cache)(images, ids), expected)
    assert (cache.hits, cache.corrupted) == (5, 1)


def test_a_damaged_entry_is_removed(tmp_path):
    cache = FeatureCache(tmp_path, PLENTY)
    cache.put(key(), maps())
    truncated(cache.path(key()))
    assert cache.get(key()) is None and not cache.path(key()).exists()


def test_whichever_byte_is_damaged_nothing_wrong_comes_back(tmp_path):
    cache = FeatureCache(tmp_path, PLENTY)
    cache.put(key(), maps(side=1))
    path = cache.path(key())
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (1, 128):
            bad = bytearray(data)
            bad[place] ^= bit
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bad)
            found = cache.get(key())
            assert found is None or same_bytes(found, maps(side=1)), place
    assert cache.corrupted > 1.9 * len(data)  # all but the padding


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file", PLENTY)
    encoder = Blur(EncoderConfig(size=(16, 16)))
    found = CachedEncoder(encoder, cache)(frames(), (0, 1, 2))
    assert same_bytes(found, Blur(encoder.config)(frames()))
    assert "cannot be kept" in caplog.text and cache.bytes_written == 0


# --- bound --------------------------------------------------------------------------------


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_the_bound_holds_after_every_write_and_the_last_used_stay(tmp_path):
    probe = FeatureCache(tmp_path / "probe", PLENTY)
    probe.put(key(0), maps())
    size = probe.bytes_written
    cache = FeatureCache(tmp_path / "real", 12 * size)
    for number in range(40):
        cache.put(key(number), maps(number))
        written = cache.path(key(number))
        os.utime(written, ns=(number * 10**9, number * 10**9))
        assert used(cache.folder) <= cache.max_bytes
        assert cache.get(key(0)) is not None  # used all the time, and so never the oldest
    present = [number for number in range(40) if cache.path(key(number)).exists()]
    assert present[0] == 0 and present[1:] == list(range(40 - len(present) + 1, 40))
    assert len(present) >= 10
    for number in present:
        assert same_bytes(cache.get(key(number)), maps(number))


def test_two_that_write_at_once_exceed_the_bound_by_their_slack_at_most(tmp_path):
    one, two = FeatureCache(tmp_path, 64_000), FeatureCache(tmp_path, 64_000)
    for number in range(120):
        (one, two)[number % 2].put(key(number), maps(number))
        assert used(tmp_path) <= 64_000 * (1 + 2 / 32) + 2_000
    assert used(tmp_path) > 32_000


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, 1000)
    cache.put(key(), maps(side=30))
    assert cache.get(key()) is None and files(tmp_path) == []


def test_a_reader_survives_eviction_in_the_middle(tmp_path, monkeypatch):
    cache, other = FeatureCache(tmp_path, PLENTY), FeatureCache(tmp_path, 3000)
    cache.put(key(0), maps(0))
    unpack = cache_module._unpack

    def evicted_meanwhile(data, wanted):
        for number in range(1, 9):
            other.put(key(number), maps(number))
        assert not cache.path(key(0)).exists()
        return unpack(data, wanted)

    monkeypatch.setattr(cache_module, "_unpack", evicted_meanwhile)
    assert same_bytes(cache.get(key(0)), maps(0))
    monkeypatch.undo()
    assert cache.get(key(0)) is None
    assert (cache.hits, cache.misses, cache.corrupted) == (1, 1, 0)


def test_eviction_survives_another_process_that_removes_first(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path, 4000)
    for number in range(3):
        cache.put(key(number), maps(number))
    entries = list(cache._entries())
    for _, _, path in entries:
        path.unlink()
    monkeypatch.setattr(cache, "_entries", lambda: iter(entries))
    monkeypatch.setattr(cache, "_room", 0)
    cache.put(key(7), maps(7))
    assert same_bytes(cache.get(key(7)), maps(7))


# --- several processes --------------------------------------------------------------------


def contend(folder: str, worker: int, rounds: int) -> None:
    """Write and read the same three keys as others do, in a cache too small for all of them."""
    torch.set_num_threads(1)
    cache = FeatureCache(Path(folder), 5000)
    for number in range(rounds):
        which = (number + worker) % 3
        cache.put(key(which), maps(which))
        for each in range(3):
            found = cache.get(key(each))
            assert found is None or same_bytes(found, maps(each))
    assert cache.corrupted == 0 and cache.hits > 0


def test_processes_write_and_evict_the_same_keys_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=contend, args=(str(tmp_path), n, 60)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))


STOPPED_WRITER = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("test_cache", {tests!r})
tests = importlib.util.module_from_spec(spec)
sys.modules["test_cache"] = tests
spec.loader.exec_module(tests)

def stop(*args):
    print("stopped", flush=True)
    time.sleep(600)

class HalfWritten:
    # A file that holds on in the middle of its bytes.
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *args): self.file.close()
    def write(self, data):
        self.file.write(data[: len(data) // 2]); self.file.flush(); stop()

where = {where!r}
if where == "write":
    opened = tests.Path.open
    def half(path, mode="r"):
        return HalfWritten(opened(path, mode)) if mode == "xb" else opened(path, mode)
    tests.Path.open = half
else:
    setattr(os, where, stop)
cache = tests.FeatureCache(tests.Path({folder!r}), tests.PLENTY)
cache.put(tests.key(), tests.maps())
"""


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path, where):
    script = STOPPED_WRITER.format(tests=__file__, where=where, folder=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "stopped\n"
        writer.send_signal(signal.SIGKILL)
    (left,) = files(tmp_path)
    assert left.suffix == ".tmp"
    cache = FeatureCache(tmp_path, PLENTY)
    assert cache.get(key()) is None
    cache.put(key(), maps())
    assert same_bytes(cache.get(key()), maps())
    assert cache.corrupted == 0
    assert left.exists()  # it could be a slow writer's
    old = time.time() - 2 * 3600
    os.utime(left, (old, old))
    FeatureCache(tmp_path, PLENTY).put(key(1), maps(1))
    assert not left.exists() and len(files(tmp_path)) == 2
