"""Every format is read as the same arrays; a file that is not what it says is refused with its reason."""

import gzip
import io
import os
import pickle
import struct

import numpy as np
import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.large_batch.images.image_files import IDX_STEMS, LAYOUTS, ImageData, ImageSet, load_images, read_pickle


def make_data(*, classes=10, channels=1, size=28, train=30, test=20):
    generator = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % classes
        images = generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
        return ImageSet(images=images, labels=labels)

    return ImageData(train=part(train), test=part(test), classes=classes, format="made")


def assert_same(found, wanted):
    for ours, theirs in ((found.train, wanted.train), (found.test, wanted.test)):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert found.classes == wanted.classes
    assert found.fingerprint() == wanted.fingerprint()


def write_npz(path, data, keys=("x_train", "y_train", "x_test", "y_test")):
    arrays = (data.train.images[:, 0], data.train.labels, data.test.images[:, 0], data.test.labels)
    np.savez_compressed(path, **dict(zip(keys, arrays, strict=True)))


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, data, *, compress):
    arrays = (data.train.images[:, 0], data.train.labels, data.test.images[:, 0], data.test.labels)
    for stem, array in zip(IDX_STEMS, arrays, strict=True):
        raw = idx_bytes(array)
        (folder / (stem + ".gz" * compress)).write_bytes(gzip.compress(raw) if compress else raw)


def write_cifar(folder, data, layout):
    """As published: rows of red, green, blue; training images shared out over the batches."""
    parts = np.array_split(np.arange(len(data.train)), len(layout.train))
    sets = [(name, data.train, rows) for name, rows in zip(layout.train, parts, strict=True)]
    for name, part, rows in [*sets, (layout.test, data.test, np.arange(len(data.test)))]:
        pixels, labels = part.images[rows].reshape(len(rows), -1), part.labels[rows]
        if layout.label_bytes:
            before = np.zeros((len(rows), layout.label_bytes), np.uint8)
            before[:, -1] = labels
            np.concatenate([before, pixels], axis=1).tofile(folder / name)
        else:
            batch = {b"data": pixels, layout.label_key: labels.tolist(), b"batch_label": b"one"}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")]
)
def test_npz(tmp_path, keys):
    data = make_data()
    write_npz(tmp_path / "mnist.npz", data, keys)
    assert_same(load_images(tmp_path / "mnist.npz"), data)


def test_npz_with_channels_last(tmp_path):
    data = make_data(channels=3, size=32)
    np.savez(
        tmp_path / "a.npz",
        x_train=data.train.images.transpose(0, 2, 3, 1),
        y_train=data.train.labels[:, None],
        x_test=data.test.images.transpose(0, 2, 3, 1),
        y_test=data.test.labels[:, None],
    )
    assert_same(load_images(tmp_path / "a.npz"), data)


@pytest.mark.parametrize("compress", [False, True])
def test_idx(tmp_path, compress):
    data = make_data()
    write_idx(tmp_path, data, compress=compress)
    assert_same(load_images(tmp_path), data)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.format)
def test_cifar(tmp_path, layout):
    data = make_data(classes=layout.classes, channels=3, size=32, train=layout.classes + 5)
    folder = tmp_path / "cifar-10-batches-py"  # as the archive unpacks: the folder above may be named, too
    folder.mkdir()
    write_cifar(folder, data, layout)
    assert_same(load_images(tmp_path), data)
    assert_same(load_images(folder), data)


def test_folders_of_classes(tmp_path):
    from PIL import Image

    data = make_data(classes=2, channels=3, size=6, train=4, test=4)
    for split, part in (("train", data.train), ("val", data.test)):
        for i, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = tmp_path / split / "ab"[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i}.png")
    found = load_images(tmp_path)
    order = np.argsort(data.train.labels, kind="stable")
    np.testing.assert_array_equal(found.train.images, data.train.images[order])
    np.testing.assert_array_equal(found.train.labels, data.train.labels[order])
    Image.new("RGB", (7, 6)).save(tmp_path / "train" / "b" / "z.png")
    with pytest.raises(DataError, match=r"1 of 5 images are of another size than the first, 6 x 6: .*z.png: 7 x 6"):
        load_images(tmp_path)


