import hashlib
import io
import pickle

import pytest
import torch
from random_sets import random_images
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from latentdebias.digits import classifier as digits_classifier
from latentdebias.errors import UserError
from latentdebias.evaluation.extractors import EXTRACTORS
from latentdebias.evaluation.extractors import extractor as extractors

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"


class CreatesAFile:
    """Unpickling it runs code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine, threads that wait for each other take twenty times as long on two small images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def random_inception_state():
    """The state dict of torch-fidelity's architecture as its layers initialise it."""
    source = "torch_fidelity.feature_extractor_inceptionv3"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(f"{source}.load_state_dict_from_url", lambda url, progress: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()


@pytest.fixture(scope="module")
def random_weights(random_inception_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / FILE_NAME
    torch.save(random_inception_state, path)
    return path


@pytest.fixture
def inception(random_weights, monkeypatch):
    sha256 = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256)
    return EXTRACTORS.build({"name": "inception", "weights": str(random_weights)}).load()


def test_missing_inception_weights_name_the_path_the_url_and_the_option(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as error:
        EXTRACTORS.build("inception").load()
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / FILE_NAME) in message
    assert URL_INCEPTION_V3 in message
    assert "--inception-weights PATH" in message


def test_a_given_path_without_a_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        EXTRACTORS.build({"name": "inception", "weights": str(tmp_path / "nowhere.pth")}).load()


def test_inception_weights_come_from_the_hub_cache(random_weights, tmp_path, monkeypatch):
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / FILE_NAME).symlink_to(random_weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sha256 = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256)
    assert EXTRACTORS.build("inception").load().identity == f"inception-v3-compat sha256:{sha256}"


def test_another_file_is_refused_before_it_is_unpickled(tmp_path):
    trace = tmp_path / "code ran"
    weights = tmp_path / FILE_NAME
    weights.write_bytes(pickle.dumps(CreatesAFile(trace)))
    with pytest.raises(UserError, match="not the published Inception weights"):
        EXTRACTORS.build({"name": "inception", "weights": str(weights)}).load()
    assert not trace.exists()


def test_the_refused_file_would_have_run_code(tmp_path):
    """The guard above is needed: unpickling creates the file."""
    trace = tmp_path / "code ran"
    pickle.load(io.BytesIO(pickle.dumps(CreatesAFile(trace)))).close()
    assert trace.exists()


def test_the_expected_hash_is_that_of_the_file_name():
    """torch.hub puts the first eight digits of a file's sha256 into its name."""
    assert URL_INCEPTION_V3.endswith(f"-{extractors.INCEPTION_SHA256[:8]}.pth")
    assert len(extractors.INCEPTION_SHA256) == 64


def test_verified_bytes_are_the_files(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"some weights")
    assert extractors.read_verified(path, hashlib.sha256(b"some weights").hexdigest()) == b"some weights"


def test_inception_features_match_torchmetrics_without_antialiasing(inception, random_weights):
    from torchmetrics.image.fid import NoTrainInceptionV3

    images = random_images(2, size=40)
    found = inception(images)
    assert found.features.shape == (2, inception.num_features) == (2, 2048)
    assert found.logits.shape == (2, 1008)
    assert found.features.dtype == found.logits.dtype == torch.float32
    for layer, mine in (("2048", found.features), ("logits_unbiased", found.logits)):
        peer = NoTrainInceptionV3("peer", [layer], str(random_weights), antialias=False)
        torch.testing.assert_close(peer(images), mine)


def test_spatial_features_are_those_of_the_layer_of_adm(inception):
    """mixed_6/conv of the TensorFlow graph, 7 channels of 17 x 17, channels last."""
    images = random_images(2, size=40)
    network, kept = inception.network, {}
    hook = network.Mixed_6c.register_forward_hook(lambda module, inputs, output: kept.update(before=output))
    found = inception(images).spatial
    hook.remove()
    expected = network.Mixed_6d.branch1x1(kept["before"])[:, :7]
    assert found.shape == (2, 17 * 17 * 7)
    torch.testing.assert_close(found.view(2, 17, 17, 7), expected.permute(0, 2, 3, 1))
    assert not network.Mixed_6d.branch1x1._forward_hooks


def test_pixels_need_no_network():
    extractor = EXTRACTORS.build("pixels").load().to("cpu")
    found = extractor(random_images(3, size=8))
    assert found.features.shape == found.logits.shape == (3, 0)
    assert extractor.device == torch.device("cpu")


def test_inception_is_frozen_and_evaluating(inception):
    assert not inception.network.training
    assert not any(p.requires_grad for p in inception.parameters())


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The digits extractor on weights of its own, so that it is independent of those that ship."""
    path = tmp_path / "classifier.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        digits_classifier.save_classifier(digits_classifier.DigitsClassifier(), path)
    monkeypatch.setattr(digits_classifier, "CLASSIFIER_FILE", path)
    load = digits_classifier.load_classifier
    monkeypatch.setattr(digits_classifier, "load_classifier", lambda: load(path))
    return EXTRACTORS.build("digits").load()


def test_digits_features_are_the_classifiers(digits):
    images = random_images(5, size=32)
    found = digits(images)
    classifier = digits_classifier.load_classifier()
    assert found.features.shape == (5, digits.num_features) == (5, 64)
    torch.testing.assert_close(found.features, classifier.features(images.float() / 255))
    torch.testing.assert_close(found.logits, classifier(images.float() / 255))


def test_digits_identity_holds_the_weights_sha256(digits):
    sha256 = hashlib.sha256(digits_classifier.CLASSIFIER_FILE.read_bytes()).hexdigest()
    assert digits.identity == f"digits sha256:{sha256}"


def test_digits_refuse_other_sizes(digits):
    with pytest.raises(UserError, match="64x64"):
        digits(random_images(2, size=64))


def test_an_unknown_extractor_is_named():
    with pytest.raises(UserError, match="Did you mean 'inception'"):
        EXTRACTORS.build("incepton")
