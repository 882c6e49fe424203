import torch

from latentdebias.devices import default_device, open_device


def test_more_processes_than_gpus_share_them_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [default_device(local_rank) for local_rank in range(5)] == [f"cuda:{i}" for i in (0, 1, 0, 1, 0)]


def test_without_a_gpu_every_process_takes_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device(3) == "cpu"


def test_fp32_is_no_tf32_on_an_opened_device():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert open_device("cpu") == torch.device("cpu")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
