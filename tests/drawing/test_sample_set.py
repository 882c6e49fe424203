import json
import zipfile

import numpy as np
import pytest
import torch
import webdataset
from draw_options import draw_options
from PIL import Image

from latentdebias.drawing import sample_set
from latentdebias.drawing.image_sampler import labels_at_random, labels_in_turn
from latentdebias.drawing.sample_formats import SAMPLE_FORMATS, AdmNpz, PngFolder, WebDatasetShards
from latentdebias.drawing.sample_set import SampleSet, remove_sample_set
from latentdebias.errors import UserError
from latentdebias.files import wait_for_lock
from latentdebias.sampling.latent_sampler import image_generator

COUNT, SIZE, CLASSES = 22, 4, 3
LABELS = labels_in_turn(list(range(CLASSES)), COUNT)
ALL_FORMATS = (PngFolder(), WebDatasetShards(samples_per_shard=9), AdmNpz())


class Killed(BaseException):
    """What no handler of errors catches."""


class NoiseSampler:
    """Draws noise of (seed, index) in place of images; `after` batches it is killed."""

    def __init__(self, after=None):
        self.after, self.drawn = after, []

    def draw(self, labels, options, batches):
        for number in batches:
            if len(self.drawn) == self.after:
                raise Killed
            self.drawn.append(number)
            indices = range(number * options.batch_size, min((number + 1) * options.batch_size, len(labels)))
            yield torch.stack([self.image(options.seed, index) for index in indices])

    @staticmethod
    def image(seed, index):
        return torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=image_generator(seed, index))


def sample_set_in(out, formats=ALL_FORMATS, labels=LABELS, names=("ant", "bee", "cat"), **options):
    drawing = draw_options(**{"batch_size": 5, "seed": 1, **options})
    record = {"model": str(out), "seed": drawing.seed, "steps": drawing.steps, "count": len(labels)}
    return SampleSet(out, labels, drawing, formats, record, names)


