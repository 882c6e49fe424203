import pytest

from latentdebias.errors import UserError
from latentdebias.training.deepspeed_options import BUCKET_SIZE, check_compiled, check_version, reduce_bucket_size
from latentdebias.training.engine import check_deepspeed_options


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"gradient_cliping": 1.0}, "Unknown key 'deepspeed.gradient_cliping'"),
        ({"zero_optimisation": {}}, "Did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stge": 1}}, "Did you mean 'stage'"),
        ({"zero_optimization": {"stage": 4}}, "Bad value 4"),
        ({"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, "Did you mean 'device'"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "'cpu' or 'none'"),
        ({"comms_logger": {"enbled": True}}, "Did you mean 'enabled'"),
        ({"activation_checkpointing": {"cpu_checkpointing": True}}, "training.activation_checkpointing"),
        ({"zero_allow_untested_optimizer": False}, "use optimizer instead"),
        ({"scheduler": {"type": "WarmupLR"}}, "lr_schedule"),
        ({"steps_per_print": "often"}, "Bad value 'often'"),
        ({"zero_optimization": 2}, "must be a mapping"),
        ({"train_batch_size": 8}, "training.batch_size"),
        ({"bf16": {"enabled": True}}, "training.precision"),
    ],
)
def test_mistakes_and_owned_options_are_refused_by_name(raw, words):
    with pytest.raises(UserError) as error:
        check_deepspeed_options(raw)
    assert words in str(error.value)


def test_deepspeeds_own_options_pass():
    check_deepspeed_options(
        {
            "zero_optimization": {"stage": 2, "overlap_comm": True, "offload_optimizer": {"device": "cpu"}},
            "wall_clock_breakdown": False,
        }
    )


@pytest.mark.parametrize("version", ["0.17.6", "0.18.2"])
def test_versions_with_wrong_gradients_are_refused_by_name(version):
    with pytest.raises(UserError, match=rf"DeepSpeed {version} .*0\.18\.3 or newer.*pip install"):
        check_version(version)


@pytest.mark.parametrize("version", ["0.18.3", "0.18.10", "0.19.8"])
def test_later_versions_pass(version):
    check_version(version)


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_overlapped_reduction_of_compiled_blocks_is_refused_where_it_gives_nan(zero_stage):
    raw = {"zero_optimization": {"stage": zero_stage, "overlap_comm": True}}
    with pytest.raises(UserError, match="overlap_comm=false"):
        check_compiled(raw, "0.19.2")
    check_compiled(raw, "0.19.3")


@pytest.mark.parametrize(
    "zero", [{"stage": 2}, {"stage": 2, "overlap_comm": False}, {"stage": 3, "overlap_comm": True}]
)
def test_other_compiled_runs_pass(zero):
    check_compiled({"zero_optimization": zero}, "0.18.3")


def test_buckets_are_no_larger_than_the_network():
    assert reduce_bucket_size({}, 1000) == 1000
    assert reduce_bucket_size({}, 10 * BUCKET_SIZE) == BUCKET_SIZE
    assert reduce_bucket_size({"zero_optimization": {"reduce_bucket_size": 10}}, 1000) == 10
