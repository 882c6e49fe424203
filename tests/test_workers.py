import pytest
from torch.utils.data import DataLoader, Dataset

from latentdebias.errors import UserError
from latentdebias.workers import ErrorsAsValues, raised


class Faulty(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise UserError("number 2 is missing")
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_error_leaves_a_worker_as_it_is(workers):
    loader = DataLoader(ErrorsAsValues(Faulty()), batch_size=None, num_workers=workers)
    seen = []
    with pytest.raises(UserError) as caught:
        seen.extend(raised(loader))
    assert str(caught.value) == "number 2 is missing"
    assert seen == [0, 1]
