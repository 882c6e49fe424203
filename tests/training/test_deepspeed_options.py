import pytest

from latentdebias.errors import UserError
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