def make(out, ranks=1, **changes):
    """Let `ranks` processes draw, one after the other; what `finish` said to each."""
    said = []
    for rank in range(ranks):
        samples = sample_set_in(out, **changes)
        samples.begin()
        samples.draw(NoiseSampler(), rank, ranks)
        said.append(samples.finish(SIZE))
    return said


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_record(files):
    return {name: data for name, data in files.items() if name != "sampling.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    make(out)
    return without_record(contents(out))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_any_number_of_ranks_makes_the_same_bytes_and_the_last_one_finishes(tmp_path, whole, ranks):
    said = make(tmp_path, ranks)
    assert said[: min(ranks, 5) - 1] == [False] * (min(ranks, 5) - 1)
    assert said[-1]
    assert without_record(contents(tmp_path)) == whole


def test_a_killed_set_is_resumed_without_drawing_again_and_has_the_same_bytes(tmp_path, whole):
    samples, first, second = sample_set_in(tmp_path), NoiseSampler(after=3), NoiseSampler()
    samples.begin()
    with pytest.raises(Killed):
        samples.draw(first)
    assert not samples.finish(SIZE)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["blocks"]
    make_left_over = tmp_path / "blocks" / "block-000003.tar.host-1.tmp"
    make_left_over.write_bytes(b"half")
    samples.begin()
    samples.draw(second)
    assert samples.finish(SIZE)
    assert sorted(first.drawn + second.drawn) == list(range(5))
    assert without_record(contents(tmp_path)) == whole


def test_a_kill_while_the_outputs_are_written_costs_no_drawing(tmp_path, whole, monkeypatch):
    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(sample_set, "save_grid", killed)
    with pytest.raises(Killed):
        make(tmp_path)
    monkeypatch.undo()
    sampler, samples = NoiseSampler(), sample_set_in(tmp_path)
    samples.draw(sampler)
    assert samples.finish(SIZE)
    assert sampler.drawn == []
    assert without_record(contents(tmp_path)) == whole


def test_a_finished_set_is_left_as_it_is(tmp_path):
    make(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make(tmp_path) == [True]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_in_the_same_folder_are_refused_field_by_field(tmp_path, finished):
    if finished:
        make(tmp_path)
    else:
        sample_set_in(tmp_path).begin()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"seed was 1 and is now 2; steps was 50 and is now 20\. Pass another --out"):
        sample_set_in(tmp_path, seed=2, steps=20).begin()
    assert contents(tmp_path) == before


def test_a_set_is_removed_whole_and_nothing_else_with_it(tmp_path):
    make(tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    remove_sample_set(tmp_path)
    assert list(contents(tmp_path)) == ["evaluation.json"]


@pytest.mark.parametrize("name", ["images", "webdataset", "samples.npz", "grid.png", "blocks"])
def test_files_without_a_record_are_foreign(tmp_path, name):
    (tmp_path / name).mkdir()
    for touch in (sample_set_in(tmp_path).begin, lambda: remove_sample_set(tmp_path)):
        with pytest.raises(UserError, match="choose another --out"):
            touch()
    assert (tmp_path / name).is_dir()


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "sampling.json").write_text("{")
    with pytest.raises(UserError, match=r"sampling\.json is damaged"):
        sample_set_in(tmp_path).begin()


def test_a_lock_held_by_another_process_leaves_the_outputs_to_it(tmp_path):
    samples = sample_set_in(tmp_path)
    samples.begin()
    samples.draw(NoiseSampler())
    with wait_for_lock(tmp_path / "sampling.json"):
        assert not samples.finish(SIZE)
    assert samples.finish(SIZE)


def test_every_format_holds_the_same_pixels_and_labels(tmp_path):
    make(tmp_path)
    expected = np.stack([NoiseSampler.image(1, index).permute(1, 2, 0).numpy() for index in range(COUNT)])
    npz = np.load(tmp_path / "samples.npz", allow_pickle=False)
    assert np.array_equal(npz["arr_0"], expected)
    assert npz["arr_0"].dtype == np.uint8
    assert npz["arr_1"].tolist() == LABELS.tolist()
    for index, label in enumerate(LABELS.tolist()):
        png = Image.open(tmp_path / "images" / f"{label:04d}" / f"{index:06d}.png")
        assert np.array_equal(np.asarray(png), expected[index])
    tars = [str(path) for path in sorted((tmp_path / "webdataset").iterdir())]
    assert len(tars) == 3
    read = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls"))
    assert [key for key, _, _ in read] == [f"{index:06d}" for index in range(COUNT)]
    assert [label for _, _, label in read] == LABELS.tolist()
    assert np.array_equal(np.stack([pixels for _, pixels, _ in read]), expected)


def test_the_npz_is_what_numpy_would_write_images_first(tmp_path):
    make(tmp_path, formats=(AdmNpz(),))
    arrays = dict(np.load(tmp_path / "samples.npz"))
    np.savez(tmp_path / "numpy.npz", **arrays)
    ours, numpys = (zipfile.ZipFile(tmp_path / name) for name in ("samples.npz", "numpy.npz"))
    assert ours.namelist() == numpys.namelist() == ["arr_0.npy", "arr_1.npy"]
    for name in ours.namelist():
        assert ours.read(name) == numpys.read(name)
        assert ours.getinfo(name).compress_type == zipfile.ZIP_STORED


class Counting:
    """Images that are made as they are asked for, and counted while they are held."""

    def __init__(self):
        self.held = self.most = 0

    def __iter__(self):
        for _ in range(COUNT):
            yield _Held(self)


class _Held:
    label, index = 0, 0

    def __init__(self, counter):
        self.counter = counter
        counter.held += 1
        counter.most = max(counter.most, counter.held)

    def __del__(self):
        self.counter.held -= 1

    def pixels(self):
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    @property
    def png(self):
        return b""


@pytest.mark.parametrize("name", SAMPLE_FORMATS.names())
def test_a_format_never_holds_more_than_two_images(tmp_path, name):
    images = Counting()
    written = SAMPLE_FORMATS.build(name)
    written.write(tmp_path / written.output, images, LABELS.numpy(), SIZE)
    assert images.most <= 2


def test_only_the_formats_asked_for_are_written(tmp_path):
    make(tmp_path, formats=(AdmNpz(),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "samples.npz", "sampling.json"]


def test_the_grid_has_a_row_a_class_beside_its_name(tmp_path):
    make(tmp_path / "named")
    make(tmp_path / "plain", labels=torch.zeros(COUNT, dtype=torch.long), names=())
    tile = 96 + 2
    named, plain = (np.asarray(Image.open(tmp_path / name / "grid.png")) for name in ("named", "plain"))
    assert plain.shape == (3 * tile + 2, 8 * tile + 2, 3)
    assert named.shape[0] == 3 * tile + 2
    strip = named.shape[1] - 8 * tile - 2
    assert 0 < strip < tile
    for row in range(3):
        assert (named[row * tile : (row + 1) * tile, :strip] < 128).any()
        shown = named[row * tile + 2, strip + 2]
        assert shown.tolist() == NoiseSampler.image(1, row)[:, 0, 0].tolist()


def test_random_labels_are_uniform_and_a_function_of_seed_and_index():
    labels = labels_at_random([2, 5, 9], 3000, seed=4)
    assert torch.equal(labels[:100], labels_at_random([2, 5, 9], 100, seed=4))
    assert not torch.equal(labels, labels_at_random([2, 5, 9], 3000, seed=5))
    counts = torch.bincount(labels, minlength=10)
    assert counts.nonzero().flatten().tolist() == [2, 5, 9]
    chi_squared = float(((counts[[2, 5, 9]] - 1000.0) ** 2 / 1000).sum())
    assert chi_squared < 13.8  # 0.1% of uniform draws exceed it


def test_the_record_says_how_it_was_drawn(tmp_path):
    make(tmp_path)
    assert json.loads((tmp_path / "sampling.json").read_text())["seed"] == 1