def write_parquet(folder, data, *, image="image", label="label"):
    """As image data sets of Hugging Face lie: PNG bytes in a struct, training rows in two files."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def coded(pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    half = len(data.train) // 2
    splits = [
        ("train-0", data.train, slice(half)),
        ("train-1", data.train, slice(half, None)),
        ("test", data.test, slice(None)),
    ]
    for name, part, rows in splits:
        table = {image: [coded(i) for i in part.images[rows]], label: pa.array(part.labels[rows])}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")


def test_parquet(tmp_path):
    data = make_data(classes=3, channels=3, size=6)
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data", data, image="img", label="fine_label")
    assert_same(load_images(tmp_path), data)


def test_arrow_as_save_to_disk_writes_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = make_data(classes=3, channels=3, size=6)
    write_parquet(tmp_path, data)
    for file in sorted(tmp_path.glob("*.parquet")):
        table, split = pq.read_table(file), tmp_path / "saved" / file.stem.split("-")[0]
        split.mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_stream(split / f"{file.stem}.arrow", table.schema) as stream:
            stream.write_table(table)
    assert_same(load_images(tmp_path / "saved"), data)
    next((tmp_path / "saved" / "test").iterdir()).write_bytes(b"cut")
    with pytest.raises(DataError, match="not a readable Arrow file"):
        load_images(tmp_path / "saved")


def test_parquet_that_is_incomplete_names_the_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = make_data(classes=3, channels=3, size=6)
    write_parquet(tmp_path, data)
    file = tmp_path / "train-1.parquet"
    whole = pq.read_table(file)

    def with_column(name, values, said):
        pq.write_table(whole.set_column(whole.column_names.index(name), name, values), file)
        with pytest.raises(DataError, match=said):
            load_images(tmp_path)

    labels, images = whole["label"].to_pylist(), whole["image"].to_pylist()
    with_column("label", pa.array([*labels[:-1], None]), rf"row {len(labels) - 1} has no label \(1 of {len(labels)}")
    for row in (1, 2):
        images[row] = {"bytes": images[row]["bytes"][:40], "path": None}
    said = rf"2 of {len(data.train)} images cannot be read: .*train-1.parquet: row 1: not a .*row 2.*was trained"
    with_column("image", pa.array(images), said)
    pq.write_table(whole.rename_columns(["image", "class"]), file)
    with pytest.raises(DataError, match="none is called label or labels or fine_label"):
        load_images(tmp_path)
    (tmp_path / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"no test\*\.parquet"):
        load_images(tmp_path)


def test_grey_folders_have_one_channel(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in "01":
            (tmp_path / split / label).mkdir(parents=True)
            Image.fromarray(np.full((4, 4), 60 * int(label) + 9, np.uint8)).save(tmp_path / split / label / "0.png")
    assert load_images(tmp_path).shape == (1, 4, 4)


class Runs:
    """What an attacker's pickle would do."""

    def __reduce__(self):
        return os.system, ("touch /tmp/distillaw-was-here",)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    file = tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({b"data": Runs()}, protocol=2))
    with pytest.raises(DataError, match=r"names posix\.system"):
        read_pickle(file)
    assert not os.path.exists("/tmp/distillaw-was-here")
    for code in (b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR.", b"cnumpy\nndarray.dump\n."):
        file.write_bytes(code)
        with pytest.raises(DataError, match="which no batch of images needs"):
            read_pickle(file)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_pickled_by_any_numpy_are_read(tmp_path, protocol):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = pickle.dumps(array, protocol=protocol)
    old = raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if protocol < 4 else raw
    for text in (raw, old):
        (tmp_path / "p").write_bytes(text)
        np.testing.assert_array_equal(read_pickle(tmp_path / "p"), array)


def damaged_npz(folder):
    buffer = io.BytesIO()
    np.savez(buffer, x_train=np.zeros((2, 4, 4), np.uint8))
    (folder / "a.npz").write_bytes(buffer.getvalue()[:80])
    return folder / "a.npz"


def test_npz_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_images(damaged_npz(tmp_path))
    np.savez(tmp_path / "b.npz", weights=np.zeros(3))
    with pytest.raises(DataError, match="holds weights; expected x_train"):
        load_images(tmp_path / "b.npz")
    np.save(tmp_path / "d.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match="holds no archive"):
        load_images(tmp_path / "d.npy")
    np.savez(
        tmp_path / "c.npz", **{key: np.array([{}], dtype=object) for key in ("x_train", "y_train", "x_test", "y_test")}
    )
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_images(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"\x00\x00\x0d" + raw[3:], "begins with 00000d03"),
        (lambda raw: raw[:-1], "truncated or damaged"),
        (lambda raw: raw[:6], "truncated or damaged"),
        (lambda raw: raw + b"x", "truncated or damaged"),
    ],
)
def test_idx_files_that_are_damaged(tmp_path, change, message):
    write_idx(tmp_path, make_data(), compress=False)
    file = tmp_path / IDX_STEMS[0]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=message):
        load_images(tmp_path)


def test_an_idx_file_is_missing(tmp_path):
    write_idx(tmp_path, make_data(), compress=True)
    (tmp_path / (IDX_STEMS[3] + ".gz")).unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        load_images(tmp_path)


def test_cifar_that_is_damaged(tmp_path):
    data = make_data(channels=3, size=32)
    pickles, binary = LAYOUTS[:2]
    write_cifar(tmp_path, data, binary)
    file = tmp_path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a multiple of 3073"):
        load_images(tmp_path)
    write_cifar(tmp_path, data, pickles)
    (tmp_path / "data_batch_3").write_bytes((tmp_path / "data_batch_3").read_bytes()[:500])
    with pytest.raises(DataError, match="data_batch_3: not a readable pickle"):
        load_images(tmp_path)
    whole = {b"data": np.zeros((6, 3072), np.uint8)}
    for labels, said in (
        ([1, None, 2, None, 3, 4], "data_batch_3: 2 labels are no whole numbers, the first that of image 1"),
        ([1, 2, 3, 4], "data_batch_3: 6 images and 4 labels"),
    ):
        (tmp_path / "data_batch_3").write_bytes(pickle.dumps(whole | {b"labels": labels}, protocol=2))
        with pytest.raises(DataError, match=said):
            load_images(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 missing"):
        load_images(tmp_path)


def test_labels_out_of_range(tmp_path):
    data = make_data(channels=3, size=32)
    data.train.labels[4] = 11
    write_cifar(tmp_path, data, LAYOUTS[1])
    with pytest.raises(DataError, match="training labels from 0 to 11"):
        load_images(tmp_path)
    data = make_data()
    data.train.labels[data.train.labels == 3] = 4
    write_npz(tmp_path / "a.npz", data)
    with pytest.raises(DataError, match="no training image of class 3"):
        load_images(tmp_path / "a.npz")
    data = make_data()
    data.test.labels[0] = 12
    write_npz(tmp_path / "b.npz", data)
    with pytest.raises(DataError, match="test labels from 0 to 12"):
        load_images(tmp_path / "b.npz")


def test_images_that_teach_nothing(tmp_path):
    data = make_data()
    data.train.images[:] = 7
    write_npz(tmp_path / "a.npz", data)
    with pytest.raises(DataError, match="every training pixel is 7"):
        load_images(tmp_path / "a.npz")


def test_counts_and_types_that_do_not_fit(tmp_path):
    data = make_data()
    arrays = {
        "x_train": data.train.images[:, 0],
        "y_train": data.train.labels[:-1],
        "x_test": data.test.images[:, 0],
        "y_test": data.test.labels,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="30 images and 29 labels"):
        load_images(tmp_path / "a.npz")
    arrays |= {"y_train": data.train.labels, "x_train": data.train.images[:, 0] / 255}
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(DataError, match="type float64"):
        load_images(tmp_path / "b.npz")


def test_nothing_known_is_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no known format"):
        load_images(tmp_path)


def test_the_first_images_only():
    data = make_data()
    assert len(data.first(12).train) == 12 and data.first(0) is data
    with pytest.raises(ConfigError, match="the data have 30"):
        data.first(31)
    with pytest.raises(DataError, match="no training image of class 5 and 4 more"):
        data.first(5)


def test_the_shared_mnist(shared_data):
    found = load_images(shared_data / "images" / "mnist" / "mnist.npz")
    assert (len(found.train), len(found.test), found.shape, found.classes) == (60_000, 10_000, (1, 28, 28), 10)
    values, counts = np.unique(found.train.images, return_counts=True)
    mean = np.average(values / 255, weights=counts)
    std = np.average((values / 255 - mean) ** 2, weights=counts) ** 0.5
    assert (round(mean, 4), round(std, 4)) == (0.1307, 0.3081)  # the well-known ones
